// Package launch assembles a plan's walls on this host (group, filter, view,
// descriptors), starts a plugin through the keeper and owns its process until
// the last of it has gone.
package launch

import (
	"os"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// Config is what a Launcher needs to know of its host.
type Config struct {
	// CgroupRoot is the group below which plugins get theirs, such as "cordon".
	CgroupRoot string
	// UIDBase and UIDCount are the range of host uids, two for each plugin.
	UIDBase, UIDCount uint32
	// RuntimeDir holds the lock by which launchers agree on uids; default
	// /run/cordon.
	RuntimeDir string
	// Compile makes the BPF program of a filter spec. The daemon links
	// libseccomp; the command line asks a helper and a cache.
	Compile func(seccomp.Filter) ([]byte, error)
	// Form sets the limits that have a form of their own on cgroup v1. The daemon
	// links the library; the command line asks a helper. Without it plans with
	// such limits are refused there.
	Form func(cgroups.Form) error
	// Refuses says why the host's ceiling does not let a path be mounted with
	// this access, or "". It is asked for where a grant leads, without symbolic
	// links: the words of the grant were judged before. Without it the default
	// ceiling judges.
	Refuses func(real string, access []string) string
	// Ready is how many network namespaces, and groups for each of the last sets
	// of limits, are made ahead in the background; 0 makes each start its own.
	Ready int
	// ReadyFails, if set, is called when making ahead begins to fail, and with nil
	// when it works again. Starts make their own meanwhile, and it is tried again.
	ReadyFails func(error)
	// Once is for a launcher whose first start follows at once: its keeper and a
	// network namespace for it are made while New does the rest.
	Once bool
	// Continuity is for plugins that shall outlive this process; without it they
	// end with it.
	Continuity Continuity
	// Settled, if set, is called when starts were followed by none for a while: a
	// start leaves garbage, of which a daemon that then rests would keep as much
	// as it has in use.
	Settled func()
	// Begun, if set, is called when a start comes and none did for that while.
	Begun func()
	// Templates is for how many plans, those used last, a mount namespace is kept
	// that starts enter a copy of, instead of making each its own from nothing; 0
	// keeps none.
	Templates int
}

// Request is one start.
type Request struct {
	// Name is the plugin's, or the run's; it names the group.
	Name string
	Plan *plan.Plan
	// Bundle is the host's path of the sealed copy that becomes /plugin; empty
	// for a bare command.
	Bundle string
	// Data is the host's directory that becomes /data; only with a plan whose
	// data is persistent.
	Data string
	// UID is the host uid (and gid) that the plugin runs as, UID+1 its reaper's;
	// 0 lets the launcher pick a free pair.
	UID uint32
	// Stdin, Stdout, Stderr and Socket (descriptor 3, may be nil) go to the
	// plugin. The caller keeps and closes its own copies.
	Stdin, Stdout, Stderr, Socket *os.File
	// Listen are the plugin's listening sockets, one for each of the plan's, in
	// its order. They become the descriptors after Socket, or 3 and up without it,
	// and the environment says so as sd_listen_fds(3) has it. The caller keeps and
	// closes its own copies.
	Listen []*os.File
	// Keep is what a successor of this process needs to go on with the plugin; nil
	// is for one that ends with it. The Book is the process's then.
	Keep *Keep
	// Pins hold the start to the host's programs that the command is run by; nil has
	// none looked at.
	Pins *Pins
	// KeepWalls has the walls read back before the first instruction and kept,
	// for a plugin that may have ended when it is asked for them.
	KeepWalls bool
	// Network is called at the gate, when every wall is up and no instruction of
	// the plugin has run, with its first process: to open what a plan's egress
	// needs inside its network namespace. Its error ends the start. A plan with
	// egress is refused without it.
	Network func(pid int) error
	// OnViolation is called, never concurrently for one process, after the
	// launcher contained the plugin as the plan's response says: the plugin is
	// frozen (or killed, where it cannot be frozen) when Action is kill or
	// quarantine. It must not block.
	OnViolation func(violation.Violation)
	// Past are the violations of a plugin that is adopted, since it was started,
	// oldest first: they count against its budgets.
	Past []violation.Violation
	// OnPressure, if set, is told when all of the plugin stood still for want of
	// what file is of ("memory.pressure", "cpu.pressure", "io.pressure"), and how
	// often it did by now. It must not block.
	OnPressure func(file string, count int64)
	// Answer, if set, answers every call that reaches the listener, in the place
	// of the plan's responses, which then count no call as a violation: for
	// recording what a program does. It may wait for the program, and holds up
	// every call that this launcher's listener serves meanwhile.
	Answer func(seccomp.Notification) seccomp.Verdict
	// OnWatch is called for every path observed by the file watch, allowed or
	// not; may be nil.
	OnWatch func(violation.Violation)
}

// Exit is how a process tree ended.
type Exit struct {
	// Status is of the plugin's first process.
	Status syscall.WaitStatus
	// Duration is from the plugin's first instruction to its end.
	Duration time.Duration
	Usage    cgroups.Usage
	// Orphaned says that the keeper ended first, and the plugin with it: no doing
	// of the plugin's.
	Orphaned bool
}

// ExecError is returned when the command itself could not be run inside the
// walls; Errno is ENOENT, EACCES or what execve gave.
type ExecError struct {
	Path  string
	Errno syscall.Errno
}

// Enforced is the report of every wall as read back from the kernel.
type Enforced struct {
	Walls []Wall `json:"walls"`
}

// Wall is one wall as the kernel shows it.
type Wall struct {
	Name    string `json:"name"`    // "user namespace", "seccomp", "memory.max" ...
	Promise string `json:"promise"` // files, network, processes, privilege, memory ...
	// Planned and Actual are in the same words, so that they can be compared.
	Planned string `json:"planned"`
	Actual  string `json:"actual"`
	// State is "enforced", "missing" (allowed by best_effort) or "differs".
	State string `json:"state"`
	Note  string `json:"note,omitempty"`
}

// Feature is one thing a host can or cannot give; cordon doctor lists them.
type Feature struct {
	Name   string `json:"name"`
	Wall   string `json:"wall"`
	Have   bool   `json:"have"`
	Detail string `json:"detail"`
	// Need is the kernel option or version that would give it.
	Need string `json:"need,omitempty"`
	// Hard is whether nothing can be walled without it.
	Hard bool `json:"hard"`
}
