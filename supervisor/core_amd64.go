package supervisor

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
)

const coreMachine = elf.EM_X86_64

// Places in struct elf_prstatus of amd64, in bytes: the thread's id, and of its
// registers (struct user_regs_struct) those that are told.
const (
	statusSize = 336
	statusPID  = 32
	statusRegs = 112

	regR9, regR8, regRAX, regRDX = 8, 9, 10, 12
	regRSI, regRDI, regOrigRAX   = 13, 14, 15
	regRIP, regRSP, regR10       = 16, 19, 7
)

// threadStatus is where a thread stands: in a system call, whose arguments, stack
// and place in the program the kernel tells (proc_pid_syscall(5)), or nowhere known.
func threadStatus(tid int) []byte {
	b := make([]byte, statusSize)
	binary.LittleEndian.PutUint32(b[statusPID:], uint32(tid)) // #nosec G115 -- a thread's id
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", tid))
	f := strings.Fields(string(text))
	if err != nil || len(f) < 3 {
		return b
	}
	put := func(reg int, word string) {
		if v, err := strconv.ParseUint(word, 0, 64); err == nil {
			binary.LittleEndian.PutUint64(b[statusRegs+8*reg:], v)
		}
	}
	put(regRIP, f[len(f)-1])
	put(regRSP, f[len(f)-2])
	if len(f) == 9 {
		for i, reg := range []int{regOrigRAX, regRDI, regRSI, regRDX, regR10, regR8, regR9} {
			put(reg, f[i])
		}
		put(regRAX, f[0])
	}
	return b
}
