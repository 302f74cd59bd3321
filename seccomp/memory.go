package seccomp

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPath is the kernel's PATH_MAX, which counts the final zero.
	maxPath = 4096
	// maxString bounds strings that are no paths.
	maxString = 256
	pageSize  = 4096
	// clockTick is the unit of times in /proc/PID/stat (USER_HZ).
	clockTick = 10 * time.Millisecond
)

// sameThread tells whether PID is the thread that made the call: it still
// waits, or the thread of that number began before the call did. The number is
// given out again only after all others were, so the 10 ms to which the kernel
// tells the beginning do not matter.
func (n Notification) sameThread() bool {
	if n.source == nil {
		return false
	}
	if n.StillValid() {
		return true
	}
	began, ok := threadStart(n.PID)
	return ok && began <= n.uptime
}

// threadStart is when a thread began, since boot, rounded down to a tick.
func threadStart(tid int) (time.Duration, bool) {
	b := readProc(tid, "stat", make([]byte, 1024)) // at most 52 numbers and a name
	// The name stands in parentheses and can contain anything, also those.
	_, rest, _ := strings.Cut(string(b[max(0, bytes.LastIndexByte(b, ')')):]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, false
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64) // field 22, starttime
	return time.Duration(ticks) * clockTick, err == nil
}

// threadGroup is the id of the process that a thread belongs to, 0 if it is
// gone. Most calls are made by a process's first thread, of which alone there
// is a pidfd (pidfd_open(2)): a hundredth of what writing out a status costs
// the kernel.
func threadGroup(tid int) int {
	if fd, err := unix.PidfdOpen(tid, 0); err == nil {
		_ = unix.Close(fd) // nothing was written
		return tid
	}
	b := readProc(tid, "status", make([]byte, 1024)) // Tgid stands in the fourth line
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "Tgid:"); ok {
			pid, _ := strconv.Atoi(strings.TrimSpace(value)) // 0 is right for what is no number
			return pid
		}
	}
	return 0
}

// readProc reads the beginning of a file of /proc/PID, by calls of its own: the
// runtime's files are made for being waited for. What cannot be read is empty.
func readProc(pid int, name string, buf []byte) []byte {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/%s", pid, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	got, err := unix.Read(fd, buf)
	if err != nil {
		return nil
	}
	return buf[:got]
}

// read copies up to len(buf) bytes of the plugin's memory and returns how many
// there were, 0 also when the thread is another by now. The plugin can change
// them at any time.
func (n Notification) read(addr uint64, buf []byte) int {
	if len(buf) == 0 || addr == 0 || n.source == nil {
		return 0
	}
	local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(buf)}}
	got, err := unix.ProcessVMReadv(n.PID, local, remote, 0)
	if err != nil || got <= 0 || !n.sameThread() {
		return 0
	}
	return got
}

// readString reads up to a zero byte, at most limit bytes. It asks for one
// page at a time, since the next may not be there. ok is false if nothing could
// be read or the end did not come.
func (n Notification) readString(addr uint64, limit int) (s string, ok bool) {
	var out []byte
	for len(out) < limit {
		at := addr + uint64(len(out))
		buf := make([]byte, min(uint64(limit-len(out)), pageSize-at%pageSize))
		got := n.read(at, buf)
		if got == 0 {
			return string(out), false
		}
		if end := bytes.IndexByte(buf[:got], 0); end >= 0 {
			return string(append(out, buf[:end]...)), true
		}
		out = append(out, buf[:got]...)
	}
	return string(out), false
}

// escape makes what a plugin wrote fit to be shown: as in a Go string without
// its quotes, and cut to at most limit bytes of the original.
func escape(s string, limit int) string {
	cut := ""
	if len(s) > limit {
		s, cut = s[:limit], "..."
	}
	q := strconv.Quote(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`) + cut
}

// resolve makes a path absolute and clean, as the plugin sees it, without
// following links. dirfd is AT_FDCWD or a descriptor of the plugin.
func (n Notification) resolve(dirfd int32, p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	link := fmt.Sprintf("/proc/%d/cwd", n.PID)
	if dirfd != unix.AT_FDCWD {
		link = fmt.Sprintf("/proc/%d/fd/%d", n.PID, dirfd)
	}
	base, err := os.Readlink(link)
	if err != nil || !path.IsAbs(base) || !n.sameThread() {
		return p
	}
	return path.Join(base, p)
}
