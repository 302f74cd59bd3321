// Package control is the wire between the command line and the daemon: the
// types of each request and answer, and the client. The daemon's side
// implements Service. The transport is this project's own IPC (JSON-RPC 2.0,
// length-prefixed) over the control socket; peer credentials decide who may
// call what.
package control

import (
	"encoding/json"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// State is a plugin's, as operators see it.
type State string

// The states of a plugin.
const (
	Stopped     State = "stopped"
	Starting    State = "starting"
	Running     State = "running"
	Stopping    State = "stopping"
	Backoff     State = "backoff" // waiting to be restarted
	Failed      State = "failed"  // start limit hit; waits for an operator
	Quarantined State = "quarantined"
)

// The methods of the control socket. Params and results are the types below.
const (
	MethodInstall = "plugin.install" // InstallParams -> InstallResult
	MethodRemove  = "plugin.remove"  // NameParams -> {}
	MethodStart   = "plugin.start"   // NameParams -> Status, when ready or failed
	MethodStop    = "plugin.stop"    // NameParams -> Status
	MethodRestart = "plugin.restart" // NameParams -> Status
	MethodSwap    = "plugin.swap"    // SwapParams -> Status, when the process before has ended
	MethodEnable  = "plugin.enable"  // NameParams -> Status: start with the daemon
	MethodDisable = "plugin.disable" // NameParams -> Status
	MethodRelease = "plugin.release" // ReleaseParams -> Status
	MethodPin     = "plugin.pin"     // PinParams -> Pinned
	MethodList    = "plugin.list"    // {} -> []Status
	MethodInspect = "plugin.inspect" // NameParams -> Inspection
	MethodCall    = "plugin.call"    // CallParams -> the plugin's result
	MethodLogs    = "plugin.logs"    // LogsParams -> []LogLine; follow: notifications "log"
	MethodWhy     = "plugin.why"     // NameParams -> []violation.Violation, newest last
	MethodEvents  = "events"         // EventsParams -> []Event; follow: notifications "event"
	// MethodAttach turns the connection into a bridge: afterwards notifications
	// "attach.message" carry the client's and the plugin's messages, verbatim.
	MethodAttach = "plugin.attach" // NameParams -> AttachResult
	// MethodAuditCheckpoint signs the audit log as it is now.
	MethodAuditCheckpoint = "audit.checkpoint" // {} -> AuditCheckpoint
	MethodEvidenceList    = "evidence.list"    // NameParams, no name is all -> []Evidence
	MethodEvidenceShow    = "evidence.show"    // EvidenceParams -> EvidenceContent
	MethodUpgrade         = "daemon.upgrade"   // UpgradeParams -> nothing: the connection ends with the daemon's program
	MethodReload          = "daemon.reload"    // {} -> Reloaded: read configuration and profiles anew
)

// NameParams names a plugin.
type NameParams struct {
	Name string `json:"name"`
}

// InstallParams installs the bundle in Dir, a path on the daemon's host.
type InstallParams struct {
	Dir     string `json:"dir"`
	As      string `json:"as,omitempty"` // default: the manifest's name
	Profile string `json:"profile"`
}

// SwapParams replaces the process of a running plugin by another. What is left
// out is as it was; Dir and Profile are root's to give.
type SwapParams struct {
	Name    string `json:"name"`
	Dir     string `json:"dir,omitempty"` // of a bundle of the same plugin, on the daemon's host
	Profile string `json:"profile,omitempty"`
	// Drain is how long the process before may go on with the calls that it has;
	// 30 s if 0, 10 min at most.
	Drain time.Duration `json:"drain_ns,omitempty"`
	// ShareData lets both have the data that is kept, for as long as both run.
	ShareData bool `json:"share_data,omitempty"`
}

// InstallResult says what was asked beside what is granted.
type InstallResult struct {
	Name    string     `json:"name"`
	Version string     `json:"version"`
	Digest  string     `json:"digest"`
	Profile string     `json:"profile"`
	Asks    []Ask      `json:"asks"`
	Plan    *plan.Plan `json:"plan"`
	// Warnings say what keeps it, or others beside it, from being started.
	Warnings []string `json:"warnings,omitempty"`
}

// Ask is one thing that the manifest asks for.
type Ask struct {
	What    string `json:"what"`
	Why     string `json:"why"`
	Granted bool   `json:"granted"`
	// Decision is who decided, and by which rule.
	Decision string `json:"decision"`
}

// UpgradeParams name the program that the daemon is to go on as.
type UpgradeParams struct {
	Program string `json:"program"`
}

// Reloaded is what came of a reload.
type Reloaded struct {
	// Daemon are the keys of the configuration that have changed and hold from the
	// next start of the daemon.
	Daemon []string `json:"daemon,omitempty"`
	// Plugins are the running ones whose profile amounts to something else now, or
	// cannot be used.
	Plugins []Adjusted `json:"plugins,omitempty"`
}

// Adjusted is one running plugin after a reload, by keys of its profile.
type Adjusted struct {
	Name string `json:"name"`
	// Changed hold from now on, Restart from its next start.
	Changed []string `json:"changed,omitempty"`
	Restart []string `json:"restart,omitempty"`
	// Error is why nothing of it was changed.
	Error string `json:"error,omitempty"`
}

// Status is one line of cordon ps.
type Status struct {
	Name     string        `json:"name"`
	Version  string        `json:"version"`
	Profile  string        `json:"profile"`
	State    State         `json:"state"`
	Enabled  bool          `json:"enabled"`
	PID      int           `json:"pid,omitempty"`
	Since    time.Time     `json:"since"` // of the state
	Uptime   time.Duration `json:"uptime_ns"`
	Restarts int           `json:"restarts"`
	Memory   int64         `json:"memory_bytes"`
	// Reason is why it is in this state, in a sentence.
	Reason string `json:"reason,omitempty"`
	// Stage is how far it has got while it starts.
	Stage string `json:"stage,omitempty"`
	// Waits is what keeps it from being started, which will be done without anybody
	// asking again: a plugin that it requires, say.
	Waits string `json:"waits,omitempty"`
	// Draining is why it gets no more calls, while it answers those that it has.
	Draining string `json:"draining,omitempty"`
	// Degraded is set while it does not keep its objective (slo), and Objective is
	// how it stands; nil without one.
	Degraded  *Degraded  `json:"degraded,omitempty"`
	Objective *Objective `json:"objective,omitempty"`
	// NotEnforced are the walls that only complain, as the operator asked.
	NotEnforced []string `json:"not_enforced,omitempty"`
	// Probation is until when it is on probation, nil if it is not.
	Probation *time.Time `json:"probation,omitempty"`
}

// Inspection is everything about one plugin.
type Inspection struct {
	Status       Status            `json:"status"`
	Digest       string            `json:"digest"`
	Signature    string            `json:"signature"` // "unsigned"
	Protocol     string            `json:"protocol"`
	PolicyDigest string            `json:"policy_digest"`
	PlanDigest   string            `json:"plan_digest"`
	Plan         *plan.Plan        `json:"plan"`
	Walls        []launch.Wall     `json:"walls"`    // read back now; empty unless it runs
	Observed     map[string]string `json:"observed"` // "files" -> "enforced, not observed"
	Hello        json.RawMessage   `json:"hello,omitempty"`
	// Started is the plan as digest and time of the last start.
	Violations []violation.Violation `json:"violations"`
	// Stages are those of its newest start that are over; none after a start of the
	// daemon.
	Stages []Stage `json:"stages,omitempty"`
	// Circuits are those that are not simply closed.
	Circuits []Circuit `json:"circuits,omitempty"`
	// Interpreters are the host's programs that it is held to be run by: digests by
	// their path inside.
	Interpreters map[string]string `json:"interpreters,omitempty"`
}

// CircuitState is a circuit breaker's.
type CircuitState string

// The states of a circuit.
const (
	CircuitClosed   CircuitState = "closed"    // calls pass
	CircuitOpen     CircuitState = "open"      // calls are refused
	CircuitHalfOpen CircuitState = "half-open" // one call is tried
)

// Circuit is the breaker of one method, or of the plugin where Method is empty.
type Circuit struct {
	Method   string       `json:"method,omitempty"`
	State    CircuitState `json:"state"`
	Failures int          `json:"failures"` // in a row
	Reason   string       `json:"reason,omitempty"`
	Until    time.Time    `json:"until,omitzero"` // when it is tried again
}

// CallParams calls a method of a running plugin.
type CallParams struct {
	Name    string          `json:"name"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
	Timeout time.Duration   `json:"timeout_ns,omitempty"`
	Meta    CallMeta        `json:"_meta,omitzero"`
	// Accept is how many descriptors the answer may carry.
	Accept int `json:"accept_descriptors,omitempty"`
}

// CallMeta is what goes along with a call to the plugin, and into records.
type CallMeta struct {
	// Traceparent is the caller's trace context (https://www.w3.org/TR/trace-context/);
	// one that is none is ignored.
	Traceparent string `json:"traceparent,omitempty"`
	// RequestID is what the call is called in logs and evidence: 1 to 64 letters,
	// digits, '.', '_' and '-'. Without one the daemon makes one up.
	RequestID string `json:"request_id,omitempty"`
}

// UnmarshalJSON takes members that it does not know, as the protocol says of
// _meta.
func (m *CallMeta) UnmarshalJSON(raw []byte) error {
	type plain CallMeta
	return json.Unmarshal(raw, (*plain)(m))
}

// ReleaseParams releases from quarantine, with the operator's reason.
type ReleaseParams struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
	// Probation is how long any violation that is not merely logged quarantines
	// again; none if 0, a year at most.
	Probation time.Duration `json:"probation_ns,omitempty"`
}

// PinParams make the tools that an MCP server lists now its contract, or have it
// have none. With Interpreter they hold a plugin to the host's programs that its
// command is run by now, or take those of its next start.
type PinParams struct {
	Name        string `json:"name"`
	Remove      bool   `json:"remove,omitempty"`
	Interpreter bool   `json:"interpreter,omitempty"`
}

// Pinned is what is pinned now.
type Pinned struct {
	Digest string   `json:"digest,omitempty"` // of names and schemas
	Tools  []string `json:"tools"`
	// Interpreters are the digests of the host's programs by their path inside.
	Interpreters map[string]string `json:"interpreters,omitempty"`
}

// LogsParams asks for the last Lines lines, and to follow.
type LogsParams struct {
	Name   string `json:"name"`
	Lines  int    `json:"lines"`
	Follow bool   `json:"follow"`
}

// LogLine is one line a plugin printed, control characters escaped.
type LogLine struct {
	Time   time.Time `json:"time"`
	Stream string    `json:"stream"` // stdout or stderr
	Text   string    `json:"text"`
}

// EventsParams asks for events of one plugin, or all.
type EventsParams struct {
	Name   string `json:"name,omitempty"`
	Follow bool   `json:"follow"`
}

// Event is one line of the audit log.
type Event struct {
	Seq    uint64         `json:"seq"`
	Time   time.Time      `json:"time"`
	Plugin string         `json:"plugin,omitempty"`
	Kind   string         `json:"kind"`            // "started", "violation", "quarantined", "released" ...
	Actor  string         `json:"actor,omitempty"` // "uid 0", "daemon", "plugin"
	Text   string         `json:"text"`
	Data   map[string]any `json:"data,omitempty"`
}

// AuditCheckpoint says where the audit log lies, and how far it goes, signed.
// Who keeps it can prove later that the log has only grown since.
type AuditCheckpoint struct {
	// Path is that of the newest records on the daemon's host.
	Path       string `json:"path"`
	Checkpoint string `json:"checkpoint"` // a signed note; c2sp.org/tlog-checkpoint
	PublicKey  string `json:"public_key"`
}

// Evidence is what was kept of one quarantine: a directory that can be carried
// away.
type Evidence struct {
	Plugin string    `json:"plugin"`
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`
	Dir    string    `json:"dir"`
	Size   int64     `json:"size_bytes"`
	Files  []string  `json:"files"`
	// Held says that the quarantine was not released; then it is not removed.
	Held bool `json:"held"`
}

// EvidenceParams asks for one file of evidence: of the newest if ID is empty,
// the violation if File is.
type EvidenceParams struct {
	Name string `json:"name"`
	ID   string `json:"id,omitempty"`
	File string `json:"file,omitempty"`
}

// EvidenceContent is evidence with the text of one of its files, 1 MiB at most.
type EvidenceContent struct {
	Evidence
	File string `json:"file"`
	Text string `json:"text"`
}

// AttachResult is what a bridge starts with.
type AttachResult struct {
	Protocol string `json:"protocol"` // mcp or lsp: the framing the client speaks
}
