package compile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
)

// reference is what a filter means, said as plainly as possible and without
// anything of what Compile uses: look at every rule, keep the best that holds.
func reference(f seccomp.Filter, d seccompData) uint32 {
	if d.arch != unix.AUDIT_ARCH_X86_64 {
		return retKillProcess
	}
	switch nr := int(d.nr); {
	case d.nr == 0xffffffff:
		return retErrno | uint32(unix.ENOSYS)
	case d.nr&0xc0000000 != 0:
		return retKillProcess
	case nr > 336 && nr < 424 || nr > 471: // what no kernel up to 7.0 has
		return retErrno | uint32(unix.ENOSYS)
	}
	name := seccomp.Name(int(d.nr))
	switch {
	case name == "execve" && f.ExecOnce:
		if d.args[0] < 4096 {
			return retAllow
		}
		return retNotify
	case slices.Contains([]string{"read", "write", "execve", "exit", "exit_group", "rt_sigreturn"}, name):
		return retAllow
	}
	watched := slices.Contains(f.Watch, name)
	best, found := seccomp.Rule{}, false
	for _, r := range f.Rules {
		if !slices.Contains(r.Names, name) || !allHold(r.Args, int(d.nr), d.args) {
			continue
		}
		if !found || better(r, best) {
			best, found = r, true
		}
	}
	if !found {
		return retNotify
	}
	switch best.Action {
	case seccomp.ActAllow, seccomp.ActLog:
		if watched {
			return retNotify
		}
		return map[seccomp.Action]uint32{seccomp.ActAllow: retAllow, seccomp.ActLog: retLog}[best.Action]
	case seccomp.ActNotify:
		return retNotify
	case seccomp.ActKillProcess:
		return retKillProcess
	case seccomp.ActErrno:
		return retErrno | map[string]uint32{"EPERM": 1, "EACCES": 13, "ENOSYS": 38}[best.Errno]
	}
	return 0
}

func better(a, b seccomp.Rule) bool {
	if distinct(a.Args) != distinct(b.Args) {
		return distinct(a.Args) > distinct(b.Args)
	}
	if rank[a.Action] != rank[b.Action] {
		return rank[a.Action] > rank[b.Action]
	}
	return a.Errno < b.Errno
}

var rank = map[seccomp.Action]int{
	seccomp.ActKillProcess: 5, seccomp.ActNotify: 4, seccomp.ActErrno: 3, seccomp.ActLog: 2, seccomp.ActAllow: 1,
}

// distinct counts conditions; the same one written twice is one.
func distinct(conds []seccomp.Condition) int {
	var seen []seccomp.Condition
	for _, c := range conds {
		if !slices.Contains(seen, c) {
			seen = append(seen, c)
		}
	}
	return len(seen)
}

func allHold(conds []seccomp.Condition, nr int, args [6]uint64) bool {
	for _, c := range conds {
		mask := ^uint64(0)
		if bits := seccomp.ArgBits(nr, c.Index); bits < 64 {
			mask = 1<<bits - 1
		}
		arg, v, two := args[c.Index]&mask, c.Value&mask, c.ValueTwo&mask
		var ok bool
		switch c.Op {
		case seccomp.OpEqual:
			ok = arg == v
		case seccomp.OpNotEqual:
			ok = arg != v
		case seccomp.OpLess:
			ok = arg < v
		case seccomp.OpLessEqual:
			ok = arg <= v
		case seccomp.OpGreater:
			ok = arg > v
		case seccomp.OpGreaterEqual:
			ok = arg >= v
		case seccomp.OpMaskedEqual:
			ok = arg&v == two
		}
		if !ok {
			return false
		}
	}
	return true
}

func allow(names ...string) seccomp.Rule {
	return seccomp.Rule{Names: names, Action: seccomp.ActAllow}
}

func when(r seccomp.Rule, conds ...seccomp.Condition) seccomp.Rule {
	r.Args = conds
	return r
}

func errno(e string, names ...string) seccomp.Rule {
	return seccomp.Rule{Names: names, Action: seccomp.ActErrno, Errno: e}
}

func eq(i uint, v uint64) seccomp.Condition {
	return seccomp.Condition{Index: i, Op: seccomp.OpEqual, Value: v}
}

func masked(i uint, m, v uint64) seccomp.Condition {
	return seccomp.Condition{Index: i, Op: seccomp.OpMaskedEqual, Value: m, ValueTwo: v}
}

func expand(t testing.TB, names ...string) []string {
	t.Helper()
	out, err := seccomp.Expand(names)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func without(names []string, drop ...string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(drop, n) })
}

// filters are those that every property is shown for.
func filters(t testing.TB) map[string]seccomp.Filter {
	guarded := []string{"clone", "clone3", "socket", "ioctl", "prctl", "personality", "fcntl", "mmap", "mprotect"}
	service := seccomp.Filter{
		Rules: []seccomp.Rule{
			allow(without(expand(t, "@system-service"), guarded...)...),
			when(allow("clone"), masked(0, 0x7e020000, 0)),
			errno("ENOSYS", "clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"),
			when(allow("socket"), eq(0, unix.AF_UNIX)), when(allow("socket"), eq(0, unix.AF_INET)),
			when(errno("EACCES", "socket"), eq(0, unix.AF_NETLINK)),
			allow("ioctl"), when(errno("EPERM", "ioctl"), eq(1, unix.TIOCSTI)), when(errno("EPERM", "ioctl"), eq(1, 0x541c)),
			when(allow("prctl"), eq(0, unix.PR_SET_NAME)), when(allow("prctl"), eq(0, unix.PR_GET_DUMPABLE)),
			when(allow("personality"), eq(0, 0)), when(allow("personality"), eq(0, 0xffffffff)),
			when(allow("fcntl"), seccomp.Condition{Index: 1, Op: seccomp.OpLessEqual, Value: 11}),
			when(allow("fcntl"), eq(1, unix.F_DUPFD_CLOEXEC)),
			when(allow("mmap"), masked(2, 4, 0)), when(allow("mmap"), masked(2, 6, 4)),
			allow("mprotect"),
			{Names: []string{"mprotect"}, Action: seccomp.ActNotify, Args: []seccomp.Condition{masked(2, 6, 6)}},
			when(errno("EPERM", "chmod"), masked(1, 0o4000, 0o4000)),
		},
	}
	watched := service
	watched.Watch = []string{"openat", "open"}
	return map[string]seccomp.Filter{
		"empty":     {},
		"one":       {Rules: []seccomp.Rule{allow("getpid")}},
		"service":   service,
		"watched":   watched,
		"all":       {Rules: []seccomp.Rule{allow(expand(t, "@known")...)}},
		"new calls": {Rules: []seccomp.Rule{allow("listns", "statmount"), errno("EPERM", "mseal"), when(allow("lsm_get_self_attr"), eq(0, 7))}},
		"kill and log": {Rules: []seccomp.Rule{
			{Names: []string{"ptrace"}, Action: seccomp.ActKillProcess},
			{Names: []string{"uname"}, Action: seccomp.ActLog},
			allow("ptrace", "uname"),
		}},
		// libseccomp 2.5.4 lets the value between these two through.
		"ranges that overlap in its halves": {Rules: []seccomp.Rule{
			when(allow("mmap"), seccomp.Condition{Index: 2, Op: seccomp.OpLess, Value: 0xffffffff}),
			when(allow("mmap"), seccomp.Condition{Index: 2, Op: seccomp.OpGreater, Value: 0x100000000}),
		}},
		// And does not come back from the first of these.
		"chains that overlap": {Rules: []seccomp.Rule{
			when(allow("mmap"), seccomp.Condition{Index: 1, Op: seccomp.OpLessEqual, Value: 2}, seccomp.Condition{Index: 0, Op: seccomp.OpLessEqual, Value: 3}),
			when(allow("mmap"), seccomp.Condition{Index: 0, Op: seccomp.OpLess, Value: 1 << 63}, masked(5, 0xffffffff, 6)),
		}},
		"two of one argument": {Rules: []seccomp.Rule{when(allow("lseek"),
			seccomp.Condition{Index: 1, Op: seccomp.OpGreater, Value: 1 << 32},
			seccomp.Condition{Index: 1, Op: seccomp.OpLess, Value: 1<<33 + 5})}},
	}
}

func compiled(t testing.TB, f seccomp.Filter) []instruction {
	t.Helper()
	b, err := Compile(f)
	if err != nil {
		t.Fatalf("Compile: %v", err)
	}
	return decode(t, b)
}

// interesting are values of arguments around everything a filter compares.
func interesting(f seccomp.Filter) []uint64 {
	out := []uint64{0, 1, 2, 1<<15 - 1, 1 << 16, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 1}
	for _, r := range f.Rules {
		for _, c := range r.Args {
			for _, v := range []uint64{c.Value, c.ValueTwo} {
				out = append(out, v, v-1, v+1, v|1<<32, v|1<<63, v&0xffffffff, v<<32)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// callNumbers are every number worth asking for.
func callNumbers() []uint32 {
	var out []uint32
	for nr := range uint32(601) {
		out = append(out, nr, nr|0x40000000)
	}
	return append(out, 1<<30-1, 1<<31-1, 1<<31, 1<<32-2, 1<<32-1)
}

// rulesOf are the rules that name a call.
func rulesOf(f seccomp.Filter, nr uint32) []seccomp.Rule {
	return slices.DeleteFunc(slices.Clone(f.Rules), func(r seccomp.Rule) bool { return !slices.Contains(r.Names, seccomp.Name(int(nr))) })
}

// compare asks program and reference the same and fails at a difference.
func compare(t *testing.T, f seccomp.Filter, program []instruction, d seccompData) {
	t.Helper()
	got, err := interpret(program, d, false)
	if err != nil {
		t.Fatalf("%s(%x): %v", seccomp.Name(int(d.nr)), d.args, err)
	}
	if want := reference(f, d); got != want {
		t.Fatalf("%s(%#x) arch %#x: the program returns %#x, the filter means %#x: %+v", seccomp.Name(int(d.nr)), d.args, d.arch, got, want, rulesOf(f, d.nr))
	}
}

func TestProgramMeansWhatTheFilterSays(t *testing.T) {
	for name, f := range filters(t) {
		t.Run(name, func(t *testing.T) {
			program := compiled(t, f)
			values := interesting(f)
			random := rand.New(rand.NewPCG(1, 2)) // #nosec G404 -- a test
			for _, nr := range callNumbers() {
				compare(t, f, program, seccompData{nr: nr, arch: unix.AUDIT_ARCH_I386})
				compare(t, f, program, seccompData{nr: nr, arch: unix.AUDIT_ARCH_AARCH64})
				d := seccompData{nr: nr, arch: unix.AUDIT_ARCH_X86_64, ip: 1 << 40}
				compare(t, f, program, d)
				for i := range d.args {
					for _, v := range values {
						one := d
						one.args[i] = v
						compare(t, f, program, one)
						for j := range one.args {
							if j != i {
								one.args[j] = values[random.IntN(len(values))]
							}
						}
						compare(t, f, program, one)
					}
				}
			}
		})
	}
}

// The kernel runs no program for a call that it can tell is allowed from
// architecture and number alone.
func TestUnconditionalAllowsAreConstantToTheKernel(t *testing.T) {
	for name, f := range filters(t) {
		t.Run(name, func(t *testing.T) {
			program := compiled(t, f)
			for _, call := range expand(t, "@known") {
				nr, _ := seccomp.Number(call)
				if !f.Allows(call) || slices.Contains(f.Watch, call) {
					continue
				}
				got, err := interpret(program, seccompData{nr: uint32(nr), arch: unix.AUDIT_ARCH_X86_64}, true)
				if err != nil || (got != retAllow && got != retLog) {
					t.Errorf("%s: %#x, %v; want a constant allow", call, got, err)
				}
			}
		})
	}
}

func TestBytesAreDeterministic(t *testing.T) {
	f := filters(t)["service"]
	first, err := Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(f.Rules)
	for i := range f.Rules {
		f.Rules[i].Names = slices.Clone(f.Rules[i].Names)
		slices.Reverse(f.Rules[i].Names)
	}
	for range 3 {
		again, err := Compile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, again) {
			t.Fatal("the same filter, written in another order, gave other bytes")
		}
	}
}

func TestInvalidFilterGivesNoProgram(t *testing.T) {
	b, err := Compile(seccomp.Filter{Rules: []seccomp.Rule{allow("opne")}})
	if err == nil || b != nil {
		t.Fatalf("Compile = %d bytes, %v; want an error and no bytes", len(b), err)
	}
}

func TestTooLongAProgramIsRefused(t *testing.T) {
	var f seccomp.Filter
	for i := range uint64(seccomp.MaxRules) {
		f.Rules = append(f.Rules, when(errno("EPERM", "lseek"), eq(1, 1<<40+i<<33), eq(2, i)))
	}
	f.Rules[0].Errno = "EACCES" // another action makes it a mixed call
	if b, err := Compile(f); err == nil {
		t.Fatalf("Compile gave %d instructions", len(b)/instructionSize)
	}
	for i := range f.Rules {
		f.Rules[i] = when(allow("lseek"), f.Rules[i].Args...)
	}
	if b, err := Compile(f); err == nil {
		t.Fatalf("Compile gave %d instructions", len(b)/instructionSize)
	}
}

func TestVersionIsTheLibrarys(t *testing.T) {
	var major, minor, micro int
	if n, err := fmt.Sscanf(Version(), "%d.%d.%d", &major, &minor, &micro); n != 3 || err != nil || major < 2 {
		t.Fatalf("Version = %q", Version())
	}
}
