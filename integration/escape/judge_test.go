//go:build walltest

package escape

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// leaked: what only the host knew stands in what the attack sent out.
func leaked(t *trial) string {
	if strings.Contains(t.output(), t.token) {
		return "the secret came out"
	}
	return ""
}

// fileIn is a file of the trial's directory.
func (t *trial) fileIn(name string) string { return filepath.Join(t.dir, name) }

// put writes a file of the host.
func (t *trial) put(name, text string, mode os.FileMode) string {
	t.Helper()
	file := t.fileIn(name)
	t.must(os.MkdirAll(filepath.Dir(file), 0o755))
	t.must(os.WriteFile(file, []byte(text), 0o600))
	t.must(os.Chmod(file, mode))
	return file
}

// folder makes a directory of the host that belongs to an ordinary user.
func (t *trial) folder(name string) string {
	t.Helper()
	dir := t.fileIn(name)
	t.must(os.Mkdir(dir, 0o755))
	t.must(os.Chown(dir, owner, owner))
	return dir
}

// owner is an ordinary user of the host.
const owner = 1000

// written: a file of the host has what the attack wrote.
func written(name string) func(*trial) string {
	return func(t *trial) string {
		data, err := os.ReadFile(t.fileIn(name))
		if err == nil && strings.Contains(string(data), t.token) {
			return name + " of the host was written"
		}
		return ""
	}
}

// procs are the processes that the attack started, itself included.
func (t *trial) procs() []int {
	var list []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && strings.Contains(string(env), "TRIAL="+t.mark()+"\x00") {
			list = append(list, pid)
		}
	}
	return list
}

// holds: a process of the attack has a descriptor of that kind open.
func holds(kind string) func(*trial) string {
	return func(t *trial) string {
		for _, link := range t.descriptors() {
			if strings.Contains(link, kind) {
				return "it has " + link + " open"
			}
		}
		return ""
	}
}

// descriptors are what the attack's processes have open.
func (t *trial) descriptors() []string {
	var links []string
	for _, pid := range t.procs() {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if link, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
				links = append(links, link)
			}
		}
	}
	return links
}

// apart: the attack's processes are in different namespaces of a kind.
func apart(kind string) func(*trial) string {
	return func(t *trial) string {
		var seen []string
		for _, pid := range t.procs() {
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
			if err == nil && !slices.Contains(seen, ns) {
				seen = append(seen, ns)
			}
		}
		if len(seen) > 1 {
			return "it has a namespace of its own: " + strings.Join(seen, " ")
		}
		return ""
	}
}

// status is a field of /proc/PID/status.
func status(pid int, field string) string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for _, line := range strings.Split(string(data), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && name == field {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return ""
}

// shows: a field of one of the attack's processes, as the kernel shows it.
func shows(field string, bad func(string) bool) func(*trial) string {
	return func(t *trial) string {
		for _, pid := range t.procs() {
			if value := status(pid, field); value != "" && bad(value) {
				return fmt.Sprintf("%s of process %d is %s", field, pid, value)
			}
		}
		return ""
	}
}

// sees looks at a path as the attack's own view has it.
func (t *trial) sees(path string) (unix.Stat_t, bool) {
	for _, pid := range t.procs() {
		var st unix.Stat_t
		if unix.Lstat(fmt.Sprintf("/proc/%d/root%s", pid, path), &st) == nil {
			return st, true
		}
	}
	return unix.Stat_t{}, false
}

// mounts is the mount table of the host, or of a process.
func mounts(pid string) string {
	data, _ := os.ReadFile("/proc/" + pid + "/mountinfo")
	return string(data)
}

// alive tells a process from one that has ended and waits to be reaped.
func alive(pid int) bool {
	state := status(pid, "State")
	return state != "" && !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// survives: something of the attack still runs after its end; it is ended here.
func survives(t *trial) string {
	living := slices.DeleteFunc(t.procs(), func(pid int) bool { return !alive(pid) })
	if len(living) == 0 {
		return ""
	}
	t.reapAll()
	return fmt.Sprintf("process %d still runs", living[0])
}

// reapAll ends whatever the attack left, however fast it forks: it stands
// still first.
func (t *trial) reapAll() {
	for _, signal := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
		ended := eventually(func() bool {
			moving := 0
			for _, pid := range t.procs() {
				state := status(pid, "State")
				if !alive(pid) || signal == unix.SIGSTOP && strings.HasPrefix(state, "T") {
					continue
				}
				moving++
				_ = unix.Kill(pid, signal)
			}
			return moving == 0
		})
		if !ended {
			t.Error("cannot end what the attack left")
		}
	}
}

// wentOn: the attack ended by itself, after the call that should have ended it.
func wentOn(t *trial) string {
	if t.process == nil {
		return ""
	}
	if s := t.process.Exit().Status; s.Exited() && s.ExitStatus() == 42 {
		return "it went on"
	}
	return ""
}
