package compile

import (
	"errors"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
)

// stream makes choices of the fuzzer's bytes, and 0 when there are no more.
type stream struct{ data []byte }

func (s *stream) below(n int) int {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b) % n
}

// The few calls, so that rules meet: arguments of 16, 32 and 64 bits, none at
// all, one that never was and one that libseccomp does not know.
var fuzzCalls = []string{"socket", "mmap", "chmod", "getpid", "openat", "lseek", "clone", "tuxcall", "statmount", "write"}

var fuzzOperators = []seccomp.Operator{
	seccomp.OpEqual, seccomp.OpMaskedEqual, seccomp.OpNotEqual, seccomp.OpLess, seccomp.OpLessEqual, seccomp.OpGreater, seccomp.OpGreaterEqual,
}

// value is small, at an edge of a half, or both.
func (s *stream) value() uint64 {
	edges := []uint64{0, 1, 2, 3, 6, 0xfff, 0xffff, 1 << 31, 0xffffffff, 1 << 32, 1<<32 + 1, 3 << 32, 1 << 63, 1<<64 - 1}
	return edges[s.below(len(edges))]
}

func (s *stream) filter() seccomp.Filter {
	var f seccomp.Filter
	actions := []seccomp.Action{seccomp.ActAllow, seccomp.ActAllow, seccomp.ActErrno, seccomp.ActNotify, seccomp.ActLog, seccomp.ActKillProcess}
	calls, conditions, arguments, operators := fuzzCalls, 4, 6, len(fuzzOperators)
	switch s.below(3) { // many rules of one action are what libseccomp gets
	case 0:
		actions, calls = actions[:1], calls[:6]
	case 1:
		actions, calls, conditions, arguments, operators = actions[:1], calls[:6], 2, 2, 2
	}
	for range s.below(12) {
		r := seccomp.Rule{Action: actions[s.below(len(actions))]}
		if r.Action == seccomp.ActErrno {
			r.Errno = []string{"EPERM", "ENOSYS", "EACCES"}[s.below(3)]
		}
		for range 1 + s.below(2) {
			r.Names = append(r.Names, calls[s.below(len(calls))])
		}
		for range s.below(conditions) {
			c := seccomp.Condition{Index: uint(s.below(arguments)), Op: fuzzOperators[s.below(operators)], Value: s.value()}
			if c.Op == seccomp.OpMaskedEqual {
				c.ValueTwo = c.Value & s.value()
			}
			r.Args = append(r.Args, c)
		}
		f.Rules = append(f.Rules, r)
	}
	if s.below(4) == 1 {
		f.Watch = []string{fuzzCalls[s.below(len(fuzzCalls))]}
	}
	f.ExecOnce = s.below(4) == 1
	return f
}

// valid leaves out the rules that are mistakes, so that few inputs are wasted.
func valid(f seccomp.Filter) seccomp.Filter {
	out := seccomp.Filter{}
	for _, r := range f.Rules {
		if (seccomp.Filter{Rules: []seccomp.Rule{r}}).Validate() == nil {
			out.Rules = append(out.Rules, r)
		}
	}
	for _, more := range []seccomp.Filter{
		{Rules: out.Rules, Watch: f.Watch, ExecOnce: f.ExecOnce},
		{Rules: out.Rules, ExecOnce: f.ExecOnce},
		{Rules: out.Rules, Watch: f.Watch},
	} {
		if more.Validate() == nil {
			return more
		}
	}
	return out
}

// inLinearOrder compiles with libseccomp's other order.
func inLinearOrder(f seccomp.Filter) ([]byte, error) {
	calls, err := f.Calls()
	if err != nil {
		return nil, err
	}
	native, mixed := split(calls)
	first, err := prologue(mixed)
	rest, err2 := libseccompProgram(native, linear)
	return append(first, rest...), errors.Join(err, err2)
}

// withoutLibseccomp decides every call as a mixed one.
func withoutLibseccomp(f seccomp.Filter) ([]byte, error) {
	calls, err := f.Calls()
	if err != nil {
		return nil, err
	}
	first, err := prologue(calls)
	rest, err2 := libseccompProgram(nil, linear)
	return append(first, rest...), errors.Join(err, err2)
}

// check compiles one filter in every way and asks all of them and the
// reference about many calls.
func check(t *testing.T, data []byte) {
	t.Helper()
	s := &stream{data}
	filter := valid(s.filter())
	values := interesting(filter)
	for name, compile := range map[string]func(seccomp.Filter) ([]byte, error){
		"tree": Compile, "linear": inLinearOrder, "without libseccomp": withoutLibseccomp,
	} {
		b, err := compile(filter)
		if err != nil {
			t.Fatalf("%s: %v: %+v", name, err, filter)
		}
		t.Log(name)
		program := decode(t, b)
		for _, call := range fuzzCalls {
			nr, _ := seccomp.Number(call)
			for i := range 6 {
				for j, v := range values {
					d := seccompData{nr: uint32(nr), arch: unix.AUDIT_ARCH_X86_64}
					d.args[i] = v
					d.args[(i+1)%6] = values[(j*7+3)%len(values)]
					d.args[(i+2)%6] = values[(j*5+i)%len(values)]
					compare(t, filter, program, d)
				}
			}
		}
	}
}

// FuzzFilter looks for a filter whose program, in either order, is not what
// the reference says it means.
func FuzzFilter(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{3, 0, 0, 0, 1, 0, 0, 1, 2, 1, 0, 0, 1, 0, 0, 0, 2})
	f.Add([]byte{5, 2, 1, 1, 1, 1, 3, 2, 1, 4, 1, 0, 0, 0, 1, 1, 2, 2, 0, 3, 3, 4, 9, 1, 1, 1})
	f.Fuzz(check)
}

// The same without a fuzzer, for every run of the tests.
func TestRandomFilters(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8)) // #nosec G404 -- a test
	for range 200 {
		data := make([]byte, 200)
		for i := range data {
			data[i] = byte(random.Uint32()) // #nosec G115 -- any byte
		}
		check(t, data)
	}
}
