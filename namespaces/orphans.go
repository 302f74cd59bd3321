package namespaces

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// orphan is a process that a keeper left behind when it was killed. It has
// become a child of this process, the subreaper.
type orphan struct {
	pid   int
	first bool // pid 1 of a namespace: it ends only when all others in it are reaped
}

// endOrphans ends and reaps what the killed keeper left: plugins and reapers,
// also those of a launch that was under way, which nobody here knows of. Until
// they are reaped their namespaces and uids are not free. The keeper must have
// been reaped: only then are its children ours.
func endOrphans(keeper int) {
	left := orphansOf(keeper)
	for _, o := range left {
		_ = unix.Kill(o.pid, unix.SIGKILL) // a child of ours: its id is its own until it is reaped
	}
	slices.SortStableFunc(left, func(a, b orphan) int {
		switch {
		case a.first == b.first:
			return 0
		case a.first:
			return 1
		default:
			return -1
		}
	})
	for _, o := range left {
		reap(o.pid)
	}
}

// reap waits for a child. One that somebody else reaped is none.
func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// orphansOf lists the children of this process that came from a keeper: those
// of its session, and those in a pid namespace below ours, of which this
// process makes none itself.
func orphansOf(keeper int) []orphan {
	var found []orphan
	for _, pid := range children() {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		inside := strings.Fields(lineOf(string(status), "NSpid:"))
		nested := len(inside) > 1
		if nested || sessionOf(string(stat)) == keeper {
			found = append(found, orphan{pid: pid, first: nested && inside[len(inside)-1] == "1"})
		}
	}
	return found
}

// children are the ids of this process's children, of whichever of its threads.
func children() []int {
	var pids []int
	self := os.Getpid()
	entries, _ := os.ReadDir("/proc") // without it there is no more to be known
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err == nil && statField(string(stat), statParent) == self {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Fields of /proc/PID/stat behind the name, which ends in the last ')'; proc(5).
const (
	statParent  = 1
	statSession = 3
)

func sessionOf(stat string) int { return statField(stat, statSession) }

func statField(stat string, n int) int {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if n >= len(fields) {
		return -1
	}
	value, err := strconv.Atoi(fields[n])
	if err != nil {
		return -1
	}
	return value
}

func lineOf(text, key string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, key); ok {
			return value
		}
	}
	return ""
}
