package profiles

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/profiles/strict"
	"github.com/cordonhq/cordon/seccomp"
)

// Input is what Resolve brings together.
type Input struct {
	// Profile is required.
	Profile *Profile
	// Manifest is nil for a bare command.
	Manifest *manifest.Manifest
	// Ceiling is DefaultCeiling's if nil.
	Ceiling *Ceiling
	// Argv replaces the manifest's command; required without a manifest.
	Argv []string
	// Env are NAME=VALUE of the operator's, and stand above all others.
	Env []string
	// CallerEnv is the environment that `[environment] pass` takes from, as
	// NAME=VALUE; nil passes nothing.
	CallerEnv []string
	// Cwd is inside; by default "/plugin" with a manifest and "/" without.
	Cwd string
	// Files are granted by the operator beyond the profile (--ro, --rw). Their
	// Access may be a shorthand. A grant replaces the profile's of the same path.
	Files []plan.File
	// Watch observes files whatever the profile says.
	Watch bool
	// Hostname is inside; by default the manifest's name, or "cordon".
	Hostname string
}

// Resolve gives what profile, manifest and ceiling agree on. It asks nothing
// of the host, so the same input gives the same plan, and policy digest, on
// every machine. Asks that are not granted, and bounds that were lowered to
// the ceiling, stand in the plan's Refusals; an error is about an input that
// cannot be used at all.
func Resolve(in Input) (*plan.Plan, error) {
	if in.Profile == nil {
		return nil, errors.New("cannot resolve: no profile")
	}
	if in.Ceiling == nil {
		in.Ceiling = DefaultCeiling()
	}
	if !in.Ceiling.admits(in.Profile) {
		return nil, fmt.Errorf("cannot use profile %s: ceiling.profiles admits %s only", in.Profile.name, strings.Join(in.Ceiling.Profiles, ", "))
	}
	b := newBuilder(in)
	for _, l := range in.Profile.layers {
		b.layer(l)
	}
	if err := b.own(); err != nil {
		return nil, err
	}
	b.ceiling()
	b.asks()
	return b.finish()
}

// builder applies layers, then the ceiling, then the asks.
type builder struct {
	in        Input
	plan      *plan.Plan
	calls     calls
	removed   map[string]string // calls that a file takes away, and where
	grants    map[string]plan.File
	rlimits   map[string]namespaces.Rlimit
	devices   map[string]bool
	watch     map[string]bool
	execve    string // "any" or "once"
	env       map[string]string
	pass      map[string]bool
	egress    map[string]bool
	addresses map[string]bool
	listen    []plan.Socket
	offers    []plan.Capability // what the profile grants of capabilities
}

// manyOrigins is about how many rules of a profile have an origin.
const manyOrigins = 400

func newBuilder(in Input) *builder {
	return &builder{
		in: in,
		plan: &plan.Plan{
			Profile: in.Profile.name, Require: map[string]plan.Requirement{},
			Violation: map[string]plan.Response{}, Origins: make(map[string]string, manyOrigins),
		},
		removed: map[string]string{}, grants: map[string]plan.File{},
		rlimits: map[string]namespaces.Rlimit{}, devices: map[string]bool{},
		watch: map[string]bool{}, env: map[string]string{}, pass: map[string]bool{},
		egress: map[string]bool{}, addresses: map[string]bool{},
	}
}

// layer applies one file.
func (b *builder) layer(l *layer) {
	d := &l.doc
	b.calls.apply(&d.Seccomp, l.pos, b.removed)
	b.origin(l, "seccomp.allow", "seccomp", "files", "ipc")
	b.files(l)
	scalar(b, l, "seccomp.execve", &b.execve, d.Seccomp.Execve)
	scalar(b, l, "proc.mode", &b.plan.Proc, d.Proc.Mode)
	b.list(l, "devices.allow", b.devices, d.Devices.Allow, d.Devices.Remove)
	b.tmpfs(l, "tmp", &b.plan.Tmp, d.Tmp)
	b.tmpfs(l, "shm", &b.plan.Shm, d.Shm)
	scalar(b, l, "data.persistent", &b.plan.Data.Persistent, d.Data.Persistent)
	scalar(b, l, "data.size", &b.plan.Data.Size, (*int64)(d.Data.Size))
	scalar(b, l, "data.inodes", &b.plan.Data.Inodes, (*int64)(d.Data.Inodes))
	scalar(b, l, "network.mode", &b.plan.Network.Mode, d.Network.Mode)
	b.network(l)
	b.capabilities(l)
	b.resources(l)
	b.identity(l)
	b.environment(l)
	if eval := d.Runtime.Eval; eval != nil {
		b.plan.Runtime.NoEval = !*eval
		b.origin(l, "runtime.eval")
	}
	b.lifecycle(l)
	b.slo(l)
	b.requirements(l)
	b.violations(l)
	b.ipc(l)
}

// origin remembers who wrote keys, where the file has them.
func (b *builder) origin(l *layer, keys ...string) {
	for _, key := range keys {
		if l.pos.Has(key) {
			b.plan.Origins[key] = l.pos.Of(key)
		}
	}
}

// scalar overrides one value.
func scalar[T any](b *builder, l *layer, key string, dst, v *T) {
	if v != nil {
		*dst = *v
		b.plan.Origins[key] = l.pos.Of(key)
	}
}

// list adds to a set of words, after taking away.
func (b *builder) list(l *layer, key string, set map[string]bool, add, remove []string) {
	for _, word := range remove {
		delete(set, word)
	}
	for _, word := range add {
		set[word] = true
	}
	b.origin(l, key)
}

func (b *builder) tmpfs(l *layer, key string, dst *plan.Tmpfs, t tmpfsTable) {
	scalar(b, l, key+".size", &dst.Size, (*int64)(t.Size))
	scalar(b, l, key+".inodes", &dst.Inodes, (*int64)(t.Inodes))
}

func (b *builder) resources(l *layer) {
	r, lim := &l.doc.Resources, &b.plan.Limits
	b.limit(l, "memory.max", &lim.MemoryMax, (*int64)(r.MemoryMax))
	b.limit(l, "memory.high", &lim.MemoryHigh, (*int64)(r.MemoryHigh))
	b.limit(l, "memory.swap.max", &lim.MemorySwapMax, (*int64)(r.MemorySwapMax))
	b.limit(l, "pids.max", &lim.PidsMax, (*int64)(r.PidsMax))
	if r.CPUMax != nil {
		lim.CPUMax = cpuMax(*r.CPUMax)
		b.origin(l, "resources.cpu.max")
	}
	if r.CPUWeight != nil {
		weight := *r.CPUWeight
		lim.CPUWeight = &weight
		b.origin(l, "resources.cpu.weight")
	}
	scalar(b, l, "resources.cpuset.cpus", &lim.Cpuset, r.Cpuset)
	scalar(b, l, "resources.memory.oom.group", &lim.MemoryOOMGroup, r.OOMGroup)
	b.limit(l, "io.max.rbps", &lim.IOMax.ReadBPS, (*int64)(r.IOReadBPS))
	b.limit(l, "io.max.wbps", &lim.IOMax.WriteBPS, (*int64)(r.IOWriteBPS))
	b.limit(l, "io.max.riops", &lim.IOMax.ReadIOPS, (*int64)(r.IOReadIOPS))
	b.limit(l, "io.max.wiops", &lim.IOMax.WriteIOPS, (*int64)(r.IOWriteIOPS))
	b.limit(l, "hugetlb.2MB.max", &lim.Hugetlb2M, (*int64)(r.Hugetlb2M))
	b.limit(l, "hugetlb.1GB.max", &lim.Hugetlb1G, (*int64)(r.Hugetlb1G))
	scalar(b, l, "resources.time.wall", &b.plan.Time.Wall, (*time.Duration)(r.TimeWall))
	scalar(b, l, "resources.time.cpu", &b.plan.Time.CPU, (*time.Duration)(r.TimeCPU))
	for _, one := range r.all() {
		b.rlimits[one.name] = namespaces.Rlimit{Name: one.name, Soft: unsigned(*one.soft), Hard: unsigned(*one.hard)}
		b.origin(l, "resources.rlimit."+one.name)
	}
}

// limit overrides one bound of the group; "max" is none.
func (b *builder) limit(l *layer, key string, dst **int64, v *int64) {
	if v == nil {
		return
	}
	*dst = bound(*v)
	b.origin(l, "resources."+key)
}

// bound is a limit as the group has it: nil for none.
func bound(v int64) *int64 {
	if v == strict.Unlimited {
		return nil
	}
	return &v
}

// cpuPeriod is the kernel's default period in microseconds.
const cpuPeriod = 100_000

func cpuMax(p strict.Percent) *cgroups.CPUMax {
	if p == strict.Unlimited {
		return nil
	}
	return &cgroups.CPUMax{Quota: int64(p) * cpuPeriod / 1000, Period: cpuPeriod}
}

// percentOf is the reverse of cpuMax.
func percentOf(m *cgroups.CPUMax) strict.Percent {
	if m == nil {
		return strict.Unlimited
	}
	return strict.Percent(m.Quota * 1000 / cpuPeriod)
}

func (b *builder) identity(l *layer) {
	if id := l.doc.Identity.UID; id != nil {
		b.plan.Process.UID = uint32(*id)
		b.origin(l, "identity.uid")
	}
	if id := l.doc.Identity.GID; id != nil {
		b.plan.Process.GID = uint32(*id)
		b.origin(l, "identity.gid")
	}
}

func (b *builder) environment(l *layer) {
	e := &l.doc.Environment
	for _, name := range e.Remove {
		delete(b.env, name)
		delete(b.pass, name)
	}
	for _, name := range sortedKeys(e.Set) {
		value, err := expandVariables(e.Set[name])
		if err != nil { // checked when the file was read
			continue
		}
		b.env[name] = value
		b.origin(l, keyed("environment.set", name))
	}
	b.list(l, "environment.pass", b.pass, e.Pass, nil)
}

func (b *builder) lifecycle(l *layer) {
	t, p := &l.doc.Lifecycle, &b.plan.Lifecycle
	scalar(b, l, "lifecycle.restart", &p.Restart, t.Restart)
	scalar(b, l, "lifecycle.restart_sec", &p.RestartSec, (*time.Duration)(t.RestartSec))
	scalar(b, l, "lifecycle.restart_steps", &p.RestartSteps, t.RestartSteps)
	scalar(b, l, "lifecycle.restart_max_delay_sec", &p.RestartMaxDelaySec, (*time.Duration)(t.RestartMaxDelaySec))
	scalar(b, l, "lifecycle.reset_after", &p.ResetAfter, (*time.Duration)(t.ResetAfter))
	scalar(b, l, "lifecycle.start_limit_burst", &p.StartLimitBurst, t.StartLimitBurst)
	scalar(b, l, "lifecycle.start_limit_interval_sec", &p.StartLimitInterval, (*time.Duration)(t.StartLimitInterval))
	scalar(b, l, "lifecycle.timeout_start_sec", &p.StartTimeout, (*time.Duration)(t.StartTimeout))
	scalar(b, l, "lifecycle.timeout_stop_sec", &p.StopTimeout, (*time.Duration)(t.StopTimeout))
	scalar(b, l, "lifecycle.watchdog_sec", &p.Watchdog, (*time.Duration)(t.Watchdog))
	scalar(b, l, "lifecycle.warmup_sec", &p.WarmUp, (*time.Duration)(t.WarmUp))
}

func (b *builder) requirements(l *layer) {
	for wall, r := range l.doc.Require.all() {
		have := b.plan.Require[wall]
		set(&have.Mode, r.Mode)
		set(&have.MinABI, r.MinABI)
		b.plan.Require[wall] = have
		b.origin(l, "require."+wall)
	}
}

// violations override a wall's response whole: a budget belongs to its action.
func (b *builder) violations(l *layer) {
	for wall, r := range l.doc.Violation.all() {
		have := plan.Response{Action: b.plan.Violation[wall].Action}
		set(&have.Action, r.Action)
		set(&have.Then, r.Then)
		if r.Budget != nil {
			have.Budget, have.Window = r.Budget.Count, r.Budget.Window
		}
		b.plan.Violation[wall] = have
		b.origin(l, "violation."+wall)
	}
	b.list(l, "violation.watch", b.watch, l.doc.Violation.Watch, l.doc.Violation.Remove)
}

func (b *builder) ipc(l *layer) {
	t, p := &l.doc.IPC, &b.plan.IPC
	integer := func(key string, dst *int, v *strict.Size) {
		if v != nil {
			*dst = int(*v)
			b.origin(l, key)
		}
	}
	integer("ipc.max_frame", &p.MaxFrame, t.MaxFrame)
	integer("ipc.max_queue", &p.MaxQueue, t.MaxQueue)
	scalar(b, l, "ipc.max_in_flight", &p.MaxInFlight, t.MaxInFlight)
	scalar(b, l, "ipc.max_depth", &p.MaxDepth, t.MaxDepth)
	scalar(b, l, "ipc.max_descriptors", &p.MaxDescriptors, t.MaxDescriptors)
	scalar(b, l, "ipc.rate", &p.Rate, t.Rate)
	scalar(b, l, "ipc.hello_timeout", &p.HelloTimeout, (*time.Duration)(t.HelloTimeout))
	scalar(b, l, "ipc.half_open", &p.HalfOpen, (*time.Duration)(t.HalfOpen))
	scalar(b, l, "ipc.call_timeout", &p.CallTimeout, (*time.Duration)(t.CallTimeout))
	scalar(b, l, "ipc.cancel_grace", &p.CancelGrace, (*time.Duration)(t.CancelGrace))
}

// files applies the grants of one file; one of the same path replaces.
func (b *builder) files(l *layer) {
	for i := range l.doc.Files {
		f := &l.doc.Files[i]
		access, wrong := ExpandAccess(f.Access)
		origin := l.pos.Of(index("files", i))
		for _, p := range f.Path {
			p, err := expandVariables(p)
			if err != nil { // checked when the file was read
				continue
			}
			if f.Remove != nil && *f.Remove {
				delete(b.grants, p)
				continue
			}
			if wrong != nil {
				continue
			}
			g := plan.File{Path: p, From: p, Access: access, Origin: origin}
			set(&g.From, f.From)
			set(&g.Optional, f.Optional)
			b.grants[p] = g
		}
	}
}

func index(key string, i int) string { return key + "[" + strconv.Itoa(i) + "]" }

// own applies what the operator says beside the profile, and the command.
func (b *builder) own() error {
	for _, f := range b.in.Files {
		if err := b.ownFile(f); err != nil {
			return err
		}
	}
	if b.in.Watch {
		b.watch["files"] = true
	}
	return b.process()
}

func (b *builder) ownFile(f plan.File) error {
	if f.From == "" {
		f.From = f.Path
	}
	access, err := ExpandAccess(f.Access)
	if err == nil {
		err = checkGrant(f.Path)
	}
	if err == nil && !cleanAbs(f.From) {
		err = fmt.Errorf("expected an absolute path without '..', got %q", clip(f.From))
	}
	if err != nil {
		return fmt.Errorf("cannot grant %s: %w", clip(f.From), err)
	}
	if why := b.in.Ceiling.refuses(f.From, access); why != "" {
		return fmt.Errorf("cannot grant %s: the host's ceiling refuses it: %s", f.From, why)
	}
	f.Access = access
	if f.Origin == "" {
		f.Origin = "the command line"
	}
	b.grants[f.Path] = f
	return nil
}

// The bounds of a command.
const (
	maxArgv = 4096
	maxEnv  = 1024
)

func (b *builder) process() error {
	p, m := &b.plan.Process, b.in.Manifest
	p.Argv, p.Cwd, p.Hostname = b.in.Argv, b.in.Cwd, b.in.Hostname
	if m != nil {
		if len(p.Argv) == 0 {
			p.Argv = m.Exec
		}
		b.plan.Protocol = m.Protocol
	}
	if p.Cwd == "" {
		p.Cwd = "/"
		if m != nil {
			p.Cwd = "/plugin"
		}
	}
	if p.Hostname == "" {
		p.Hostname = hostname(m)
	}
	if !cleanAbs(p.Cwd) {
		return fmt.Errorf("cannot use the working directory %q: expected an absolute path without '..'", clip(p.Cwd))
	}
	if err := b.argv(); err != nil {
		return err
	}
	return b.environ()
}

// hostname is the manifest's name as a host name: 63 letters, digits and '-'.
func hostname(m *manifest.Manifest) string {
	if m == nil {
		return "cordon"
	}
	name := strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, m.Name)
	return name[:min(len(name), 63)]
}

func (b *builder) argv() error {
	p := &b.plan.Process
	if len(p.Argv) == 0 || p.Argv[0] == "" {
		return errors.New("cannot resolve: no command to run")
	}
	if len(p.Argv) > maxArgv {
		return fmt.Errorf("cannot run %s: more than %d arguments", clip(p.Argv[0]), maxArgv)
	}
	fromManifest := len(b.in.Argv) == 0
	argv := make([]string, len(p.Argv))
	for i, arg := range p.Argv {
		if strings.ContainsRune(arg, 0) || len(arg) > maxValue*4 {
			return fmt.Errorf("cannot run %s: argument %d is longer than %d bytes or holds a NUL", clip(p.Argv[0]), i, maxValue*4)
		}
		argv[i] = arg
		if !fromManifest { // an operator's arguments are taken as they stand
			continue
		}
		expanded, err := expandVariables(arg)
		if err != nil {
			return fmt.Errorf("cannot run %s: plugin.exec[%d]: %w", clip(p.Argv[0]), i, err)
		}
		argv[i] = expanded
	}
	p.Argv = argv
	return nil
}

// environ puts the variables together: the manifest's stand below the
// profile's, and the operator's own above all.
func (b *builder) environ() error {
	env := map[string]string{
		"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/data", "TMPDIR": "/tmp", "LANG": "C.UTF-8",
	}
	if m := b.in.Manifest; m != nil {
		for _, name := range sortedKeys(m.Environment) {
			value, err := expandVariables(m.Environment[name])
			if err != nil {
				return fmt.Errorf("cannot set %s for %s: %w", name, m.Name, err)
			}
			env[name] = value
		}
	}
	for name, value := range b.env {
		env[name] = value
	}
	for _, pair := range b.in.CallerEnv {
		if name, value, ok := strings.Cut(pair, "="); ok && b.pass[name] {
			env[name] = value
		}
	}
	for _, pair := range b.in.Env {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || !manifest.ValidVariable(name) {
			return fmt.Errorf("cannot set variable %q: expected NAME=VALUE", clip(pair))
		}
		env[name] = value
	}
	if b.plan.Runtime.NoEval {
		env["NODE_OPTIONS"] = withFlag(env["NODE_OPTIONS"], noEvalFlag)
	}
	if len(env) > maxEnv {
		return fmt.Errorf("cannot set %d variables: at most %d", len(env), maxEnv)
	}
	if len(b.pass) > 0 {
		b.plan.Process.Pass = sortedKeys(b.pass)
	}
	for _, name := range sortedKeys(env) {
		if strings.ContainsRune(env[name], 0) || len(env[name]) > maxValue {
			return fmt.Errorf("cannot set variable %s: longer than %d bytes or holds a NUL", name, maxValue)
		}
		b.plan.Process.Env = append(b.plan.Process.Env, name+"="+env[name])
	}
	return nil
}

// noEvalFlag has Node.js refuse eval and new Function; node(1). It is among the
// flags of V8's that Node.js takes from NODE_OPTIONS.
const noEvalFlag = "--disallow-code-generation-from-strings"

// withFlag adds a flag to a list of them, where it is not there.
func withFlag(list, flag string) string {
	if contains(strings.Fields(list), flag) {
		return list
	}
	return strings.TrimSpace(list + " " + flag)
}

// finish writes sets down in order and judges the whole.
func (b *builder) finish() (*plan.Plan, error) {
	p := b.plan
	p.Files = make([]plan.File, 0, len(b.grants))
	for _, at := range sortedKeys(b.grants) {
		if at == "/data" { // always there, and the plugin's own
			continue
		}
		g := b.grants[at]
		p.Files = append(p.Files, g)
		p.Origins["files."+at] = g.Origin
	}
	p.Devices = sortedKeys(b.devices)
	p.Rlimits = []namespaces.Rlimit{}
	for _, name := range sortedKeys(b.rlimits) {
		p.Rlimits = append(p.Rlimits, b.rlimits[name])
	}
	p.Watch = sortedKeys(b.watch)
	if err := b.sockets(); err != nil {
		return nil, fmt.Errorf("cannot use profile %s: %w", p.Profile, err)
	}
	b.finishNetwork()
	p.Seccomp = b.calls.filter(p.Watch)
	p.Seccomp.ExecOnce = b.execve == "once"
	b.callOrigins()
	p.Weakened = b.weakened()
	if err := p.Seccomp.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use profile %s: %w", p.Profile, err)
	}
	return p, nil
}

func (b *builder) callOrigins() {
	for nr, c := range b.calls {
		if c != nil {
			b.plan.Origins[c.key+"."+seccomp.Name(nr)] = c.origin
		}
	}
	for name, at := range b.removed {
		b.plan.Origins["seccomp.deny."+name] = at
	}
}
