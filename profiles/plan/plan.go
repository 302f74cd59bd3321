// Package plan holds the resolved sandbox of one plugin as plain data: what
// profile, manifest and ceiling agreed on, with nothing particular to a host.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/seccomp"
)

// Plan is profile x manifest x ceiling, resolved. Every field is data that a
// person wrote or a default that the reference documents.
type Plan struct {
	Profile string `json:"profile"` // the profile's name, such as "node" or "builtin:strict"
	Files   []File `json:"files"`
	// Proc is "none", "pid" or "full" (with masks).
	Proc    string   `json:"proc"`
	Devices []string `json:"devices"`
	Tmp     Tmpfs    `json:"tmp"`  // /tmp
	Shm     Tmpfs    `json:"shm"`  // /dev/shm; Size 0 has none
	Data    Data     `json:"data"` // /data
	Network Network  `json:"network"`
	// Capabilities are what the plugin asked for and was granted.
	Capabilities []Capability        `json:"capabilities,omitempty"`
	Seccomp      seccomp.Filter      `json:"seccomp"`
	Runtime      Runtime             `json:"runtime,omitzero"`
	Limits       cgroups.Limits      `json:"limits"`
	Time         Time                `json:"time"`
	Process      Process             `json:"process"`
	Rlimits      []namespaces.Rlimit `json:"rlimits"`
	// Require says per wall whether the start is refused without it.
	Require map[string]Requirement `json:"require"`
	// Violation says per wall what a violation leads to.
	Violation map[string]Response `json:"violation"`
	// Watch names what is observed beyond what the walls report: "files".
	Watch     []string     `json:"watch,omitempty"`
	Lifecycle Lifecycle    `json:"lifecycle"`
	SLO       Objective    `json:"slo,omitzero"`
	Protocol  ipc.Protocol `json:"protocol,omitempty"`
	IPC       ipc.Limits   `json:"ipc"`
	// Refusals are the asks that were not granted, with whose decision it was.
	Refusals []Refusal `json:"refusals,omitempty"`
	// Asks are everything that the manifest asked for, granted or not, in its
	// order. They are no part of the digest.
	Asks []Ask `json:"-"`
	// Weakened is one sentence for each thing that opens a wall.
	Weakened []string `json:"weakened,omitempty"`
	// Origins names who wrote the rule behind a key, such as
	// "seccomp.allow" -> "builtin:node:14". It is no part of the digest.
	Origins map[string]string `json:"-"`

	settled settled
}

// File is one grant of a path. Path is as the plugin sees it, From as the host
// does (equal unless the profile says otherwise).
type File struct {
	Path string `json:"path"`
	From string `json:"from"`
	// Access are Landlock's names, sorted; "rx" and its like are expanded.
	Access   []string `json:"access"`
	Optional bool     `json:"optional,omitempty"`
	// Origin is who wrote it ("thumbs.toml:12", "--ro"); not in the digest.
	Origin string `json:"-"`
}

// Tmpfs bounds a scratch file system: bytes and inodes.
type Tmpfs struct {
	Size   int64 `json:"size"`
	Inodes int64 `json:"inodes"`
}

// Data is the plugin's own directory, /data.
type Data struct {
	// Persistent keeps it between starts, in a file system of its own on the
	// host's disk. Otherwise it is a fresh tmpfs each time. Either has Size bytes
	// and Inodes inodes.
	Persistent bool  `json:"persistent"`
	Size       int64 `json:"size,omitempty"`
	Inodes     int64 `json:"inodes,omitempty"`
}

// Network is what may be reached.
type Network struct {
	// Mode is "none": an empty network namespace.
	Mode string `json:"mode"`
	// Egress are the only places that can be reached from it, sorted, in the
	// words of grant.ParseEndpoint. Addresses are the networks that are not
	// public and that a name of Egress may lead to all the same.
	Egress    []string `json:"egress,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	// Listen are the listening sockets that the plugin has from its start, in
	// the order of their descriptors.
	Listen []Socket `json:"listen,omitempty"`
}

// MaxListen bounds the listening sockets of one plugin: the launcher gives no
// descriptor above 9.
const MaxListen = 6

// Socket is one listening socket. At is in the words of grant.ParseAddress,
// Name what LISTEN_FDNAMES calls it; sd_listen_fds(3).
type Socket struct {
	Name string `json:"name"`
	At   string `json:"at"`
}

// Capability is one grant of something that the host serves.
type Capability struct {
	Name string `json:"name"`
	// Target is what it is granted for, sorted; empty for a capability that
	// takes none.
	Target []string `json:"target,omitempty"`
	Budget Budget   `json:"budget"`
	// Why is the author's reason, Origin who granted it ("thumbs.toml:12"); not
	// in the digest.
	Why    string `json:"-"`
	Origin string `json:"-"`
}

// Budget bounds the use of one grant by one run of the plugin.
type Budget struct {
	// Rate is how many calls within Window.
	Rate   int           `json:"rate"`
	Window time.Duration `json:"window"`
	// Bytes is how much may pass in all; 0 is without bound.
	Bytes int64 `json:"bytes,omitempty"`
	// Concurrent is how many calls at once, and how many open connections.
	Concurrent int `json:"concurrent"`
}

// Runtime is what is asked of the program that interprets the plugin. It is no
// wall: nothing but that program keeps it.
type Runtime struct {
	// NoEval has Node.js make no code from strings.
	NoEval bool `json:"no_eval,omitempty"`
}

// Time bounds the whole life of the process tree; 0 is without bound.
type Time struct {
	Wall time.Duration `json:"wall,omitempty"`
	CPU  time.Duration `json:"cpu,omitempty"`
}

// Process is what runs. Env is sorted, and has the values of Pass.
type Process struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
	// Pass names the variables that cordon run takes from its caller, sorted.
	Pass     []string `json:"pass,omitempty"`
	Cwd      string   `json:"cwd"`
	Hostname string   `json:"hostname"`
	UID      uint32   `json:"uid"`
	GID      uint32   `json:"gid"`
}

// Requirement says what a missing wall means.
type Requirement struct {
	// Mode is "hard" (refuse to start) or "best_effort" (start with less and
	// say so).
	Mode string `json:"mode"`
	// MinABI is for Landlock: the kernel's ABI must be at least this.
	MinABI int `json:"min_abi,omitempty"`
}

// Response is what a violation of one wall leads to. With a Budget, the first
// Budget violations within Window get Action and the next gets Then.
type Response struct {
	Action string        `json:"action"` // log, deny, kill, quarantine
	Budget int           `json:"budget,omitempty"`
	Window time.Duration `json:"window,omitempty"`
	Then   string        `json:"then,omitempty"`
}

// Lifecycle is in systemd's words.
type Lifecycle struct {
	Restart            string        `json:"restart"` // no, on-failure, always
	RestartSec         time.Duration `json:"restart_sec"`
	RestartSteps       int           `json:"restart_steps"`
	RestartMaxDelaySec time.Duration `json:"restart_max_delay_sec"`
	ResetAfter         time.Duration `json:"reset_after"`
	StartLimitBurst    int           `json:"start_limit_burst"`
	StartLimitInterval time.Duration `json:"start_limit_interval_sec"`
	// StartTimeout bounds spawn to ready, StopTimeout TERM to kill.
	StartTimeout time.Duration `json:"timeout_start_sec"`
	StopTimeout  time.Duration `json:"timeout_stop_sec"`
	// Watchdog is how long it may fail to answer when asked for its health; 0
	// does not ask.
	Watchdog time.Duration `json:"watchdog_sec,omitempty"`
	// WarmUp is how long after its hello it may take to say that it is well; 0 does
	// not ask.
	WarmUp time.Duration `json:"warmup_sec,omitempty"`
}

// Refusal is one ask that was not granted.
type Refusal struct {
	Ask string `json:"ask"` // such as `file /etc/ssl rx`
	Why string `json:"why"` // the author's reason
	By  string `json:"by"`  // "profile", "ceiling" or "host"
	// Hint is what would grant it.
	Hint string `json:"hint,omitempty"`
}

// Ask is one thing that a manifest asked for, and what became of it.
type Ask struct {
	Ask     string // such as `file /etc/ssl rx`, as in Refusal
	Why     string // the author's reason
	Granted bool
	// Decision is who decided, and by which rule: a sentence.
	Decision string
}

// PolicyDigest is the same for the same plan on every machine: sha256 over the
// plan's canonical JSON, as "sha256:" and 64 hex digits.
func (p *Plan) PolicyDigest() string {
	if p.settled.of == p {
		return p.settled.digest
	}
	b, err := json.Marshal(p)
	if err != nil { // plain data always marshals
		panic(fmt.Sprintf("plan: cannot marshal: %v", err))
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// settled is the digest of a plan that nobody changes any more. A copy of the
// plan, which may be changed, is not the one that it is of.
type settled struct {
	of     *Plan
	digest string
}

// Settle has the digest worked out once and for all: several starts of one plan
// ask for it, each several times. Call it before anyone else has the plan, which
// must not be changed from then on; a copy may be.
func (p *Plan) Settle() {
	p.settled = settled{}
	p.settled = settled{p, p.PolicyDigest()}
}
