package violation

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/plan"
)

// adviseOwn explains /proc and /dev: each plugin has its own, and their files
// are not granted one by one. ok is false for any other path.
func adviseOwn(v *Violation, p *plan.Plan) (a advice, ok bool) {
	switch clean := path.Clean(v.Path); {
	case beneath(clean, "/proc"):
		return adviseProc(clean, v.Access, p), true
	case beneath(clean, "/dev"):
		return adviseDev(clean, v.Access, p), true
	}
	return advice{}, false
}

// hidden are what /proc never shows, whatever its mode: they command the kernel
// or show its memory. proc(5).
var hidden = []string{
	"acpi", "asound", "bus", "fs", "irq", "kallsyms", "kcore", "keys", "key-users", "kmsg", "kpagecgroup", "kpagecount",
	"kpageflags", "latency_stats", "mem", "modules", "sched_debug", "scsi", "slabinfo", "sys", "sysrq-trigger",
	"sysvipc", "timer_list", "vmallocinfo",
}

func adviseProc(name, access string, p *plan.Plan) advice {
	shown := map[string]string{"none": "there is no /proc", "pid": "/proc shows the plugin's own processes only", "full": "/proc is read-only and partly covered"}
	a := advice{rule: ruled(p, []string{"proc.mode", "proc"}, "%s", shown[p.Proc])}
	first, _, _ := strings.Cut(strings.TrimPrefix(name, "/proc/"), "/")
	need := "full"
	if first == "self" || first == "thread-self" || strings.Trim(first, "0123456789") == "" {
		need = "pid"
	}
	switch {
	case access == "write" || slices.Contains(hidden, first) || p.Proc == "full" || p.Proc == need:
		a.also = neverLine + "what would show or command the kernel, or a process of another, stays covered."
	case need == "pid":
		a.change = "[proc]\nmode = \"pid\"\n"
		a.also = "The plugin would see its own processes."
	default:
		a.change = "[proc]\nmode = \"full\"\n"
		a.also = "The plugin would see the figures of the whole machine: processors, memory, load, mounts, version. Programs that count processors need it."
	}
	return a
}

// harmless are the devices a profile may name.
var harmless = []string{"null", "zero", "full", "random", "urandom"}

func adviseDev(name, access string, p *plan.Plan) advice {
	holds := "nothing"
	if len(p.Devices) > 0 {
		holds = strings.Join(p.Devices, ", ") + " only"
	}
	a := advice{rule: ruled(p, []string{"devices.allow", "devices"}, "/dev holds %s", holds)}
	device := strings.TrimPrefix(name, "/dev/")
	switch {
	case access == "execute":
		a.also = neverLine + "nothing below /dev is executable."
	case slices.Contains(harmless, device) && !slices.Contains(p.Devices, device):
		a.change = fmt.Sprintf("[devices]\nallow = [%q]\n", device)
		a.also = "The device is harmless: it gives bytes or swallows them."
	case beneath(name, "/dev/shm") && p.Shm.Size == 0:
		a.change = "[shm]\nsize = \"16M\"\n"
		a.also = "Shared memory of the plugin's own processes; it counts against memory.max."
	default:
		a.also = neverLine + "/dev is the plugin's own and holds null, zero, full, random and urandom at most."
	}
	return a
}
