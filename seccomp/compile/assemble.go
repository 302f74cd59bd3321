package compile

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cordonhq/cordon/seccomp"
	"golang.org/x/sys/unix"
)

// Offsets into struct seccomp_data (linux/seccomp.h), little-endian.
const (
	offNR   = 0
	offArch = 4
	offArgs = 16
)

// Return values of a program (linux/seccomp.h).
const (
	retKillProcess = 0x80000000
	retErrno       = 0x00050000
	retNotify      = 0x7fc00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000
)

const (
	instructionSize = 8
	maxInstructions = unix.BPF_MAXINSNS
)

// instruction is struct sock_filter.
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// Opcodes that we emit.
const (
	opLoad  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opRet   = unix.BPF_RET | unix.BPF_K
	opJump  = unix.BPF_JMP | unix.BPF_JA
	opJeq   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opJgt   = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opJge   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	maxHop  = 255
	nextOne = label(0) // the instruction that follows
)

// label is a place that code may jump forward to, before it is known.
type label int

// pending is a jump whose distance is not known yet.
type pending struct {
	at     int // the instruction
	onTrue label
	onFail label
}

// assembler writes instructions with forward jumps to labels. The first error
// stays and is returned at the end.
type assembler struct {
	code   []instruction
	refs   []pending
	places map[label]int
	last   label
	err    error
}

func newAssembler() *assembler { return &assembler{places: make(map[label]int)} }

// label makes one that is not placed yet.
func (a *assembler) label() label {
	a.last++
	return a.last
}

// place puts the label before the next instruction.
func (a *assembler) place(l label) { a.places[l] = len(a.code) }

func (a *assembler) load(offset uint32) { a.emit(instruction{code: opLoad, k: offset}) }
func (a *assembler) and(mask uint32)    { a.emit(instruction{code: opAnd, k: mask}) }
func (a *assembler) ret(value uint32)   { a.emit(instruction{code: opRet, k: value}) }

// when compares what is loaded with k and goes on at one of two places.
func (a *assembler) when(op uint16, k uint32, onTrue, onFail label) {
	a.refs = append(a.refs, pending{len(a.code), onTrue, onFail})
	a.emit(instruction{code: op, k: k})
}

// jump goes on at a place, however far it is.
func (a *assembler) jump(to label) {
	a.refs = append(a.refs, pending{at: len(a.code), onTrue: to})
	a.emit(instruction{code: opJump})
}

func (a *assembler) emit(i instruction) {
	if len(a.code) >= maxInstructions {
		a.err = errTooLong
		return
	}
	a.code = append(a.code, i)
}

var errTooLong = fmt.Errorf("the program has more than the kernel's %d instructions; name fewer conditions", maxInstructions)

// finish resolves the jumps and returns the bytes.
func (a *assembler) finish() ([]byte, error) {
	for _, r := range a.refs {
		if a.err != nil {
			return nil, a.err
		}
		a.resolve(r)
	}
	out := make([]byte, 0, len(a.code)*instructionSize)
	for _, i := range a.code {
		out = binary.LittleEndian.AppendUint16(out, i.code)
		out = append(out, i.jt, i.jf)
		out = binary.LittleEndian.AppendUint32(out, i.k)
	}
	return out, a.err
}

func (a *assembler) resolve(r pending) {
	i := &a.code[r.at]
	if i.code == opJump {
		i.k = uint32(a.distance(r.at, r.onTrue)) // #nosec G115 -- bounded by maxInstructions
		return
	}
	t, f := a.distance(r.at, r.onTrue), a.distance(r.at, r.onFail)
	if t > maxHop || f > maxHop {
		a.err = errors.New("a jump of the program is too long")
		return
	}
	i.jt, i.jf = uint8(t), uint8(f) // #nosec G115 -- bounded just above
}

// distance is how many instructions lie between a jump and its label.
func (a *assembler) distance(from int, to label) int {
	if to == nextOne {
		return 0
	}
	at, ok := a.places[to]
	if !ok || at <= from {
		a.err = errors.New("a jump of the program leads nowhere")
		return 0
	}
	return at - from - 1
}

// returnValue is what a program returns for an action.
func returnValue(action seccomp.Action, errno string) (uint32, error) {
	switch action {
	case seccomp.ActAllow:
		return retAllow, nil
	case seccomp.ActLog:
		return retLog, nil
	case seccomp.ActNotify:
		return retNotify, nil
	case seccomp.ActKillProcess:
		return retKillProcess, nil
	case seccomp.ActErrno:
		e, ok := seccomp.ErrnoNumber(errno)
		if !ok {
			return 0, fmt.Errorf("unknown errno %q", errno)
		}
		return retErrno | uint32(e), nil // #nosec G115 -- an errno is at most 4095
	default:
		return 0, fmt.Errorf("unknown action %q", action)
	}
}
