/* The x86-64 half of sys.h: how a system call is made. */
#ifndef SYS_AMD64_H
#define SYS_AMD64_H

#ifdef FAKE_CALLS /* fuzz.c answers them */
i64 raw_call(i64 n, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f);
#else
static inline i64 raw_call(i64 n, i64 a, i64 b, i64 c, i64 d, i64 e, i64 f)
{
	i64 ret;
	register i64 r10 __asm__("r10") = d;
	register i64 r8 __asm__("r8") = e;
	register i64 r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(ret) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#endif

#define AUDIT_ARCH_NATIVE 0xc000003e

#endif
