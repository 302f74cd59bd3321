// Package seccomp turns a filter spec into a BPF program and serves the
// listener that tells the supervisor about every known call that is not
// allowed. The spec and the listener need no cgo; compiling by libseccomp is
// in the package seccomp/compile, so that only programs that compile link it.
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

// Condition is one comparison of one argument. For OpMaskedEqual, Value is the
// mask and ValueTwo what the masked argument must equal, as in the OCI
// specification; otherwise ValueTwo is unused.
type Condition struct {
	Index    uint     `json:"index"`
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
// host.
//
// A call that the tables do not know is answered ENOSYS by the program itself.
// A known call that no rule matches goes to the listener. A foreign
// architecture and x32 kill the process.
type Filter struct {
	Rules []Rule `json:"rules"`
	// Watch names calls that go to the listener only to be observed: it
	// records them and lets the kernel go on. They must be allowed without
	// conditions.
	Watch []string `json:"watch,omitempty"`
}
