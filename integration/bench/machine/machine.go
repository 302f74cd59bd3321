// Package machine says of the machine that a benchmark runs on what its figures
// depend on: which one it is, and how much of it there was. A virtual machine
// whose host takes its processors away measures that, and a reader must see it.
package machine

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Name is the kernel's release, the processors and their model, and Go's version.
func Name() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // unknown is said as an empty word
	return fmt.Sprintf("%s, %d processors (%s), %s", unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), processor(), runtime.Version())
}

func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo") // unknown is said as such
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// Shares is what all processors together have done since the machine started, in
// ticks: worked, had nothing to do, had nothing to do but wait for disks, and
// were taken by the host of the virtual machine ("steal" in proc(5), /proc/stat).
type Shares struct{ Busy, Idle, Disk, Taken float64 }

// Now is until now; nothing where it cannot be read.
func Now() Shares {
	stat, _ := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(stat), "\n")
	return parse(first)
}

func parse(line string) (s Shares) {
	for i, field := range strings.Fields(line) {
		ticks, _ := strconv.ParseFloat(field, 64)
		switch i {
		case 0, 9, 10: // the word cpu; guests' time, which the user's has in it
		case 4:
			s.Idle = ticks
		case 5:
			s.Disk = ticks
		case 8:
			s.Taken = ticks
		default:
			s.Busy += ticks
		}
	}
	return s
}

// Since is what they did from then to s, in words.
func (s Shares) Since(then Shares) string {
	busy, idle, disk, taken := s.Busy-then.Busy, s.Idle-then.Idle, s.Disk-then.Disk, s.Taken-then.Taken
	all := max(1, busy+idle+disk+taken) / 100
	return fmt.Sprintf("the processors meanwhile: busy %.0f %%, idle %.0f %%, idle for disks %.0f %%, taken by the machine's host %.0f %%",
		busy/all, idle/all, disk/all, taken/all)
}
