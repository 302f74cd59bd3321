package main

import "golang.org/x/sys/unix"

// skip has the call at which a traced thread stands fail with EPERM.
func skip(pid int) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(pid, &regs); err != nil {
		return err
	}
	eperm := int64(unix.EPERM)
	regs.Orig_rax, regs.Rax = ^uint64(0), uint64(-eperm) // #nosec G115 -- as the kernel does
	return unix.PtraceSetRegs(pid, &regs)
}
