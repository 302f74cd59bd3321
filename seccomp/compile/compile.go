// Package compile makes the BPF program of a filter with libseccomp. It needs
// cgo, and nothing that is not the daemon or its helper should link it.
//
// The program is a short prologue of ours and then libseccomp's. The prologue
// answers what libseccomp 2.5 has no words for:
//
//   - a foreign architecture and x32 are killed (number -1, which a tracer
//     leaves to have a call skipped, is ENOSYS);
//   - a number that our table does not have is ENOSYS, so that a program falls
//     back as it does on an older kernel;
//   - a call whose rules need an order or overlap. libseccomp has no order
//     among the rules of one call, drops every condition once a rule without
//     any is there, takes each argument once in a rule, and is wrong about
//     several chains that overlap (see isNative).
//
// Everything else is libseccomp's, in binary-tree order, with its default
// action NOTIFY. Jumps are relative, so it does not matter to it where it
// stands. The prologue loads nothing but architecture and number unless a
// mixed call was made, so a call that is allowed whatever its arguments is
// constant to the kernel, which then does not run the program at all
// (seccomp_cache_prepare in kernel/seccomp.c).
//
// Calls are added by number from our table, also those that libseccomp knows
// by name: newer ones it does not, and the filter has one architecture.
package compile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
)

// notifyAPI is libseccomp's API level that has NOTIFY. It is set, not asked
// for, so that the program does not depend on the kernel that compiles it.
const notifyAPI = 6

// setAPI prepares the library once.
var setAPI = sync.OnceValue(func() error { return libseccomp.SetAPI(notifyAPI) })

// Version is that of libseccomp, such as "2.5.4". The same filter and the same
// version give the same bytes.
func Version() string {
	major, minor, micro := libseccomp.GetLibraryVersion()
	return fmt.Sprintf("%d.%d.%d", major, minor, micro)
}

// Compile makes the program of a filter: an array of struct sock_filter in
// little-endian order, 8 bytes each, at most 4096 of them. The bytes are
// deterministic. Every mistake of the filter is in the error.
func Compile(f seccomp.Filter) ([]byte, error) { return compileIn(f, binaryTree) }

// CompileLinear is Compile with libseccomp's part in linear order. It means
// the same and loads slower; it is there to be measured and compared with.
func CompileLinear(f seccomp.Filter) ([]byte, error) { return compileIn(f, linear) }

func compileIn(f seccomp.Filter, order treeOrder) ([]byte, error) {
	calls, err := f.Calls()
	if err != nil {
		return nil, err
	}
	native, mixed := split(calls)
	program, err := prologue(mixed)
	if err != nil {
		return nil, fmt.Errorf("cannot compile the filter: %w", err)
	}
	rest, err := libseccompProgram(native, order)
	if err != nil {
		return nil, fmt.Errorf("cannot compile the filter: %w", err)
	}
	program = append(program, rest...)
	if len(program) > maxInstructions*instructionSize {
		return nil, fmt.Errorf("cannot compile the filter: %w", errTooLong)
	}
	return program, nil
}

// split parts the calls that libseccomp can decide from those it cannot.
func split(calls []seccomp.Call) (native, mixed []seccomp.Call) {
	for _, c := range calls {
		if isNative(c) {
			native = append(native, c)
		} else {
			mixed = append(mixed, c)
		}
	}
	return native, mixed
}

// isNative tells whether libseccomp can say what the arms say: one arm that
// takes each argument once, or several with one action that compare the same
// bits of the same argument with different values.
//
// Chains that overlap otherwise are not the sum of themselves in libseccomp
// 2.5.4: it enters the one whose beginning holds and does not come back to the
// others, and {arg < 0xffffffff} with {arg > 0x100000000} lets 0xffffffff
// through, which neither allows.
func isNative(c seccomp.Call) bool {
	for _, arm := range c.Arms {
		if !isChain(c.NR, arm) {
			return false
		}
	}
	if len(c.Arms) == 1 {
		return true
	}
	first := c.Arms[0]
	return !slices.ContainsFunc(c.Arms, func(a seccomp.Arm) bool {
		return len(a.Args) != 1 || a.Action != first.Action || a.Errno != first.Errno || !sameBits(c.NR, a.Args[0], first.Args[0])
	})
}

// isChain tells whether one arm is a rule of libseccomp's.
func isChain(nr int, arm seccomp.Arm) bool {
	for i, cond := range arm.Args { // sorted by index
		if i > 0 && arm.Args[i-1].Index == cond.Index {
			return false
		}
		if _, ok := nativeCondition(nr, cond); !ok {
			return false
		}
	}
	return true
}

// sameBits tells whether two conditions are equalities of the same bits.
func sameBits(nr int, a, b seccomp.Condition) bool {
	x, _ := nativeCondition(nr, a)
	y, _ := nativeCondition(nr, b)
	if x.Argument != y.Argument || x.Op != y.Op {
		return false
	}
	return x.Op == libseccomp.CompareEqual || x.Op == libseccomp.CompareMaskedEqual && x.Operand1 == y.Operand1
}

// operators are libseccomp's of ours.
var operators = map[seccomp.Operator]libseccomp.ScmpCompareOp{
	seccomp.OpNotEqual:     libseccomp.CompareNotEqual,
	seccomp.OpLess:         libseccomp.CompareLess,
	seccomp.OpLessEqual:    libseccomp.CompareLessOrEqual,
	seccomp.OpEqual:        libseccomp.CompareEqual,
	seccomp.OpGreaterEqual: libseccomp.CompareGreaterEqual,
	seccomp.OpGreater:      libseccomp.CompareGreater,
	seccomp.OpMaskedEqual:  libseccomp.CompareMaskedEqual,
}

// nativeCondition says a condition in libseccomp's words. It always compares
// 64 bits, so where the kernel reads fewer only what a mask can say is native.
func nativeCondition(nr int, c seccomp.Condition) (libseccomp.ScmpCondition, bool) {
	cond := libseccomp.ScmpCondition{Argument: c.Index, Op: operators[c.Op], Operand1: c.Value, Operand2: c.ValueTwo}
	bits := seccomp.ArgBits(nr, c.Index)
	if bits == 64 || c.Op == seccomp.OpMaskedEqual { // whose mask Calls has cut
		return cond, true
	}
	cond.Op, cond.Operand1, cond.Operand2 = libseccomp.CompareMaskedEqual, 1<<bits-1, c.Value
	return cond, c.Op == seccomp.OpEqual
}

// treeOrder is libseccomp's optimisation level.
type treeOrder int

const (
	linear     treeOrder = 1
	binaryTree treeOrder = 2
)

// libseccompProgram is libseccomp's part of the program.
func libseccompProgram(calls []seccomp.Call, order treeOrder) ([]byte, error) {
	if err := setAPI(); err != nil {
		return nil, fmt.Errorf("libseccomp %s has no notifications: %w", Version(), err)
	}
	filter, err := libseccomp.NewFilter(libseccomp.ActNotify)
	if err != nil {
		return nil, fmt.Errorf("libseccomp: new filter: %w", err)
	}
	defer filter.Release()
	if err := prepare(filter, order); err != nil {
		return nil, err
	}
	for _, c := range calls {
		if err := add(filter, c); err != nil {
			return nil, fmt.Errorf("libseccomp: rule for %s: %w", c.Name, err)
		}
	}
	return export(filter)
}

// prepare sets what holds for the whole filter.
func prepare(filter *libseccomp.ScmpFilter, order treeOrder) error {
	arch, err := libseccomp.GetNativeArch()
	if err != nil {
		return fmt.Errorf("libseccomp: native architecture: %w", err)
	}
	if arch != libseccomp.ArchAMD64 {
		return fmt.Errorf("filters for %s are not made yet", runtime.GOARCH)
	}
	if err := filter.SetBadArchAction(libseccomp.ActKillProcess); err != nil {
		return fmt.Errorf("libseccomp: action for foreign architectures: %w", err)
	}
	if err := filter.SetOptimize(int(order)); err != nil {
		return fmt.Errorf("libseccomp: order: %w", err)
	}
	return nil
}

// add says one call to libseccomp.
func add(filter *libseccomp.ScmpFilter, c seccomp.Call) error {
	for _, arm := range c.Arms {
		action, err := nativeAction(arm)
		if err != nil {
			return err
		}
		var conds []libseccomp.ScmpCondition
		for _, cond := range arm.Args {
			nc, _ := nativeCondition(c.NR, cond)
			conds = append(conds, nc)
		}
		if len(conds) == 0 {
			err = filter.AddRuleExact(libseccomp.ScmpSyscall(c.NR), action)
		} else {
			err = filter.AddRuleConditionalExact(libseccomp.ScmpSyscall(c.NR), action, conds)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// nativeAction is libseccomp's of ours. NOTIFY never comes here: it is the
// default, and an arm of it beside others makes the call a mixed one.
func nativeAction(arm seccomp.Arm) (libseccomp.ScmpAction, error) {
	actions := map[seccomp.Action]libseccomp.ScmpAction{
		seccomp.ActAllow:       libseccomp.ActAllow,
		seccomp.ActLog:         libseccomp.ActLog,
		seccomp.ActErrno:       libseccomp.ActErrno,
		seccomp.ActKillProcess: libseccomp.ActKillProcess,
	}
	action, ok := actions[arm.Action]
	if !ok {
		return 0, fmt.Errorf("unknown action %q", arm.Action)
	}
	if arm.Action != seccomp.ActErrno {
		return action, nil
	}
	e, ok := seccomp.ErrnoNumber(arm.Errno)
	if !ok {
		return 0, fmt.Errorf("unknown errno %q", arm.Errno)
	}
	return action.SetReturnCode(int16(e)), nil // #nosec G115 -- an errno is at most 4095
}

// export returns the program's bytes. A memfd, because libseccomp 2.5 writes
// to a descriptor only, and a pipe would need a reader beside it.
func export(filter *libseccomp.ScmpFilter) ([]byte, error) {
	fd, err := unix.MemfdCreate("cordon-bpf", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd: %w", err)
	}
	file := os.NewFile(uintptr(fd), "cordon-bpf")
	defer file.Close() // nothing was written that must last
	if err := filter.ExportBPF(file); err != nil {
		return nil, fmt.Errorf("libseccomp: export: %w", err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	program, err := io.ReadAll(io.LimitReader(file, (maxInstructions+1)*instructionSize))
	if err != nil {
		return nil, err
	}
	if len(program) == 0 || len(program)%instructionSize != 0 {
		return nil, errors.New("libseccomp exported no whole program")
	}
	return slices.Clip(program), nil
}
