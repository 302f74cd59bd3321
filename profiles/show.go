package profiles

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/profiles/strict"
	"github.com/cordonhq/cordon/seccomp"
)

// Line is one line of an effective profile.
type Line struct {
	Text string
	// Origin is who wrote what the line says, such as "builtin:node:14"; empty
	// for lines that say nothing by themselves.
	Origin string
}

// Effective gives a profile as the one file that it amounts to. The lines are a
// profile themselves, which extends nothing and resolves to the same plan.
func (p *Profile) Effective() []Line {
	b := p.applied(len(p.layers))
	s := &shower{b: b, base: p.applied(1)}
	if d := p.Description(); d != "" {
		s.scalar("description", "description", quote(d))
	}
	s.require()
	s.seccomp()
	s.files()
	s.inside()
	s.network()
	s.resources()
	s.identity()
	s.lifecycle()
	s.slo()
	s.violation()
	s.ipc()
	return s.lines
}

// applied is a builder after the first n layers; the first is the defaults.
func (p *Profile) applied(n int) *builder {
	b := newBuilder(Input{Profile: p, Ceiling: DefaultCeiling()})
	for _, l := range p.layers[:n] {
		b.layer(l)
	}
	return b
}

// shower writes lines. base has the defaults alone, which hold below the lines
// too, so what they have and the profile has not must be taken away.
type shower struct {
	b, base *builder
	lines   []Line
	heading string // written before the first line of a table
}

func (s *shower) line(text, origin string) {
	if s.heading != "" {
		if len(s.lines) > 0 {
			s.lines = append(s.lines, Line{})
		}
		s.lines = append(s.lines, Line{Text: s.heading})
		s.heading = ""
	}
	s.lines = append(s.lines, Line{Text: text, Origin: origin})
}

func (s *shower) table(name string) { s.heading = "[" + name + "]" }

// scalar writes one key; key is the whole key, under which its origin is known.
func (s *shower) scalar(key, name, value string) {
	s.line(name+" = "+value, s.b.plan.Origins[key])
}

func (s *shower) require() {
	s.table("require")
	for _, wall := range sortedKeys(s.b.plan.Require) {
		r := s.b.plan.Require[wall]
		value := quote(r.Mode)
		if r.MinABI > 0 {
			value = fmt.Sprintf("{ mode = %s, min_abi = %d }", value, r.MinABI)
		}
		s.scalar("require."+wall, wall, value)
	}
}

// sorted is what a filter says, by the way in which it is written.
type sorted struct {
	allow, deny, forget []named
	errnos              []string
	rules               []string // calls whose rules are written out
}

// named is a word of a list, with who put it there.
type named struct{ word, origin string }

func (s *shower) seccomp() {
	s.table("seccomp")
	s.scalar("seccomp.execve", "execve", quote(s.b.execve))
	c := s.sort()
	s.list("remove", c.forget)
	s.list("allow", c.allow)
	s.list("deny", c.deny)
	s.table("seccomp.errno")
	for _, name := range c.errnos {
		s.line(quoteKey(name)+" = "+quote(s.b.calls.of(name).rules[0].Errno), s.b.calls.of(name).origin)
	}
	s.rules(c.rules)
}

func (s *shower) sort() sorted {
	var out sorted
	for _, name := range s.b.calls.names() {
		c := s.b.calls.of(name)
		guard := guards[name]
		switch {
		case c.guarded:
			out.allow = append(out.allow, named{name, c.origin})
			if len(c.rules) > len(guard()) {
				out.rules = append(out.rules, name)
			}
		case s.b.calls.open(name) && guard == nil:
			out.allow = append(out.allow, named{name, c.origin})
		case len(c.rules) == 1 && c.rules[0].Action == seccomp.ActErrno && len(c.rules[0].Args) == 0:
			out.errnos = append(out.errnos, name)
		default:
			out.rules = append(out.rules, name)
			if s.base.calls.of(name) != nil {
				out.forget = append(out.forget, named{name, c.origin})
			}
		}
	}
	for _, name := range sortedKeys(s.b.removed) {
		out.deny = append(out.deny, named{name, s.b.removed[name]})
	}
	return out
}

// maxLineText is where a list of words is continued on the next line.
const maxLineText = 90

// list writes words, those of one origin together, in the order of their first.
func (s *shower) list(key string, words []named) {
	if len(words) == 0 {
		return
	}
	s.line(key+" = [", "")
	done := map[string]bool{}
	for _, first := range words {
		if done[first.origin] {
			continue
		}
		done[first.origin] = true
		text := " "
		for _, w := range words {
			if w.origin != first.origin {
				continue
			}
			if len(text)+len(w.word) > maxLineText {
				s.line(text, first.origin)
				text = " "
			}
			text += " " + quote(w.word) + ","
		}
		s.line(text, first.origin)
	}
	s.line("]", "")
}

// rules writes out what goes beyond allow and errno; calls of which the same
// is said share their rules.
func (s *shower) rules(names []string) {
	shared := map[string][]string{}
	var order []string
	for _, name := range names {
		c := s.b.calls.of(name)
		key, err := json.Marshal(s.written(name))
		if err != nil { // plain data always marshals
			panic(err)
		}
		id := c.origin + string(key)
		if shared[id] == nil {
			order = append(order, id)
		}
		shared[id] = append(shared[id], name)
	}
	for _, id := range order {
		for _, r := range s.written(shared[id][0]) {
			s.rule(shared[id], r, s.b.calls.of(shared[id][0]).origin)
		}
	}
}

// written are the rules of a call that no guard brings.
func (s *shower) written(name string) []seccomp.Rule {
	c := s.b.calls.of(name)
	if c.guarded {
		return c.rules[len(guards[name]()):]
	}
	return c.rules
}

func (s *shower) rule(names []string, r seccomp.Rule, origin string) {
	s.heading = "[[seccomp.rule]]"
	s.line("names = "+quotes(names), origin)
	if len(r.Args) > 0 {
		conds := make([]string, len(r.Args))
		for i, a := range r.Args {
			conds[i] = fmt.Sprintf("{ index = %d, op = %s, value = %s", a.Index, quote(string(a.Op)), number(a.Value))
			if a.ValueTwo != 0 {
				conds[i] += ", value_two = " + number(a.ValueTwo)
			}
			conds[i] += " }"
		}
		s.line("args = ["+strings.Join(conds, ", ")+"]", origin)
	}
	s.line("action = "+quote(string(r.Action)), origin)
	if r.Errno != "" {
		s.line("errno = "+quote(r.Errno), origin)
	}
}

// number writes an argument; flags read better in hexadecimal.
func number(n uint64) string {
	if n > 4096 {
		return fmt.Sprintf("%#x", n)
	}
	return strconv.FormatUint(n, 10)
}

func (s *shower) files() {
	for _, at := range sortedKeys(s.b.grants) {
		g := s.b.grants[at]
		s.heading = "[[files]]"
		s.line("path = "+quote(g.Path), g.Origin)
		if g.From != g.Path {
			s.line("from = "+quote(g.From), g.Origin)
		}
		s.line("access = "+accessValue(g.Access), g.Origin)
		if g.Optional {
			s.line("optional = true", g.Origin)
		}
	}
}

func accessValue(access []string) string {
	if word := short(access); shorthands[word] != nil {
		return quote(word)
	}
	return quotes(access)
}

func (s *shower) inside() {
	p, o := s.b.plan, s.b.plan.Origins
	s.table("proc")
	s.scalar("proc.mode", "mode", quote(p.Proc))
	s.table("devices")
	s.line("allow = "+quotes(sortedKeys(s.b.devices)), o["devices.allow"])
	if gone := missing(s.base.devices, s.b.devices); len(gone) > 0 {
		s.line("remove = "+quotes(gone), o["devices.allow"])
	}
	s.tmpfs("tmp", p.Tmp)
	s.tmpfs("shm", p.Shm)
	s.table("data")
	s.scalar("data.persistent", "persistent", strconv.FormatBool(p.Data.Persistent))
	s.scalar("data.size", "size", sizeValue(p.Data.Size))
	s.scalar("data.inodes", "inodes", strconv.FormatInt(p.Data.Inodes, 10))
	s.table("network")
	s.scalar("network.mode", "mode", quote(p.Network.Mode))
}

func (s *shower) tmpfs(name string, t plan.Tmpfs) {
	s.table(name)
	s.scalar(name+".size", "size", sizeValue(t.Size))
	if t.Inodes > 0 {
		s.scalar(name+".inodes", "inodes", strconv.FormatInt(t.Inodes, 10))
	}
}

// missing are the words of all that have lacks.
func missing(all, have map[string]bool) []string {
	var out []string
	for _, word := range sortedKeys(all) {
		if !have[word] {
			out = append(out, word)
		}
	}
	return out
}

func (s *shower) resources() {
	l := s.b.plan.Limits
	s.table("resources")
	bound := func(name string, v *int64, value func(int64) string, always bool) {
		switch {
		case v != nil:
			s.scalar("resources."+name, name, value(*v))
		case always:
			s.scalar("resources."+name, name, `"max"`)
		}
	}
	bound("memory.max", l.MemoryMax, sizeValue, true)
	bound("memory.high", l.MemoryHigh, sizeValue, false)
	bound("memory.swap.max", l.MemorySwapMax, sizeValue, true)
	bound("pids.max", l.PidsMax, countValue, true)
	s.scalar("resources.cpu.max", "cpu.max", quote(percentOf(l.CPUMax).String()))
	if l.CPUWeight != nil {
		s.scalar("resources.cpu.weight", "cpu.weight", strconv.FormatUint(*l.CPUWeight, 10))
	}
	if l.Cpuset != "" {
		s.scalar("resources.cpuset.cpus", "cpuset.cpus", quote(l.Cpuset))
	}
	if l.MemoryOOMGroup {
		s.scalar("resources.memory.oom.group", "memory.oom.group", "true")
	}
	bound("io.max.rbps", l.IOMax.ReadBPS, sizeValue, false)
	bound("io.max.wbps", l.IOMax.WriteBPS, sizeValue, false)
	bound("io.max.riops", l.IOMax.ReadIOPS, countValue, false)
	bound("io.max.wiops", l.IOMax.WriteIOPS, countValue, false)
	bound("hugetlb.2MB.max", l.Hugetlb2M, sizeValue, false)
	bound("hugetlb.1GB.max", l.Hugetlb1G, sizeValue, false)
	s.span("resources.time.wall", "time.wall", s.b.plan.Time.Wall)
	s.span("resources.time.cpu", "time.cpu", s.b.plan.Time.CPU)
	for _, name := range sortedKeys(s.b.rlimits) {
		s.scalar("resources.rlimit."+name, "rlimit."+name, rlimitValue(s.b.rlimits[name]))
	}
}

// span writes a duration that is bound by nothing when it is 0.
func (s *shower) span(key, name string, d time.Duration) {
	if d > 0 {
		s.scalar(key, name, spanValue(d))
	}
}

// countedRlimits are the limits that are no sizes.
var countedRlimits = []string{"nofile", "nproc", "sigpending"}

func rlimitValue(r namespaces.Rlimit) string {
	value := sizeValue
	if slices.Contains(countedRlimits, r.Name) {
		value = countValue
	}
	if r.Soft == r.Hard {
		return value(signed(r.Soft))
	}
	return fmt.Sprintf("{ soft = %s, hard = %s }", value(signed(r.Soft)), value(signed(r.Hard)))
}

func (s *shower) identity() {
	p := s.b.plan
	s.table("identity")
	s.scalar("identity.uid", "uid", fmt.Sprint(p.Process.UID))
	s.scalar("identity.gid", "gid", fmt.Sprint(p.Process.GID))
	if p.Runtime.NoEval {
		s.table("runtime")
		s.scalar("runtime.eval", "eval", "false")
	}
	s.table("environment")
	if len(s.b.pass) > 0 {
		s.scalar("environment.pass", "pass", quotes(sortedKeys(s.b.pass)))
	}
	s.table("environment.set")
	for _, name := range sortedKeys(s.b.env) {
		s.scalar(keyed("environment.set", name), quoteKey(name), quote(s.b.env[name]))
	}
}

func (s *shower) lifecycle() {
	l := s.b.plan.Lifecycle
	s.table("lifecycle")
	one := func(name, value string) { s.scalar("lifecycle."+name, name, value) }
	one("restart", quote(l.Restart))
	one("restart_sec", spanValue(l.RestartSec))
	one("restart_steps", strconv.Itoa(l.RestartSteps))
	one("restart_max_delay_sec", spanValue(l.RestartMaxDelaySec))
	one("reset_after", spanValue(l.ResetAfter))
	one("start_limit_burst", strconv.Itoa(l.StartLimitBurst))
	one("start_limit_interval_sec", spanValue(l.StartLimitInterval))
	one("timeout_start_sec", spanValue(l.StartTimeout))
	one("timeout_stop_sec", spanValue(l.StopTimeout))
	if l.Watchdog > 0 {
		one("watchdog_sec", spanValue(l.Watchdog))
	}
	if l.WarmUp > 0 {
		one("warmup_sec", spanValue(l.WarmUp))
	}
}

func (s *shower) violation() {
	s.table("violation")
	if len(s.b.watch) > 0 {
		s.scalar("violation.watch", "watch", quotes(sortedKeys(s.b.watch)))
	}
	for _, wall := range sortedKeys(s.b.plan.Violation) {
		s.scalar("violation."+wall, wall, responseValue(s.b.plan.Violation[wall]))
	}
}

func responseValue(r plan.Response) string {
	if r.Budget == 0 {
		return quote(r.Action)
	}
	unit := map[time.Duration]string{time.Second: "s", time.Minute: "min", time.Hour: "h", 24 * time.Hour: "d"}[r.Window]
	return fmt.Sprintf("{ action = %s, budget = %s, then = %s }", quote(r.Action), quote(fmt.Sprintf("%d/%s", r.Budget, unit)), quote(r.Then))
}

// ipc writes what the profile sets; 0 is the connection's own default.
func (s *shower) ipc() {
	l := s.b.plan.IPC
	s.table("ipc")
	count := func(name string, n int, value func(int64) string) {
		if n > 0 {
			s.scalar("ipc."+name, name, value(int64(n)))
		}
	}
	count("max_frame", l.MaxFrame, sizeValue)
	count("max_in_flight", l.MaxInFlight, countValue)
	count("max_queue", l.MaxQueue, sizeValue)
	count("max_depth", l.MaxDepth, countValue)
	count("max_descriptors", l.MaxDescriptors, countValue)
	count("rate", l.Rate, countValue)
	s.span("ipc.hello_timeout", "hello_timeout", l.HelloTimeout)
	s.span("ipc.half_open", "half_open", l.HalfOpen)
	s.span("ipc.call_timeout", "call_timeout", l.CallTimeout)
	s.span("ipc.cancel_grace", "cancel_grace", l.CancelGrace)
}

// sizeValue writes a size as TOML.
func sizeValue(n int64) string {
	text := strict.Size(n).String()
	if strings.Trim(text, "0123456789") == "" {
		return text
	}
	return quote(text)
}

// spanValue writes a duration as TOML, without parts that are zero.
func spanValue(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return quote(text)
}

// countValue writes a count as TOML.
func countValue(n int64) string {
	if n == strict.Unlimited {
		return `"max"`
	}
	return strconv.FormatInt(n, 10)
}

// quote writes a TOML basic string. JSON's escapes are TOML's, but for DEL.
func quote(text string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil { // a string always marshals
		panic(err)
	}
	return strings.ReplaceAll(strings.TrimSuffix(b.String(), "\n"), "\x7f", `\u007f`)
}

func quotes(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = quote(w)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// quoteKey writes a key, with quotes where it needs them.
func quoteKey(key string) string {
	if key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == "" {
		return key
	}
	return quote(key)
}
