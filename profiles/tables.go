package profiles

import (
	"math"

	"github.com/cordonhq/cordon/profiles/strict"
)

// bestEffort and hard are what [require] may say of a wall.
const (
	hard       = "hard"
	bestEffort = "best_effort"
)

// all gives the walls that the file says something of, by key.
func (t *requireTable) all() map[string]*requirement {
	return present(map[string]*requirement{
		"namespaces": t.Namespaces, "seccomp": t.Seccomp, "landlock": t.Landlock,
		"memory": t.Memory, "pids": t.Pids, "cpu": t.CPU, "io": t.IO, "hugetlb": t.Hugetlb,
	})
}

// all gives the walls that the file says something of, by key.
func (t *violationTable) all() map[string]*response {
	return present(map[string]*response{
		"seccomp": t.Seccomp, "files": t.Files, "memory": t.Memory, "pids": t.Pids,
		"time": t.Time, "ipc": t.IPC, "grant": t.Grant, "watchdog": t.Watchdog,
	})
}

func present[T any](m map[string]*T) map[string]*T {
	for k, v := range m {
		if v == nil {
			delete(m, k)
		}
	}
	return m
}

// rlimit is one of rlimits in one shape: -1 is no limit.
type rlimit struct {
	name       string
	soft, hard *int64
	short      bool // one number for both
}

// all gives the limits that the file sets, in a fixed order.
func (t *rlimits) all() []rlimit {
	var out []rlimit
	size := func(name string, l *rlimitSize) {
		if l != nil {
			out = append(out, rlimitOf(name, (*int64)(l.Both), (*int64)(l.Soft), (*int64)(l.Hard)))
		}
	}
	count := func(name string, l *rlimitCount) {
		if l != nil {
			out = append(out, rlimitOf(name, (*int64)(l.Both), (*int64)(l.Soft), (*int64)(l.Hard)))
		}
	}
	size("as", t.AS)
	size("core", t.Core)
	size("data", t.Data)
	size("fsize", t.Fsize)
	size("memlock", t.Memlock)
	size("msgqueue", t.Msgqueue)
	count("nofile", t.Nofile)
	count("nproc", t.Nproc)
	count("sigpending", t.Sigpending)
	size("stack", t.Stack)
	return out
}

func rlimitOf(name string, both, soft, hard *int64) rlimit {
	if both != nil {
		return rlimit{name, both, both, true}
	}
	return rlimit{name, soft, hard, false}
}

// unsigned is the kernel's reading of a limit: none is RLIM_INFINITY.
func unsigned(n int64) uint64 {
	if n == strict.Unlimited {
		return math.MaxUint64
	}
	return uint64(n)
}

// signed is the reverse of unsigned, for limits that a file can express.
func signed(n uint64) int64 {
	if n == math.MaxUint64 {
		return strict.Unlimited
	}
	return int64(min(n, math.MaxInt64))
}
