/* The x86-64 half of sys.h: how a system call is made and a stack is changed. */
#ifndef SYS_AMD64_H
#define SYS_AMD64_H

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

/*
 * clone3 into run(arg) on the stack that args names. The child never returns:
 * it shares the parent's memory, so a return would run on the parent's frames.
 */
static inline i64 clone_on_stack(struct clone_args *args, u64 size, void (*run)(void *), void *arg)
{
	i64 ret;
	register void (*r12)(void *) __asm__("r12") = run;
	register void *r13 __asm__("r13") = arg;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r13, %%rdi\n\t"
			 "call *%%r12\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(ret)
			 : "a"((i64)__NR_clone3), "D"(args), "S"(size), "r"(r12), "r"(r13)
			 : "rcx", "r11", "memory");
	return ret;
}

#define AUDIT_ARCH_NATIVE 0xc000003e

#endif
