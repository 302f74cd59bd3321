package compile

import (
	"github.com/cordonhq/cordon/seccomp"
	"golang.org/x/sys/unix"
)

// skippedCall is the number that a tracer leaves to have a call skipped. It is
// no call of x32, although it has the bit.
const skippedCall = 0xffffffff

// prologue returns the instructions that stand before libseccomp's program:
// the guards, then the calls in mixed. Everything else falls into the program,
// which finds neither register nor memory changed that it relies on.
func prologue(mixed []seccomp.Call) ([]byte, error) {
	a := newAssembler()
	program := a.label()
	known := a.label()
	a.guards(known)
	a.place(known)
	if err := a.mixedCalls(mixed, program); err != nil {
		return nil, err
	}
	a.place(program)
	return a.finish()
}

// guards answers a foreign architecture, x32 and every number that the table
// does not have. Known calls go on at known.
func (a *assembler) guards(known label) {
	kill, unknown, foreign := a.label(), a.label(), a.label()
	a.load(offArch)
	a.when(opJeq, seccomp.AuditArch, nextOne, kill)
	a.load(offNR)
	a.when(opJge, seccomp.ForeignBit, foreign, nextOne)
	ranges := seccomp.KnownRanges()
	for i := len(ranges) - 1; i >= 0; i-- {
		a.when(opJgt, uint32(ranges[i].Last), unknown, nextOne) // #nosec G115 -- a call number
		onFail := nextOne
		if i == 0 {
			onFail = unknown
		}
		a.when(opJge, uint32(ranges[i].First), known, onFail) // #nosec G115 -- a call number
	}
	a.place(foreign)
	a.when(opJeq, skippedCall, unknown, kill)
	a.place(kill)
	a.ret(retKillProcess)
	a.place(unknown)
	a.ret(retErrno | uint32(unix.ENOSYS))
}

// mixedCalls decides the calls that libseccomp cannot; the others go on at
// program.
func (a *assembler) mixedCalls(calls []seccomp.Call, program label) error {
	if len(calls) == 0 {
		return nil
	}
	blocks := make([]label, len(calls))
	for i, c := range calls {
		blocks[i] = a.label()
		other := a.label()
		a.when(opJeq, uint32(c.NR), nextOne, other) // #nosec G115 -- a call number
		a.jump(blocks[i])
		a.place(other)
	}
	a.jump(program)
	for i, c := range calls {
		a.place(blocks[i])
		if err := a.arms(c); err != nil {
			return err
		}
	}
	return a.err
}

// arms tries the arms of one call in order and always returns.
func (a *assembler) arms(c seccomp.Call) error {
	for _, arm := range c.Arms {
		value, err := returnValue(arm.Action, arm.Errno)
		if err != nil {
			return err
		}
		fail := a.label()
		for _, cond := range arm.Args {
			a.condition(cond, seccomp.ArgBits(c.NR, cond.Index), fail)
		}
		a.ret(value)
		if len(arm.Args) == 0 {
			return nil // nothing comes after an arm that always holds
		}
		a.place(fail)
	}
	a.ret(retNotify)
	return nil
}

// condition goes on behind itself if it holds, and at fail if not. It compares
// the bits that the kernel reads of the argument.
func (a *assembler) condition(c seccomp.Condition, bits int, fail label) {
	low := uint32(offArgs + 8*c.Index) // #nosec G115 -- an index is at most 5
	if bits == 64 {
		a.wide(c, low, fail)
		return
	}
	a.load(low)
	if bits < 32 {
		a.and(1<<bits - 1)
	}
	a.lowHalf(c.Op, uint32(c.Value), uint32(c.ValueTwo), fail) // #nosec G115 -- the lower half is meant
}

// lowHalf compares what is loaded.
func (a *assembler) lowHalf(op seccomp.Operator, value, two uint32, fail label) {
	switch op {
	case seccomp.OpEqual:
		a.when(opJeq, value, nextOne, fail)
	case seccomp.OpNotEqual:
		a.when(opJeq, value, fail, nextOne)
	case seccomp.OpLess:
		a.when(opJge, value, fail, nextOne)
	case seccomp.OpLessEqual:
		a.when(opJgt, value, fail, nextOne)
	case seccomp.OpGreaterEqual:
		a.when(opJge, value, nextOne, fail)
	case seccomp.OpGreater:
		a.when(opJgt, value, nextOne, fail)
	case seccomp.OpMaskedEqual:
		a.and(value)
		a.when(opJeq, two, nextOne, fail)
	}
}

// wide compares 64 bits as two halves: the high one decides unless it is
// equal.
func (a *assembler) wide(c seccomp.Condition, low uint32, fail label) {
	high, value, two := uint32(c.Value>>32), uint32(c.Value), uint32(c.ValueTwo) // #nosec G115 -- halves
	holds := a.label()
	a.load(low + 4)
	switch c.Op {
	case seccomp.OpEqual:
		a.when(opJeq, high, nextOne, fail)
	case seccomp.OpMaskedEqual:
		a.and(high)
		a.when(opJeq, uint32(c.ValueTwo>>32), nextOne, fail) // #nosec G115 -- a half
	case seccomp.OpNotEqual:
		a.when(opJeq, high, nextOne, holds)
	case seccomp.OpLess, seccomp.OpLessEqual:
		a.when(opJgt, high, fail, nextOne)
		a.when(opJeq, high, nextOne, holds)
	case seccomp.OpGreater, seccomp.OpGreaterEqual:
		a.when(opJgt, high, holds, nextOne)
		a.when(opJeq, high, nextOne, fail)
	}
	a.load(low)
	a.lowHalf(c.Op, value, two, fail)
	a.place(holds)
}
