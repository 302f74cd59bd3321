package profiles

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles/strict"
	"github.com/cordonhq/cordon/seccomp"
)

// checker judges the values of one file that have the right type.
type checker struct {
	pos  *strict.Positions
	errs strict.Errors
}

func (c *checker) fail(key, hint, format string, args ...any) {
	c.errs = append(c.errs, c.pos.Errorf(key, hint, format, args...))
}

func (c *checker) document(doc *document) {
	c.seccomp(&doc.Seccomp)
	for i := range doc.Files {
		c.file(index("files", i), &doc.Files[i])
	}
	c.network(doc)
	c.capabilities(doc)
	c.tmpfs("tmp", doc.Tmp.Size, doc.Tmp.Inodes)
	c.tmpfs("shm", doc.Shm.Size, doc.Shm.Inodes)
	c.tmpfs("data", doc.Data.Size, doc.Data.Inodes)
	c.resources(&doc.Resources)
	c.id("identity.uid", doc.Identity.UID)
	c.id("identity.gid", doc.Identity.GID)
	c.environment(doc)
	c.lifecycle(&doc.Lifecycle)
	c.slo(&doc.SLO)
	c.violation(&doc.Violation)
	c.ipc(&doc.IPC)
	c.require(&doc.Require)
}

func (c *checker) id(key string, v *int64) {
	if v != nil && (*v < 1 || *v > 65533) {
		c.fail(key, "", "expected 1 to 65533 (0 would be root's, 65534 is nobody's), got %d", *v)
	}
}

func (c *checker) tmpfs(key string, size *strict.Size, inodes *strict.Count) {
	if size != nil && *size == strict.Unlimited {
		c.fail(key+".size", "", "expected a size: a scratch file system without bound would be the host's memory")
	} else if size != nil && *size < 4096 && (key != "shm" || *size != 0) {
		c.fail(key+".size", "", "expected at least 4K, got %d bytes", *size)
	}
	if inodes != nil && (*inodes == strict.Unlimited || *inodes < 1) {
		c.fail(key+".inodes", "", "expected a number of at least 1")
	}
}

func (c *checker) seccomp(t *seccompTable) {
	c.calls("seccomp.allow", t.Allow)
	c.calls("seccomp.deny", t.Deny)
	c.calls("seccomp.remove", t.Remove)
	c.notAlways("seccomp.deny", t.Deny)
	c.notAlways("seccomp.remove", t.Remove)
	for _, name := range sortedKeys(t.Errno) {
		key := keyed("seccomp.errno", name)
		c.call(key, name)
		c.errno(key, t.Errno[name])
		c.notAlways(key, []string{name})
	}
	for i := range t.Rule {
		c.rule(index("seccomp.rule", i), &t.Rule[i])
	}
}

// keyed is the path of a name in a table; a group's name is quoted there.
func keyed(table, name string) string {
	return strict.Path(table, name)
}

func (c *checker) calls(key string, names []string) {
	for i, name := range names {
		if !isCall(name) {
			c.call(index(key, i), name)
		}
	}
}

func (c *checker) call(key, name string) {
	if isCall(name) {
		return
	}
	_, err := seccomp.Expand([]string{name})
	if err == nil {
		return
	}
	var unknown *seccomp.UnknownNameError
	hint, kind := "", "system call"
	if errors.As(err, &unknown) && unknown.Nearest != "" {
		hint = fmt.Sprintf("did you mean %q?", unknown.Nearest)
	}
	if strings.HasPrefix(name, "@") {
		kind = "group of system calls"
	}
	c.fail(key, hint, "unknown %s %q", kind, clip(name))
}

// notAlways refuses what would say otherwise of a call that every program
// makes.
func (c *checker) notAlways(key string, names []string) {
	always := seccomp.AlwaysAllowed()
	for i, name := range names {
		members := seccomp.Members(name)
		for _, call := range always {
			if members.Has(call) {
				at := key
				if c.pos.Has(index(key, i)) {
					at = index(key, i)
				}
				c.fail(at, "", "%s is always allowed: no plugin can be started or ended without it", call)
				break
			}
		}
	}
}

func (c *checker) errno(key, name string) {
	if _, ok := seccomp.ErrnoNumber(name); ok {
		return
	}
	hint := ""
	if _, ok := seccomp.ErrnoNumber(strings.ToUpper(name)); ok {
		hint = fmt.Sprintf("the spelling here is %s", strings.ToUpper(name))
	}
	c.fail(key, hint, "expected an errno name such as \"EPERM\" or \"ENOSYS\", got %q", clip(name))
}

func (c *checker) rule(at string, r *ruleTable) {
	c.calls(at+".names", r.Names)
	if len(r.Names) == 0 && !c.pos.Has(at+".names") {
		c.fail(at, `write names = ["..."]`, "a rule needs the calls that it is about")
	}
	if r.Action == nil && !c.pos.Has(at+".action") {
		c.fail(at, `write action = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO" or "SCMP_ACT_KILL_PROCESS"`, "a rule needs an action")
	}
	isErrno := r.Action != nil && *r.Action == string(seccomp.ActErrno)
	switch {
	case r.Errno != nil:
		c.errno(at+".errno", *r.Errno)
		if r.Action != nil && !isErrno {
			c.fail(at+".errno", "remove it", "is only for SCMP_ACT_ERRNO")
		}
	case isErrno && !c.pos.Has(at+".errno"):
		c.fail(at, `write errno = "EPERM"`, "SCMP_ACT_ERRNO needs the errno that the call gets")
	}
	if len(r.Args) > seccomp.MaxConditions {
		c.fail(at+".args", "", "too many conditions: at most %d", seccomp.MaxConditions)
		return
	}
	before := len(c.errs)
	for i, cond := range r.Args {
		c.condition(index(at+".args", i), cond)
	}
	if len(c.errs) == before && len(r.Names) > 0 && r.Action != nil && (!isErrno || r.Errno != nil) {
		c.wholeRule(at, r)
	}
}

func (c *checker) condition(at string, cond condition) {
	need := func(have bool, name, hint string) {
		if !have && !c.pos.Has(at+"."+name) {
			c.fail(at, hint, "a condition needs %s", name)
		}
	}
	need(cond.Index != nil, "index", "write index = 0 for the first argument")
	need(cond.Op != nil, "op", `write op = "SCMP_CMP_EQ"`)
	need(cond.Value != nil, "value", "write value = NUMBER")
}

// wholeRule lets the seccomp package judge the rule, which knows what each
// call's arguments are.
func (c *checker) wholeRule(at string, r *ruleTable) {
	for i, name := range r.Names {
		if !isCall(name) {
			return // reported
		}
		one := r.spec()
		one.Names = []string{name}
		if err := (seccomp.Filter{Rules: []seccomp.Rule{one}}).Validate(); err != nil {
			c.fail(fmt.Sprintf("%s.names[%d]", at, i), "", "%s", afterColon(err.Error()))
		}
	}
}

// afterColon takes the sentence of the first of several joined errors, without
// the words about which rule it was.
func afterColon(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if _, after, ok := strings.Cut(s, "): "); ok {
		return after
	}
	return s
}

// spec is the rule as the seccomp package has it.
func (r *ruleTable) spec() seccomp.Rule {
	out := seccomp.Rule{Names: r.Names}
	if r.Action != nil {
		out.Action = seccomp.Action(*r.Action)
	}
	if r.Errno != nil {
		out.Errno = *r.Errno
	}
	for _, cond := range r.Args {
		var one seccomp.Condition
		set(&one.Index, uintPtr(cond.Index))
		set(&one.Value, cond.Value)
		set(&one.ValueTwo, cond.ValueTwo)
		if cond.Op != nil {
			one.Op = seccomp.Operator(*cond.Op)
		}
		out.Args = append(out.Args, one)
	}
	return out
}

func set[T any](dst, v *T) {
	if v != nil {
		*dst = *v
	}
}

func uintPtr(v *uint64) *uint {
	if v == nil {
		return nil
	}
	n := uint(min(*v, 1<<31))
	return &n
}

func (c *checker) file(at string, f *fileTable) {
	if len(f.Path) == 0 && !c.pos.Has(at+".path") {
		c.fail(at, `write path = "/..."`, "a grant needs a path")
	}
	for _, p := range f.Path {
		c.grantPath(at+".path", p)
	}
	if f.Remove != nil && *f.Remove {
		if len(f.Access) > 0 || f.From != nil || f.Optional != nil {
			c.fail(at+".remove", "", "takes away what is inherited, and goes with a path alone")
		}
		return
	}
	if len(f.Access) == 0 {
		if !c.pos.Has(at + ".access") {
			c.fail(at, `write access = "r", "rw" or "rx"`, "a grant needs an access")
		}
	} else if _, err := ExpandAccess(f.Access); err != nil {
		c.fail(at+".access", "", "%v", err)
	}
	if f.From == nil {
		return
	}
	if !cleanAbs(*f.From) {
		c.fail(at+".from", "", "expected an absolute path of the host, without '..' or variables, got %q", clip(*f.From))
	}
	if len(f.Path) > 1 {
		c.fail(at+".from", "write one grant for each path", "goes with one path only")
	}
}

// own are the places inside that are the plugin's already, or the kernel's.
var own = []string{"/data", "/dev", "/plugin", "/proc", "/sys"}

func (c *checker) grantPath(key, p string) {
	expanded, err := expandVariables(p)
	if err != nil {
		c.fail(key, "", "%v", err)
		return
	}
	if err := checkGrant(expanded); err != nil {
		c.fail(key, "", "%v", err)
	}
}

// checkGrant judges a path as a plugin will see it.
func checkGrant(p string) error {
	if !cleanAbs(p) {
		return fmt.Errorf("expected an absolute path without '..' or a slash at its end, got %q", clip(p))
	}
	if p == "/" {
		return errors.New("cannot grant the whole tree: name the directories that are needed")
	}
	for _, o := range own {
		if p != o && beneath(p, o) || p == o && o != "/data" {
			return fmt.Errorf("cannot grant %s: %s inside is the plugin's own and never the host's", p, o)
		}
	}
	return nil
}

// variables are what ${...} may name, and what it stands for inside.
var variables = map[string]string{"plugin.bundle": "/plugin", "plugin.data": "/data"}

// expandVariables replaces ${NAME} of the fixed set; any other is an error.
func expandVariables(s string) (string, error) {
	if !strings.Contains(s, "${") { // as nearly all
		return s, nil
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, after, closed := strings.Cut(rest, "}")
		value, known := variables[name]
		if !closed {
			return "", fmt.Errorf("a variable does not end: expected %q", clip("${"+name+"}"))
		}
		if !known {
			return "", fmt.Errorf("unknown variable %q: there are ${plugin.bundle} and ${plugin.data}", clip("${"+name+"}"))
		}
		b.WriteString(value)
		s = after
	}
}

// cpuList says whether s is a list such as "0-1,3".
func cpuList(s string) bool {
	for _, part := range strings.Split(s, ",") {
		first, last, span := strings.Cut(part, "-")
		if !cpuNumber(first) || span && !cpuNumber(last) {
			return false
		}
	}
	return len(s) < 1024
}

func cpuNumber(s string) bool {
	return s != "" && len(s) <= 4 && strings.Trim(s, "0123456789") == ""
}

func (c *checker) environment(doc *document) {
	for _, name := range sortedKeys(doc.Environment.Set) {
		key := keyed("environment.set", name)
		c.envName(key, name)
		if value, err := expandVariables(doc.Environment.Set[name]); err != nil {
			c.fail(key, "", "%v", err)
		} else if strings.ContainsRune(value, 0) || len(value) > maxValue {
			c.fail(key, "", "too long: at most %d bytes", maxValue)
		}
	}
	for i, name := range doc.Environment.Pass {
		c.envName(fmt.Sprintf("environment.pass[%d]", i), name)
	}
	for i, name := range doc.Environment.Remove {
		c.envName(fmt.Sprintf("environment.remove[%d]", i), name)
	}
}

// maxValue bounds one variable's value or one argument, in bytes.
const maxValue = 32 << 10

func (c *checker) envName(key, name string) {
	if !manifest.ValidVariable(name) {
		c.fail(key, "", "expected a variable's name of letters, digits and '_', got %q", clip(name))
	}
}

func (c *checker) resources(r *resourcesTable) {
	if r.MemoryMax != nil && *r.MemoryMax != strict.Unlimited && *r.MemoryMax < 1<<20 {
		c.fail("resources.memory.max", "", "expected at least 1M: less starts no program")
	}
	if r.PidsMax != nil && *r.PidsMax == 0 {
		c.fail("resources.pids.max", "", "expected at least 1")
	}
	if r.CPUWeight != nil && (*r.CPUWeight < 1 || *r.CPUWeight > 10000) {
		c.fail("resources.cpu.weight", "", "expected 1 to 10000, got %d", *r.CPUWeight)
	}
	for _, one := range []struct {
		key  string
		zero bool
	}{
		{"rbps", r.IOReadBPS != nil && *r.IOReadBPS == 0},
		{"wbps", r.IOWriteBPS != nil && *r.IOWriteBPS == 0},
		{"riops", r.IOReadIOPS != nil && *r.IOReadIOPS == 0},
		{"wiops", r.IOWriteIOPS != nil && *r.IOWriteIOPS == 0},
	} {
		if one.zero {
			c.fail("resources.io.max."+one.key, "", "expected at least 1")
		}
	}
	if r.Cpuset != nil && !cpuList(*r.Cpuset) {
		c.fail("resources.cpuset.cpus", "", "expected a list of processors such as \"0-1,3\", got %q", clip(*r.Cpuset))
	}
	for _, one := range r.all() {
		c.rlimit("resources.rlimit."+one.name, one)
	}
}

func (c *checker) rlimit(key string, l rlimit) {
	if l.short {
		return
	}
	if l.soft == nil || l.hard == nil {
		if !c.pos.Has(key+".soft") || !c.pos.Has(key+".hard") {
			c.fail(key, "or write one number for both", "needs soft and hard")
		}
		return
	}
	if unsigned(*l.soft) > unsigned(*l.hard) {
		c.fail(key+".soft", "", "is above hard")
	}
}

func (c *checker) count(key string, v *int, least, most int) {
	if v != nil && (*v < least || *v > most) {
		c.fail(key, "", "expected %d to %d, got %d", least, most, *v)
	}
}

func (c *checker) lifecycle(l *lifecycleTable) {
	c.count("lifecycle.restart_steps", l.RestartSteps, 0, 100)
	c.count("lifecycle.start_limit_burst", l.StartLimitBurst, 1, 10000)
	for key, d := range map[string]*strict.Duration{"timeout_start_sec": l.StartTimeout, "timeout_stop_sec": l.StopTimeout, "start_limit_interval_sec": l.StartLimitInterval} {
		if d != nil && *d == 0 {
			c.fail("lifecycle."+key, "", "expected a duration above 0")
		}
	}
	if w := l.WarmUp; w != nil && (*w < 0 || time.Duration(*w) > time.Hour) {
		c.fail("lifecycle.warmup_sec", "", "expected from 0, which does not ask, to 1h")
	}
	if w := l.Watchdog; w != nil && *w != 0 && time.Duration(*w) < time.Second {
		c.fail("lifecycle.watchdog_sec", "", "expected 0, which does not ask, or at least 1s")
	}
}

func (c *checker) ipc(t *ipcTable) {
	const mostFrame = 16<<20 - 1 // the length's first byte tells our framing from text
	if t.MaxFrame != nil && (*t.MaxFrame < 1024 || *t.MaxFrame > mostFrame) {
		c.fail("ipc.max_frame", "", "expected a size from 1K to below 16M")
	}
	if t.MaxQueue != nil && (*t.MaxQueue < 1024 || *t.MaxQueue > 256<<20) {
		c.fail("ipc.max_queue", "", "expected a size from 1K to 256M")
	}
	c.count("ipc.max_in_flight", t.MaxInFlight, 1, 65536)
	c.count("ipc.max_depth", t.MaxDepth, 1, 1000)
	c.count("ipc.max_descriptors", t.MaxDescriptors, 1, 253)
	c.count("ipc.rate", t.Rate, 1, 1_000_000)
}

func (c *checker) require(t *requireTable) {
	for name, r := range t.all() {
		key := "require." + name
		if r.MinABI != nil {
			if name != "landlock" {
				c.fail(key+".min_abi", "", "is only for landlock")
			}
			c.count(key+".min_abi", r.MinABI, 1, 100)
		}
		fixed := name == "seccomp" || name == "namespaces"
		if fixed && r.Mode != nil && *r.Mode == bestEffort {
			c.fail(key, "", "cannot be best_effort: without %s there are no walls to speak of", name)
		}
	}
}

func (c *checker) violation(t *violationTable) {
	for wall, r := range t.all() {
		key := "violation." + wall
		switch {
		case r.Budget != nil && r.Then == nil && !c.pos.Has(key+".then"):
			c.fail(key, `write then = "quarantine"`, "a budget needs what follows when it is used up")
		case r.Then != nil && r.Budget == nil && !c.pos.Has(key+".budget"):
			c.fail(key, `write budget = "20/h"`, "then needs a budget")
		case r.Then != nil && r.Action != nil && severity[*r.Then] < severity[*r.Action]:
			c.fail(key+".then", "", "is weaker than action")
		}
	}
}

var severity = map[string]int{"log": 0, "deny": 1, "kill": 2, "quarantine": 3}

func clip(s string) string {
	if r := []rune(s); len(r) > 80 {
		return string(r[:80]) + "..."
	}
	return s
}
