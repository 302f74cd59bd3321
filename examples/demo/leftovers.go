package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Process attributes of prctl(2), which the syscall package does not name.
const (
	prSetPdeathsig      = 1
	prSetChildSubreaper = 36
)

// endWithParent makes the demo stop, in order, when what started it is killed,
// and makes it the parent of whatever its children leave behind, so that
// nothing can slip away.
func endWithParent() error {
	for _, set := range [][2]uintptr{{prSetPdeathsig, uintptr(syscall.SIGTERM)}, {prSetChildSubreaper, 1}} {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, set[0], set[1], 0); errno != 0 {
			return fmt.Errorf("cannot prepare for an early end: %w", errno)
		}
	}
	return nil
}

// stock is what is counted before and after: names of temporary files and
// mounts.
type stock struct{ files, mounts []string }

// takeStock counts. Other programs come and go meanwhile, so it looks only at
// what bears the name.
func takeStock() (*stock, error) {
	st := &stock{}
	for _, pattern := range []string{"/tmp/*cordon*", "/run/*cordon*", "/dev/shm/*cordon*", "/var/lib/*cordon*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			if name != stageDir {
				st.files = append(st.files, name)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "cordon") {
			st.mounts = append(st.mounts, strings.TrimSpace(line))
		}
	}
	return st, nil
}

// compare says what is there now that was not before: processes, cgroups,
// mounts and files.
func (st *stock) compare() error {
	now, err := takeStock()
	if err != nil {
		return err
	}
	if _, err := os.Stat(stageDir); err == nil {
		now.files = append(now.files, stageDir)
	}
	groups, err := groupsLeft(cgroupRoot)
	if err != nil {
		return err
	}
	children, err := childrenLeft()
	if err != nil {
		return err
	}
	return errors.Join(
		left("processes", children, nil), left("cgroups", groups, nil),
		left("mounts", now.mounts, st.mounts), left("files", now.files, st.files))
}

// left is an error that names what is in now and was not in before.
func left(what string, now, before []string) error {
	added := slices.DeleteFunc(now, func(s string) bool { return slices.Contains(before, s) })
	if len(added) == 0 {
		return nil
	}
	return fmt.Errorf("left behind: %s: %s", what, strings.Join(added, ", "))
}

// groupsLeft finds directories called name in every cgroup hierarchy.
func groupsLeft(name string) ([]string, error) {
	var found []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone while we looked
			return nil
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == name:
			found = append(found, path)
			return fs.SkipDir
		}
		return nil
	})
	return found, err
}

// childrenLeft reaps what has ended and lists what has not: whatever the daemon
// left behind has become a child of ours.
func childrenLeft() ([]string, error) {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 {
			break
		}
	}
	return processes(func(p process) bool { return p.parent == os.Getpid() || p.isPlugin() })
}

// strangers lists what a dead run left at work: plugins, and a daemon whose
// command line names dir.
func strangers(dir string) ([]string, error) {
	return processes(func(p process) bool {
		return p.isPlugin() || p.pid != os.Getpid() && strings.Contains(p.command, dir+"/")
	})
}

// process is a line of /proc.
type process struct {
	pid, parent int
	uid         uint64
	command     string
}

// isPlugin says whether it runs as one of the demo's own users.
func (p process) isPlugin() bool { return p.uid >= uidBase && p.uid < uidBase+uidCount }

// processes lists those that match, as "PID command".
func processes(match func(process) bool) ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok && match(p) {
			found = append(found, fmt.Sprintf("%d %s", pid, p.command))
		}
	}
	return found, nil
}

// readProcess reads one process; ok is false when it has gone.
func readProcess(pid int) (p process, ok bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return p, false
	}
	command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return p, false
	}
	return parseProcess(pid, status, command), true
}

func parseProcess(pid int, status, command []byte) process {
	p := process{pid: pid, command: string(bytes.ReplaceAll(bytes.TrimRight(command, "\x00"), []byte{0}, []byte{' '}))}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		if len(fields) == 0 {
			continue
		}
		switch name {
		case "Name":
			if p.command == "" {
				p.command = "[" + fields[0] + "]"
			}
		case "PPid":
			p.parent, _ = strconv.Atoi(fields[0])
		case "Uid":
			p.uid, _ = strconv.ParseUint(fields[0], 10, 32)
		}
	}
	return p
}
