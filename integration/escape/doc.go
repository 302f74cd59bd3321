// Package escape is the escape corpus: small programs that really try to get
// out, each with the walls that stop it and the violation that must be told.
//
// Every attack runs behind all walls, where it must fail; behind each wall that
// claims to stop it alone, the others of its case being off, where it must fail
// too; and with all of them off, where it must succeed: a test that cannot fail
// is none. What came of an attack is judged from outside, by the file, packet,
// process or counter of the host, never by what the program says.
//
// Walls have switches in test builds alone, so the tests need -tags walltest.
// They run on a machine of their own (mount, pid, network, IPC and UTS
// namespaces), so that an attack that succeeds finds nothing that matters.
//
//	make escape
package escape
