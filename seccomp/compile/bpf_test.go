package compile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// seccompData is struct seccomp_data.
type seccompData struct {
	nr   uint32
	arch uint32
	ip   uint64
	args [6]uint64
}

// word is what a load from that offset gives.
func (d *seccompData) word(offset uint32) (uint32, bool) {
	switch {
	case offset%4 != 0 || offset >= 64:
		return 0, false
	case offset == 0:
		return d.nr, true
	case offset == 4:
		return d.arch, true
	case offset < 16:
		return uint32(d.ip >> (8 * (offset - 8))), true // #nosec G115 -- a half
	default:
		return uint32(d.args[(offset-16)/8] >> (8 * (offset % 8))), true // #nosec G115 -- a half
	}
}

// decode is the inverse of the assembler's last step.
func decode(t testing.TB, program []byte) []instruction {
	t.Helper()
	if len(program)%instructionSize != 0 {
		t.Fatalf("the program has %d bytes, which is no whole number of instructions", len(program))
	}
	var out []instruction
	for ; len(program) > 0; program = program[instructionSize:] {
		out = append(out, instruction{
			code: binary.LittleEndian.Uint16(program),
			jt:   program[2], jf: program[3],
			k: binary.LittleEndian.Uint32(program[4:]),
		})
	}
	return out
}

var errNotConstant = errors.New("depends on more than architecture and number")

// interpret runs a program as net/core/filter.c does. With constant, it knows
// only what the kernel's seccomp_is_const_allow knows.
func interpret(program []instruction, d seccompData, constant bool) (uint32, error) {
	var acc, x uint32
	var mem [16]uint32
	for pc := 0; pc < len(program); pc++ {
		i := program[pc]
		hop := func(holds bool) {
			if holds {
				pc += int(i.jt)
			} else {
				pc += int(i.jf)
			}
		}
		switch i.code {
		case opLoad:
			if constant && i.k != offNR && i.k != offArch {
				return 0, errNotConstant
			}
			var ok bool
			if acc, ok = d.word(i.k); !ok {
				return 0, fmt.Errorf("instruction %d loads from %d", pc, i.k)
			}
		case opAnd:
			acc &= i.k
		case opJump:
			pc += int(i.k)
		case opJeq:
			hop(acc == i.k)
		case opJgt:
			hop(acc > i.k)
		case opJge:
			hop(acc >= i.k)
		case opRet:
			return i.k, nil
		default:
			if constant {
				return 0, errNotConstant
			}
			switch i.code {
			case unix.BPF_ST:
				mem[i.k] = acc
			case unix.BPF_LD | unix.BPF_MEM:
				acc = mem[i.k]
			case unix.BPF_MISC | unix.BPF_TAX:
				x = acc
			case unix.BPF_ALU | unix.BPF_AND | unix.BPF_X:
				acc &= x
			default:
				return 0, fmt.Errorf("instruction %d has unknown code %#x", pc, i.code)
			}
		}
	}
	return 0, errors.New("the program has no end")
}
