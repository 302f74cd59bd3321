package seccomp

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Listing shows a program as text, one instruction a line with its number. A
// jump names the instructions that it leads to, the one that follows excepted;
// a comparison of the call's number names the call.
func Listing(program []byte) (string, error) {
	if err := checkProgram(program); err != nil {
		return "", fmt.Errorf("cannot list the program: %w", err)
	}
	var out strings.Builder
	loaded := map[int]string{} // what was loaded last, before each instruction
	for at := range len(program) / instructionBytes {
		b := program[at*instructionBytes:]
		code, jt, jf, k := binary.LittleEndian.Uint16(b), int(b[2]), int(b[3]), binary.LittleEndian.Uint32(b[4:])
		text, next := "", []int{at + 1}
		switch code & 0x07 {
		case unix.BPF_LD:
			text = "load " + dataWord(k)
			loaded[at] = dataWord(k)
		case unix.BPF_JMP:
			text = jumpWord(code, at, jt, jf, k, loaded[at])
			if next = []int{at + 1 + jt, at + 1 + jf}; code&0xf0 == unix.BPF_JA {
				next = []int{at + 1 + int(k)}
			}
		case unix.BPF_RET:
			text, next = "return "+returnWord(k), nil
		case unix.BPF_ALU:
			text = fmt.Sprintf("and %#x", k)
			loaded[at] = "bits of " + loaded[at]
		default:
			text = fmt.Sprintf("code %#x, jt %d, jf %d, k %#x", code, jt, jf, k)
		}
		fmt.Fprintf(&out, "%4d  %s\n", at, text)
		for _, n := range next { // jumps lead forward only
			loaded[n] = loaded[at]
		}
	}
	return out.String(), nil
}

// dataWord names an offset into struct seccomp_data.
func dataWord(offset uint32) string {
	switch {
	case offset == 0:
		return "number"
	case offset == 4:
		return "architecture"
	case offset < 16:
		return fmt.Sprintf("data[%d]", offset)
	case offset%8 == 0:
		return fmt.Sprintf("argument %d, low half", (offset-16)/8)
	default:
		return fmt.Sprintf("argument %d, high half", (offset-16)/8)
	}
}

// jumpWord shows a jump.
func jumpWord(code uint16, at, jt, jf int, k uint32, loaded string) string {
	comparison := map[uint16]string{unix.BPF_JEQ: "==", unix.BPF_JGT: ">", unix.BPF_JGE: ">=", unix.BPF_JSET: "&"}[code&0xf0]
	if comparison == "" {
		return fmt.Sprintf("go to %d", at+1+int(k))
	}
	text := fmt.Sprintf("if %s %s", comparison, valueWord(k, loaded))
	switch {
	case jt == 0:
		return fmt.Sprintf("%s go on, else %d", text, at+1+jf)
	case jf == 0:
		return fmt.Sprintf("%s go to %d", text, at+1+jt)
	default:
		return fmt.Sprintf("%s go to %d, else %d", text, at+1+jt, at+1+jf)
	}
}

// valueWord names what a comparison compares with.
func valueWord(k uint32, loaded string) string {
	switch {
	case loaded == "number" && Known(int(k)):
		return Name(int(k))
	case loaded == "architecture" && k == AuditArch:
		return "x86_64"
	default:
		return fmt.Sprintf("%#x", k)
	}
}

// returnWord names a return value by its action.
func returnWord(k uint32) string {
	data := k & unix.SECCOMP_RET_DATA
	switch k & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW:
		return string(ActAllow)
	case unix.SECCOMP_RET_LOG:
		return string(ActLog)
	case unix.SECCOMP_RET_USER_NOTIF:
		return string(ActNotify)
	case unix.SECCOMP_RET_KILL_PROCESS:
		return string(ActKillProcess)
	case unix.SECCOMP_RET_ERRNO:
		return fmt.Sprintf("%s %s", ActErrno, errnoWord(data))
	default:
		return fmt.Sprintf("%#x", k)
	}
}

// errnoWord names an errno.
func errnoWord(e uint32) string {
	if name := unix.ErrnoName(unix.Errno(e)); name != "" {
		return name
	}
	return fmt.Sprintf("%d", e)
}
