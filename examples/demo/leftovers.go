package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// scratch is where the daemon and the command line make their temporary files,
// so that none can hide among those of other programs.
const scratch = stageDir + "/tmp"

// leftovers says what is still there of the demo: processes, cgroups, mounts
// and files.
func leftovers() error {
	var files []string
	if _, err := os.Lstat(stageDir); !errors.Is(err, fs.ErrNotExist) {
		files = append(files, stageDir)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
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
		left("processes", children), left("cgroups", groups),
		left("mounts", linesWith(string(mounts), stageDir)), left("files", files))
}

// scratchLeft says what temporary files nobody removed.
func scratchLeft() error {
	entries, err := os.ReadDir(scratch)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = filepath.Join(scratch, entry.Name())
	}
	return errors.Join(err, left("temporary files", names))
}

func linesWith(text, part string) []string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// left is an error that names what there is, if there is anything.
func left(what string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("left behind: %s: %s", what, strings.Join(names, ", "))
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
