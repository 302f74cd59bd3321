package profiles

import (
	"errors"

	"github.com/cordonhq/cordon/profiles/strict"
)

// document is one profile file as written: the language itself. A nil pointer
// is a key that the file does not have. docs/profiles.md describes every key.
type document struct {
	Extends     []string     `toml:"extends"`
	Description *string      `toml:"description"`
	Require     requireTable `toml:"require"`
	Seccomp     seccompTable `toml:"seccomp" aka:"syscalls systemcallfilter"`
	Files       []fileTable  `toml:"files" aka:"mounts mount volumes binds paths filesystem"`
	Proc        struct {
		Mode *string `toml:"mode" oneof:"none pid full"`
	} `toml:"proc"`
	Devices struct {
		Allow  []string `toml:"allow" oneof:"null zero full random urandom"`
		Remove []string `toml:"remove" oneof:"null zero full random urandom"`
	} `toml:"devices"`
	Tmp     tmpfsTable `toml:"tmp"`
	Shm     tmpfsTable `toml:"shm"`
	Data    dataTable  `toml:"data"`
	Network struct {
		Mode *string `toml:"mode" oneof:"none"`
		// Egress are the places that programs reach by name, as if they had a
		// network; Addresses the networks, besides the public ones, in which such
		// a name may lie.
		Egress    []string `toml:"egress"`
		Addresses []string `toml:"addresses"`
		Remove    []string `toml:"remove"`
		// Listen are the addresses of the host whose connections come in by
		// sockets that the plugin has from its start, as "ADDRESS:PORT" or
		// "NAME=ADDRESS:PORT".
		Listen []string `toml:"listen"`
	} `toml:"network"`
	Capability []capabilityTable `toml:"capability"`
	Resources  resourcesTable    `toml:"resources" aka:"limits cgroup cgroups quota quotas"`
	Identity   struct {
		UID *int64 `toml:"uid"`
		GID *int64 `toml:"gid"`
	} `toml:"identity" aka:"user"`
	Environment struct {
		Set    map[string]string `toml:"set"`
		Pass   []string          `toml:"pass"`
		Remove []string          `toml:"remove"`
	} `toml:"environment" aka:"env variables"`
	Lifecycle lifecycleTable `toml:"lifecycle"`
	SLO       sloTable       `toml:"slo" aka:"objective objectives health"`
	Violation violationTable `toml:"violation"`
	Runtime   struct {
		Eval *bool `toml:"eval"`
	} `toml:"runtime"`
	IPC     ipcTable `toml:"ipc"`
	Trust   any      `toml:"trust" refuse:"the table is reserved: bundles are not signed yet"`
	Rollout any      `toml:"rollout" refuse:"the table is reserved: there are no rollouts yet"`
}

// requireTable says per wall whether a start without it is refused.
type requireTable struct {
	Namespaces *requirement `toml:"namespaces"`
	Seccomp    *requirement `toml:"seccomp"`
	Landlock   *requirement `toml:"landlock"`
	Memory     *requirement `toml:"memory"`
	Pids       *requirement `toml:"pids"`
	CPU        *requirement `toml:"cpu"`
	IO         *requirement `toml:"io"`
	Hugetlb    *requirement `toml:"hugetlb"`
}

type requirement struct {
	_      struct{} `short:"Mode"`
	Mode   *string  `toml:"mode" oneof:"hard best_effort"`
	MinABI *int     `toml:"min_abi"`
}

type seccompTable struct {
	Allow  []string          `toml:"allow"`
	Deny   []string          `toml:"deny"`
	Remove []string          `toml:"remove"`
	Errno  map[string]string `toml:"errno"`
	Execve *string           `toml:"execve" oneof:"any once"`
	Rule   []ruleTable       `toml:"rule"`
	// The words of others for what is not to be chosen here.
	DefaultAction any `toml:"default_action" refuse:"there is one default: a known call that is not allowed is a violation, and [violation] seccomp says what follows"`
	NewerCalls    any `toml:"newer_than_profile" refuse:"there is one answer to calls newer than the tables: ENOSYS, so that programs fall back"`
}

// ruleTable is one rule in the words of the OCI runtime specification.
type ruleTable struct {
	Names  []string    `toml:"names"`
	Action *string     `toml:"action" oneof:"SCMP_ACT_ALLOW SCMP_ACT_ERRNO SCMP_ACT_KILL_PROCESS"`
	Errno  *string     `toml:"errno"`
	Args   []condition `toml:"args"`
}

type condition struct {
	Index    *uint64 `toml:"index"`
	Op       *string `toml:"op" oneof:"SCMP_CMP_NE SCMP_CMP_LT SCMP_CMP_LE SCMP_CMP_EQ SCMP_CMP_GE SCMP_CMP_GT SCMP_CMP_MASKED_EQ"`
	Value    *uint64 `toml:"value"`
	ValueTwo *uint64 `toml:"value_two"`
}

type fileTable struct {
	Path     paths   `toml:"path" aka:"target dst dest destination mountpath mount_path"`
	Access   access  `toml:"access" aka:"mode readonly read_only ro rw permissions options"`
	From     *string `toml:"from" aka:"source src hostpath host_path"`
	Optional *bool   `toml:"optional"`
	// Remove takes away what an inherited profile grants at Path.
	Remove *bool `toml:"remove"`
}

// paths is one path, or a list of them.
type paths []string

// ParseTOML reads paths.
func (p *paths) ParseTOML(v any) error {
	list, ok := stringOrList(v)
	if !ok {
		return errors.New(`a path such as "/srv/photos", or a list of them`)
	}
	*p = list
	return nil
}

// access is "r", "rw" or "rx", or a list of Landlock's own names.
type access []string

// ParseTOML reads an access without judging it: the sentence for a wrong one
// says more than "expected".
func (a *access) ParseTOML(v any) error {
	list, ok := stringOrList(v)
	if !ok {
		return errors.New(`"r", "rw", "rx" or a list of Landlock's access names`)
	}
	*a = list
	return nil
}

func stringOrList(v any) ([]string, bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, true
	case []any:
		out := make([]string, 0, len(v))
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, false
			}
			out = append(out, s)
		}
		return out, len(out) > 0
	}
	return nil, false
}

// capabilityTable is one grant of a capability.
type capabilityTable struct {
	Name   string   `toml:"name"`
	Target []string `toml:"target"`
	// Rate, Bytes and Concurrent are the grant's budget.
	Rate       *strict.Budget `toml:"rate"`
	Bytes      *strict.Size   `toml:"bytes"`
	Concurrent *int           `toml:"concurrent"`
	// Remove takes away every inherited grant of Name.
	Remove *bool `toml:"remove"`
}

type tmpfsTable struct {
	Size   *strict.Size  `toml:"size"`
	Inodes *strict.Count `toml:"inodes"`
}

type dataTable struct {
	Persistent *bool         `toml:"persistent"`
	Size       *strict.Size  `toml:"size"`
	Inodes     *strict.Count `toml:"inodes"`
}

type resourcesTable struct {
	MemoryMax     *strict.Size     `toml:"memory.max"`
	MemoryHigh    *strict.Size     `toml:"memory.high"`
	MemorySwapMax *strict.Size     `toml:"memory.swap.max"`
	PidsMax       *strict.Count    `toml:"pids.max"`
	CPUMax        *strict.Percent  `toml:"cpu.max"`
	CPUWeight     *uint64          `toml:"cpu.weight"`
	Cpuset        *string          `toml:"cpuset.cpus"`
	OOMGroup      *bool            `toml:"memory.oom.group"`
	IOReadBPS     *strict.Size     `toml:"io.max.rbps"`
	IOWriteBPS    *strict.Size     `toml:"io.max.wbps"`
	IOReadIOPS    *strict.Count    `toml:"io.max.riops"`
	IOWriteIOPS   *strict.Count    `toml:"io.max.wiops"`
	Hugetlb2M     *strict.Size     `toml:"hugetlb.2MB.max"`
	Hugetlb1G     *strict.Size     `toml:"hugetlb.1GB.max"`
	TimeWall      *strict.Duration `toml:"time.wall"`
	TimeCPU       *strict.Duration `toml:"time.cpu"`
	rlimits
}

// rlimits are the limits of setrlimit(2), by its names. Those that count bytes
// read sizes.
type rlimits struct {
	AS         *rlimitSize  `toml:"rlimit.as"`
	Core       *rlimitSize  `toml:"rlimit.core"`
	Data       *rlimitSize  `toml:"rlimit.data"`
	Fsize      *rlimitSize  `toml:"rlimit.fsize"`
	Memlock    *rlimitSize  `toml:"rlimit.memlock"`
	Msgqueue   *rlimitSize  `toml:"rlimit.msgqueue"`
	Nofile     *rlimitCount `toml:"rlimit.nofile"`
	Nproc      *rlimitCount `toml:"rlimit.nproc"`
	Sigpending *rlimitCount `toml:"rlimit.sigpending"`
	Stack      *rlimitSize  `toml:"rlimit.stack"`
}

type rlimitSize struct {
	_    struct{}     `short:"Both"`
	Both *strict.Size // the short form, rlimit.data = "1G"
	Soft *strict.Size `toml:"soft"`
	Hard *strict.Size `toml:"hard"`
}

type rlimitCount struct {
	_    struct{}      `short:"Both"`
	Both *strict.Count // the short form, rlimit.nofile = 1024
	Soft *strict.Count `toml:"soft"`
	Hard *strict.Count `toml:"hard"`
}

type lifecycleTable struct {
	Restart            *string          `toml:"restart" oneof:"no on-failure always"`
	RestartSec         *strict.Duration `toml:"restart_sec"`
	RestartSteps       *int             `toml:"restart_steps"`
	RestartMaxDelaySec *strict.Duration `toml:"restart_max_delay_sec"`
	ResetAfter         *strict.Duration `toml:"reset_after"`
	StartLimitBurst    *int             `toml:"start_limit_burst"`
	StartLimitInterval *strict.Duration `toml:"start_limit_interval_sec"`
	StartTimeout       *strict.Duration `toml:"timeout_start_sec"`
	StopTimeout        *strict.Duration `toml:"timeout_stop_sec"`
	Watchdog           *strict.Duration `toml:"watchdog_sec"`
	WarmUp             *strict.Duration `toml:"warmup_sec"`
}

type violationTable struct {
	Seccomp  *response `toml:"seccomp"`
	Files    *response `toml:"files"`
	Memory   *response `toml:"memory"`
	Pids     *response `toml:"pids"`
	Time     *response `toml:"time"`
	IPC      *response `toml:"ipc"`
	Grant    *response `toml:"grant"`
	Watchdog *response `toml:"watchdog"`
	Watch    []string  `toml:"watch" oneof:"files"`
	Remove   []string  `toml:"remove" oneof:"files"`
}

type response struct {
	_      struct{}       `short:"Action"`
	Action *string        `toml:"action" oneof:"log deny kill quarantine"`
	Budget *strict.Budget `toml:"budget"`
	Then   *string        `toml:"then" oneof:"log deny kill quarantine"`
}

type ipcTable struct {
	MaxFrame       *strict.Size     `toml:"max_frame"`
	MaxInFlight    *int             `toml:"max_in_flight"`
	MaxQueue       *strict.Size     `toml:"max_queue"`
	MaxDepth       *int             `toml:"max_depth"`
	MaxDescriptors *int             `toml:"max_descriptors"`
	Rate           *int             `toml:"rate"`
	HelloTimeout   *strict.Duration `toml:"hello_timeout"`
	HalfOpen       *strict.Duration `toml:"half_open"`
	CallTimeout    *strict.Duration `toml:"call_timeout"`
	CancelGrace    *strict.Duration `toml:"cancel_grace"`
}
