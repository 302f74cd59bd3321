package launch

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/cordonhq/cordon/namespaces"
)

// staged is called at the gate: every wall is up, no instruction of the plugin
// has run, so what is read is what it will run behind.
func (p *Process) staged(pid int) { p.walls, p.wallsE = p.readBack(pid) }

// Enforced reports every wall as read back from the kernel: while the plugin
// runs, from now; afterwards, with Request.KeepWalls, from just before its
// first instruction.
func (p *Process) Enforced() (Enforced, error) {
	select {
	case <-p.done:
		return p.kept()
	default:
	}
	if e, err := p.readBack(p.child.PID); err == nil {
		return e, nil
	}
	return p.kept()
}

// kept is what was read at the gate.
func (p *Process) kept() (Enforced, error) {
	if !p.r.KeepWalls {
		return Enforced{}, fmt.Errorf("cannot read back the walls: %w", ErrEnded)
	}
	return p.walls, p.wallsE
}

// reading collects walls of one process.
type reading struct {
	p     *Process
	dir   string
	walls []Wall
}

func (p *Process) readBack(pid int) (Enforced, error) {
	r := &reading{p: p, dir: fmt.Sprintf("/proc/%d", pid)}
	for _, read := range []func() error{r.namespaces, r.status, r.mounts, r.limits, r.group, r.rest} {
		if err := read(); err != nil {
			return Enforced{}, fmt.Errorf("cannot read back the walls of process %d: %w", pid, err)
		}
	}
	return Enforced{Walls: r.walls}, nil
}

func (r *reading) add(name, promise, planned, actual, note string) {
	state := "enforced"
	if planned != actual {
		state = "differs"
	}
	r.walls = append(r.walls, Wall{name, promise, planned, actual, state, note})
}

// namespaces are private if they are not those of this process.
func (r *reading) namespaces() error {
	for _, n := range [][3]string{
		{"user", namespaces.WallUser, "privilege"},
		{"mnt", namespaces.WallMount, "files"},
		{"pid", namespaces.WallPID, "processes"},
		{"net", namespaces.WallNet, "network"},
		{"ipc", namespaces.WallIPC, "processes"},
		{"uts", namespaces.WallUTS, "privilege"},
		{"cgroup", namespaces.WallCgroup, "privilege"},
	} {
		theirs, err := os.Readlink(path.Join(r.dir, "ns", n[0]))
		if err != nil {
			return err
		}
		ours, err := os.Readlink("/proc/self/ns/" + n[0])
		if err != nil {
			return err
		}
		actual := "private"
		if theirs == ours {
			actual = "the host's"
		}
		note := theirs
		if n[0] == "mnt" && len(r.p.doors) > 0 {
			note += "; sockets can be connected to in " + strings.Join(r.p.doors, ", ") + ": its file system has no id-mapped mounts"
		}
		r.add(n[1], n[2], "private", actual, note)
	}
	return nil
}

// status is /proc/PID/status; proc_pid_status(5).
func (r *reading) status() error {
	fields, err := statusOf(r.dir)
	if err != nil {
		return err
	}
	uid := itoa(r.p.lease.uid)
	four := strings.Join([]string{uid, uid, uid, uid}, " ")
	r.add("uid", "privilege", four, fields["Uid"], "real, effective, saved, file system; as the host sees them")
	r.add("gid", "privilege", four, fields["Gid"], "")
	r.add("groups", "privilege", "", fields["Groups"], "supplementary")
	var sets []string
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		sets = append(sets, strings.TrimLeft(fields[set], "0")+"0")
	}
	r.add(namespaces.WallCaps, "privilege", "0 0 0 0 0", strings.Join(sets, " "), "inheritable, permitted, effective, bounding, ambient")
	r.add(namespaces.WallNNP, "privilege", "1", fields["NoNewPrivs"], "")
	r.add(namespaces.WallSeccomp, "system calls", "2", r.ownFilter(fields), fmt.Sprintf("filter mode; %d instructions, filters: %s, the keeper's among them", len(r.p.host.Filter)/8, fields["Seccomp_filters"]))
	return nil
}

// ownFilter is the mode, if the plugin has more filters than it was born with:
// those of its parent, the keeper.
func (r *reading) ownFilter(fields map[string]string) string {
	keeper, err := statusOf("/proc/" + fields["PPid"])
	if err != nil {
		return "unknown: " + err.Error()
	}
	own, oerr := strconv.Atoi(fields["Seccomp_filters"])
	inherited, ierr := strconv.Atoi(keeper["Seccomp_filters"])
	if oerr == nil && ierr == nil && own <= inherited {
		return "no filter of its own"
	}
	return fields["Seccomp"]
}

func statusOf(dir string) (map[string]string, error) {
	b, err := os.ReadFile(path.Join(dir, "status"))
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for _, line := range strings.Split(string(b), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok {
			fields[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	return fields, nil
}

// mounts compares the private tree with the plan's, mount by mount.
func (r *reading) mounts() error {
	b, err := os.ReadFile(path.Join(r.dir, "mountinfo"))
	if err != nil {
		return err
	}
	actual := parseMounts(b)
	planned := r.plannedMounts()
	names := make([]string, 0, len(actual))
	for p := range actual {
		names = append(names, p)
	}
	for p := range planned {
		if _, ok := actual[p]; !ok {
			names = append(names, p)
		}
	}
	sort.Strings(names)
	for _, p := range names {
		if planned[p] == "" && slices.ContainsFunc(r.p.view.Proc.Masked, func(m string) bool { return m == p }) {
			r.add("mount "+p, "files", "masked", "masked", actual[p])
			continue
		}
		r.add("mount "+p, "files", planned[p], actual[p], "")
	}
	return nil
}

// plannedMounts are the flags that each mount point must have.
func (r *reading) plannedMounts() map[string]string {
	planned := map[string]string{"/": "ro nosuid nodev noexec", "/dev": "ro nosuid noexec"}
	for i, m := range r.p.view.Mounts {
		if r.p.host.Sources[i].Missing {
			continue
		}
		flags := "rw"
		if !m.Writable {
			flags = "ro"
		}
		flags += " nosuid nodev"
		if !m.Exec {
			flags += " noexec"
		}
		planned[m.Path] = flags
	}
	if r.p.view.Proc.Mode != "none" {
		planned["/proc"] = "rw nosuid nodev noexec"
	}
	return planned
}

// parseMounts gives the flags by mount point that mountinfo shows, in one
// order; proc_pid_mountinfo(5).
func parseMounts(b []byte) map[string]string {
	mounts := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 6 {
			continue
		}
		has := strings.Split(fields[5], ",")
		var flags []string
		for _, f := range []string{"ro", "rw", "nosuid", "nodev", "noexec"} {
			if slices.Contains(has, f) {
				flags = append(flags, f)
			}
		}
		mounts[unescapeMount(fields[4])] = strings.Join(flags, " ")
	}
	return mounts
}

// unescapeMount undoes mountinfo's octal escapes.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// limits are the resource limits; proc_pid_limits(5).
func (r *reading) limits() error {
	actual, err := readRlimits(path.Join(r.dir, "limits"))
	if err != nil {
		return err
	}
	for _, l := range r.p.view.Rlimits {
		r.add("rlimit "+l.Name, rlimitPromise(l.Name), limitText(l.Soft)+" "+limitText(l.Hard), actual[rlimitTitles[l.Name]], "soft, hard")
	}
	return nil
}

func rlimitPromise(name string) string {
	switch name {
	case "as", "data", "memlock", "stack", "rss":
		return "memory"
	case "cpu", "rtprio", "rttime", "nice":
		return "cpu"
	case "nproc", "sigpending":
		return "processes"
	default:
		return "files"
	}
}

// rlimitTitles are the kernel's lines in /proc/PID/limits.
var rlimitTitles = map[string]string{
	"cpu": "Max cpu time", "fsize": "Max file size", "data": "Max data size", "stack": "Max stack size",
	"core": "Max core file size", "rss": "Max resident set", "nproc": "Max processes", "nofile": "Max open files",
	"memlock": "Max locked memory", "as": "Max address space", "locks": "Max file locks",
	"sigpending": "Max pending signals", "msgqueue": "Max msgqueue size", "nice": "Max nice priority",
	"rtprio": "Max realtime priority", "rttime": "Max realtime timeout",
}

func limitText(n uint64) string {
	if n == ^uint64(0) {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

func readRlimits(file string) (map[string]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, line := range strings.Split(string(b), "\n") {
		for _, title := range rlimitTitles {
			if rest, ok := strings.CutPrefix(line, title+" "); ok {
				if f := strings.Fields(rest); len(f) >= 2 {
					out[title] = f[0] + " " + f[1]
				}
			}
		}
	}
	return out, nil
}

// group are the quotas as the kernel has them.
func (r *reading) group() error {
	actual, err := r.p.group.Read()
	if err != nil {
		return err
	}
	missing := map[string]string{}
	for _, f := range r.p.l.unsupported(r.p.plan().Limits) {
		missing[f.Name] = f.Need
	}
	values := r.p.plan().Limits.Values()
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		promise, _, _ := strings.Cut(name, ".")
		if need, ok := missing[name]; ok {
			r.walls = append(r.walls, Wall{name, promise, values[name], "none", "missing", "needs " + need})
			continue
		}
		r.add(name, promise, values[name], actual[name], "")
	}
	return nil
}

// rest is what the kernel shows in other places, or shows by refusing.
func (r *reading) rest() error {
	abi := r.p.host.LandlockABI
	if abi == 0 {
		r.walls = append(r.walls, Wall{namespaces.WallLandlock, "files", "enforced", "none", "missing", "this kernel has no Landlock"})
	} else {
		actual := "enforced"
		if switchedOff(namespaces.WallLandlock) {
			actual = "none"
		}
		r.add(namespaces.WallLandlock, "files", "enforced", actual, fmt.Sprintf("ABI %d; shown before the exec by a refused open of the root directory", abi))
	}
	b, err := os.ReadFile(path.Join(r.dir, "uid_map"))
	if err != nil {
		return err
	}
	planned := fmt.Sprintf("%d %d 1", r.p.view.UID, r.p.lease.uid)
	r.add("uid_map", "privilege", planned, strings.Join(strings.Fields(string(b)), " "), "uid 0 is not mapped")
	if wall := r.p.plan().Time.Wall; wall > 0 {
		r.add("time.wall", "time", wall.String(), wall.String(), "the launcher's timer")
	}
	return nil
}
