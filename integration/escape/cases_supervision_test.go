//go:build walltest

package escape

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/launch"
)

func supervisionCases() []escape {
	call := func(args ...string) func(*trial) []string { return func(*trial) []string { return args } }
	return inCategory("supervision", []escape{
		{
			name: "an orphan that outlives its plugin", after: "double fork", walls: []string{"pid namespace"}, with: []string{"cgroup"},
			args: call("orphan"), outlived: survives,
		},
		{
			name: "a chain of forks that outruns its end", walls: []string{"pid namespace", "cgroup"},
			args: call("chain"), request: withInput, outlived: beats,
		},
		{
			name: "a stopped and deaf process", walls: []string{"pid namespace", "cgroup"},
			args: call("stay-stopped"), outlived: survives,
		},
		{
			name: "live on without the keeper", after: "cleared parent-death signal", walls: []string{"pid namespace"},
			with: []string{"cgroup"},
			args: call("unbound"), escaped: withoutKeeper,
		},
		{
			name: "move to another group", walls: []string{"mount namespace", "landlock", "identity"},
			// A tree mounted with nsdelegate holds whoever has a namespace of it, too.
			with: []string{"user namespace", "capabilities", "cgroup namespace"},
			prepare: func(t *trial) {
				t.host = cgroupWith("cordon-test-escape-other-" + t.mark())
				t.must(os.Mkdir(t.host.(string), 0o755))
				t.cleanup(func() { t.must(os.Remove(t.host.(string))) })
			},
			args: func(t *trial) []string { return []string{"move", t.host.(string) + "/cgroup.procs"} },
			escaped: func(t *trial) string {
				data, err := os.ReadFile(t.host.(string) + "/cgroup.procs")
				t.must(err)
				if len(strings.Fields(string(data))) == 0 {
					return ""
				}
				t.reapAll()
				return "it is in a group that nobody ends"
			},
		},
		{
			name: "have another killed in its place", after: "pid re-use", walls: []string{"pidfd"},
			args: call("leave", "0"), outlived: pidReused,
		},
	})
}

// withInput gives the attack an input that ends with the trial.
func withInput(t *trial, r *launch.Request) {
	in, out, err := os.Pipe()
	t.must(err)
	r.Stdin = in
	t.cleanup(func() {
		_ = out.Close()
		_ = in.Close()
	})
}

// beats: the output of what was ended goes on. It closes when the last process
// that has it is gone.
func beats(t *trial) string {
	const many = 200 // more than may have been on the way
	before, grown := len(t.output()), false
	if !eventually(func() bool {
		grown = len(t.output()) > before+many
		select {
		case <-t.closed:
			return true
		default:
			return grown
		}
	}) {
		t.Error("it neither ended nor goes on")
	}
	if grown {
		return "it goes on and on"
	}
	return ""
}

// withoutKeeper kills the plugin's parent, as the host's memory shortage might.
func withoutKeeper(t *trial) string {
	if t.process == nil {
		return ""
	}
	keeper, err := strconv.Atoi(status(t.process.PID(), "PPid"))
	if err != nil || status(keeper, "Name") != "cordon-keeper" {
		t.Fatalf("its parent is no keeper: %q", status(keeper, "Name"))
	}
	t.must(unix.Kill(keeper, unix.SIGKILL))
	// It dies, or will not: with its death signal cleared only its namespace's
	// first process, which dies with the keeper, takes it along.
	reaperGone := eventually(func() bool { return t.reaper() == 0 })
	if !reaperGone {
		t.Error("the first process of its namespace lives on")
	}
	if t.isOff("pid namespace") {
		return survives(t)
	}
	if !eventually(func() bool { return !slices.ContainsFunc(t.procs(), alive) }) {
		return survives(t)
	}
	return ""
}

// pidReused gives the plugin's number to another process, and then has the
// plugin signalled.
func pidReused(t *trial) string {
	pid := t.process.PID()
	cmd := outsideCommand("unbound")
	for range 1000 {
		t.must(os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0))
		cmd = outsideCommand("unbound")
		t.must(cmd.Start())
		if cmd.Process.Pid == pid {
			break
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if cmd.Process.Pid != pid {
		t.Fatalf("cannot have number %d used again", pid)
	}
	_ = t.process.Signal(unix.SIGKILL)
	dead := func() bool { return !alive(pid) }
	got := ""
	// A signal is there when kill(2) returns; what it does is a moment later.
	if t.isOff("pidfd") && eventually(dead) || pending(pid) || dead() {
		got = fmt.Sprintf("process %d, somebody else's, was killed", pid)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return got
}

func pending(pid int) bool {
	set, _ := strconv.ParseUint(status(pid, "ShdPnd"), 16, 64)
	return set&(1<<(uint(unix.SIGKILL)-1)) != 0
}
