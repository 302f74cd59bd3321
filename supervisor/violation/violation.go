// Package violation holds the one type of a wall being hit, whoever detected
// it, and explains it: which wall, which rule, and the smallest change of the
// profile that would allow it.
package violation

import "time"

// Wall is the mechanism that was hit.
type Wall string

// The walls that a violation can name.
const (
	Seccomp  Wall = "seccomp"  // a known call that is not allowed
	Files    Wall = "files"    // a path outside the grants (mount tree and Landlock)
	Memory   Wall = "memory"   // memory.max
	Pids     Wall = "pids"     // pids.max
	Time     Wall = "time"     // time.wall or time.cpu
	IPC      Wall = "ipc"      // the protocol was broken
	Grant    Wall = "grant"    // a capability that was not granted
	Watchdog Wall = "watchdog" // a heartbeat was missed
)

// Action is what was done about it.
type Action string

// The actions a profile can name for a wall, from weakest to strictest.
const (
	Log        Action = "log"        // recorded; only where the operator asks
	Deny       Action = "deny"       // refused, the plugin goes on
	Kill       Action = "kill"       // the plugin is ended; restart policy decides
	Quarantine Action = "quarantine" // ended, evidence kept, not started until released
)

// Violation is one fact of a wall being hit. What a plugin's memory or name
// could have forged is escaped, capped and marked Unverified.
type Violation struct {
	Kind   string    `json:"kind"` // always "violation"
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`
	Plugin string    `json:"plugin,omitempty"`
	Wall   Wall      `json:"wall"`
	// What is the thing refused: a call ("mount"), an access ("read
	// /etc/shadow"), a limit ("pids.max").
	What string `json:"what"`
	// Call, Args are set for Seccomp and, where a call led there, for Files; for
	// Grant they are the capability and what it was asked for.
	Call string   `json:"call,omitempty"`
	Args []string `json:"args,omitempty"`
	// RawArgs are the call's six registers as the kernel saw them; with them
	// Explain can allow one use of a call and not every use.
	RawArgs []uint64 `json:"raw_args,omitempty"`
	// Path and Access are set for Files: access is one of read, write, execute.
	Path   string `json:"path,omitempty"`
	Access string `json:"access,omitempty"`
	// Limit, Peak are figures in the limit's unit, for quotas: bytes, processes,
	// or nanoseconds.
	Limit int64 `json:"limit,omitempty"`
	Peak  int64 `json:"peak,omitempty"`
	Where Where `json:"where"`
	// Suppressed is how many refused calls before this one were counted and not
	// reported one by one, because there were too many. Flood says that they
	// were so many that the action is stricter than the profile's "deny".
	Suppressed int  `json:"suppressed,omitempty"`
	Flood      bool `json:"flood,omitempty"`
	// Action is what was done.
	Action Action `json:"action"`
	// NotEnforced says that the wall only complains: the call was recorded and
	// then made.
	NotEnforced bool `json:"not_enforced,omitempty"`
	// Killed says that the kernel killed the process at the call, whatever the
	// action: of another architecture, or by a rule that kills.
	Killed     bool `json:"killed,omitempty"`
	Unverified bool `json:"unverified,omitempty"`
	// Unliftable says that the grant exists and something else refused it: a
	// revocation, or an address that a name must not lead to.
	Unliftable bool `json:"unliftable,omitempty"`
	// Rule is the rule that refused it, with who wrote it ("builtin:strict:12").
	Rule string `json:"rule,omitempty"`
	// Change is the smallest TOML that would allow it; empty if nothing should.
	Change string `json:"change,omitempty"`
	// Also says what else the change would allow, and when not to make it.
	Also         string `json:"also,omitempty"`
	PolicyDigest string `json:"policy_digest,omitempty"`
	PlanDigest   string `json:"plan_digest,omitempty"`
}

// Where is the place in the plugin: ids as the host sees them.
type Where struct {
	PID int    `json:"pid,omitempty"`
	TID int    `json:"tid,omitempty"`
	PC  uint64 `json:"pc,omitempty"`
	Exe string `json:"exe,omitempty"`
}
