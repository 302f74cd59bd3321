// Package seccomp turns a filter spec into a BPF program and serves the
// listener that tells the supervisor about every known call that is not
// allowed. The spec and the listener need no cgo; compiling by libseccomp is
// in the package seccomp/compile, so that only programs that compile link it.
//
// # What a filter means
//
// For a call of the native architecture whose number the table has, the rules
// that name it and whose conditions all hold are looked at. Of these the most
// specific decides (the one with the most conditions), and among equally
// specific ones the strictest: kill, notify, errno, log, allow. So a condition
// makes an exception, whichever way, from a rule without one; and of two rules
// without conditions the stricter stands. If no rule is left, the call goes to
// the listener, and is a violation: also a call that is allowed with other
// arguments. What lies behind the table is not a violation: a number that it
// does not have is answered ENOSYS by the program, as an older kernel would. A
// foreign architecture or x32 kills the process.
//
// A few calls are allowed always (see [AlwaysAllowed]).
//
// # Arguments
//
// An argument is compared as the kernel reads it: of an int the lower 32 bits,
// of a mode 16, unsigned. The table has the signature of every call. A filter
// that compared all 64 bits could be gone round by setting one that the kernel
// ignores. Pointers can be compared, what they point to cannot.
//
// # The listener
//
// [Listener] serves any number of plugins in one loop. Its [Handler] answers at
// once and decodes afterwards, in another goroutine, with [Describe].
//
// Sources: seccomp(2), seccomp_unotify(2), libseccomp's seccomp_rule_add(3),
// and the OCI runtime specification for the words.
package seccomp

// Action is what the kernel does with a call, in libseccomp's words.
type Action string

// The actions a spec may name.
const (
	ActAllow       Action = "SCMP_ACT_ALLOW"
	ActErrno       Action = "SCMP_ACT_ERRNO"
	ActNotify      Action = "SCMP_ACT_NOTIFY"
	ActLog         Action = "SCMP_ACT_LOG"
	ActKillProcess Action = "SCMP_ACT_KILL_PROCESS"
)

// Operator compares one argument, in the words of the OCI specification.
type Operator string

// The operators a condition may use.
const (
	OpNotEqual     Operator = "SCMP_CMP_NE"
	OpLess         Operator = "SCMP_CMP_LT"
	OpLessEqual    Operator = "SCMP_CMP_LE"
	OpEqual        Operator = "SCMP_CMP_EQ"
	OpGreaterEqual Operator = "SCMP_CMP_GE"
	OpGreater      Operator = "SCMP_CMP_GT"
	OpMaskedEqual  Operator = "SCMP_CMP_MASKED_EQ"
)

// ExecOncePage is the size in bytes of page 0. A filter with ExecOnce lets
// execve through with a path that lies there. The launcher, which has a
// capability of the host's (CAP_SYS_RAWIO), puts it there; what is executed has
// another memory, in which it can map nothing below vm.mmap_min_addr. So this
// holds only where that is at least ExecOncePage (proc_sys_vm(5)).
const ExecOncePage = 4096

// Condition is one comparison of one argument. For OpMaskedEqual, Value is the
// mask and ValueTwo what the masked argument must equal, as in the OCI
// specification; otherwise ValueTwo is unused.
type Condition struct {
	Index    uint     `json:"index"` // 0 to 5
	Op       Operator `json:"op"`
	Value    uint64   `json:"value"`
	ValueTwo uint64   `json:"valueTwo,omitempty"`
}

// Rule gives the calls in Names one action, when every condition holds.
type Rule struct {
	Names  []string    `json:"names"`
	Args   []Condition `json:"args,omitempty"`
	Action Action      `json:"action"`
	// Errno is a name such as "EPERM"; only for ActErrno.
	Errno string `json:"errno,omitempty"`
}

// Filter is the spec of one plugin's filter: plain data, the same on every
// host. The package says what it means. Names in it may be groups.
type Filter struct {
	Rules []Rule `json:"rules"`
	// Watch names calls that go to the listener only to be observed: it
	// records them and lets the kernel go on. They must be allowed with some
	// arguments; with others they are what they are without this (see
	// Observed).
	Watch []string `json:"watch,omitempty"`
	// ExecOnce lets execve through once: the launcher's own, which has the path
	// in page 0 (see ExecOncePage). Every later one is a violation, and execveat
	// must not be allowed.
	ExecOnce bool `json:"execOnce,omitempty"`
}
