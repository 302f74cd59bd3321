package record

import (
	"fmt"
	"maps"
	"math/bits"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/seccomp"
)

// Least is how little a recorded profile gives where less was used: a run that
// differs a little from the recorded ones shall not end by it.
const (
	leastMemory = 64 << 20
	leastTasks  = 32
	defaultData = 1 << 30
	// spare is how many times what was used a limit is.
	spare = 2
)

// jit are the calls whose guards a compiler at run time cannot live with.
var jit = []string{"mmap", "mprotect", "pkey_mprotect"}

// writer writes a profile.
type writer struct {
	r     *Recording
	lines []string
}

func (w *writer) say(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

// comment writes text as comments, whatever is in it.
func (w *writer) comment(format string, args ...any) {
	text := strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, fmt.Sprintf(format, args...))
	w.say("# %s", strings.ToValidUTF8(text, "?"))
}

// Profile writes the profile that allows what was recorded, and no more but
// what the comments in it say. now stands in its first line. It is checked: it
// can be read, and lets every recorded call through.
func (r *Recording) Profile(c Coverage, now time.Time) (string, error) {
	lifted := r.lifted()
	w := &writer{r: r}
	w.head(c, now)
	w.calls(lifted)
	w.files()
	w.inside()
	w.limits()
	w.rest()
	text := strings.Join(w.lines, "\n") + "\n"
	return text, r.verify(text)
}

func (w *writer) head(c Coverage, now time.Time) {
	runs := "one run"
	if w.r.Runs > 1 {
		runs = fmt.Sprintf("%d runs", w.r.Runs)
	}
	w.comment("Recorded from %s by cordon profile record, %s. Read it before you use it.", runs, now.UTC().Format(time.DateOnly))
	for _, command := range w.r.Commands[:min(len(w.r.Commands), 8)] {
		w.comment("  %.200s", strings.Join(command, " "))
	}
	for _, line := range c.Lines() {
		w.comment("%s", line)
	}
	if w.r.LeftOut > 0 {
		w.comment("%d paths, addresses or programs lay beyond the bounds of a recording and are not here.", w.r.LeftOut)
	}
	w.say(`description = "recorded"`)
}

// maxListed bounds a list in a sentence.
const maxListed = 24

// Lines say the coverage to people.
func (c Coverage) Lines() []string {
	if c.Unknown != "" {
		return []string{"Coverage: unknown: " + c.Unknown + "."}
	}
	out := []string{fmt.Sprintf("Coverage: of %d system calls behind the functions that the program imports, %d were seen.", c.Could, c.Seen)}
	if len(c.Unseen) > 0 {
		more := ""
		if n := len(c.Unseen) - maxListed; n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		out = append(out, "Never seen, and violations: "+strings.Join(c.Unseen[:min(len(c.Unseen), maxListed)], ", ")+more+".")
	}
	return out
}

// lifted are the calls of runtimes that make memory executable, if they did.
func (r *Recording) lifted() []string {
	f, err := guarded()
	if err != nil {
		return jit
	}
	var out []string
	for _, name := range jit {
		u := r.Calls[name]
		if u == nil {
			continue
		}
		if u.Many || slices.ContainsFunc(u.Args, func(a Args) bool { return !passes(f[name], name, a) }) {
			out = append(out, name)
		}
	}
	return out
}

// guarded is what the guards alone say of the calls that have one.
func guarded() (map[string][]seccomp.Arm, error) {
	p, err := profiles.ParseProfile("guards.toml", []byte(`[seccomp]
allow = ["mmap", "mprotect", "pkey_mprotect"]
`))
	if err != nil {
		return nil, err
	}
	return armsOf(p)
}

func armsOf(p *profiles.Profile) (map[string][]seccomp.Arm, error) {
	resolved, err := profiles.Resolve(profiles.Input{Profile: p, Ceiling: widest(), Argv: []string{"/x"}})
	if err != nil {
		return nil, err
	}
	calls, err := resolved.Seccomp.Calls()
	if err != nil {
		return nil, err
	}
	out := map[string][]seccomp.Arm{}
	for _, c := range calls {
		out[c.Name] = c.Arms
	}
	return out, nil
}

// widest bounds nothing: what is asked is what the profile says.
func widest() *profiles.Ceiling { return &profiles.Ceiling{MemoryMax: -1, PidsMax: -1, CPUMax: -1} }

func passes(arms []seccomp.Arm, name string, args Args) bool {
	nr, _ := seccomp.Number(name)
	for _, a := range arms {
		if a.Holds(nr, args) {
			return a.Action == seccomp.ActAllow
		}
	}
	return false
}

// calls writes the table of system calls. Calls that are many in one have a
// rule for each use; of those with a guard the guard does.
func (w *writer) calls(lifted []string) {
	w.say("")
	w.say("[seccomp]")
	if len(w.r.Execs) == 0 {
		w.say(`execve = "once" # no other program was executed`)
	} else {
		w.say(`execve = "any" # it executed other programs: see below`)
	}
	var plainly, exact []string
	for _, name := range slices.Sorted(maps.Keys(w.r.Calls)) {
		switch u := w.r.Calls[name]; {
		case slices.Contains(seccomp.AlwaysAllowed(), name), slices.Contains(lifted, name):
		case exactly(name) && !u.Many && len(u.Args) > 0:
			exact = append(exact, name)
		default:
			plainly = append(plainly, name)
		}
	}
	w.words("allow", plainly, w.r.companions())
	w.errnos()
	if len(lifted) > 0 {
		w.say("")
		w.comment("It made memory executable after writing it, or both at once: its compiler does, and what it computes can become code.")
		w.rule(lifted, "", nil)
	}
	for _, name := range exact {
		w.say("")
		for _, args := range w.r.Calls[name].Args {
			w.rule([]string{name}, meaning(name, args), conditions(name, args))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.r.Answered)) {
		u := w.r.Answered[name]
		if !exactly(name) || w.r.Calls[name] != nil && w.r.Calls[name].Many {
			continue // the guard answers it
		}
		w.say("")
		for _, args := range u.Args {
			w.rule([]string{name}, meaning(name, args), conditions(name, args))
			w.lines[len(w.lines)-1] = fmt.Sprintf("action = %q\nerrno = %q", seccomp.ActErrno, u.Errno)
		}
	}
}

// errnos writes what is answered whatever the arguments, but what every profile
// answers so.
func (w *writer) errnos() {
	first := true
	for _, name := range slices.Sorted(maps.Keys(w.r.Answered)) {
		if exactly(name) || name == "clone3" || strings.HasPrefix(name, "io_uring_") {
			continue
		}
		if first {
			w.say("")
			w.say("[seccomp.errno]")
			first = false
		}
		w.say("%s = %q # and it went on without", name, w.r.Answered[name].Errno)
	}
}

// exactly tells whether the uses of a call are written one by one.
func exactly(name string) bool {
	return len(telling[name]) > 0 && name != "clone" && !slices.Contains(jit, name)
}

// companions are what a program may call in one run and not in the next, as
// threads, processes and memory happen to meet: the same program on a busier
// machine. They reach nothing but the plugin's own.
func (r *Recording) companions() []string {
	var threads, processes bool
	if u := r.Calls["clone"]; u != nil {
		threads = u.Many || slices.ContainsFunc(u.Args, func(a Args) bool { return a[0]&unix.CLONE_THREAD != 0 })
		processes = u.Many || slices.ContainsFunc(u.Args, func(a Args) bool { return a[0]&unix.CLONE_THREAD == 0 })
	}
	processes = processes || r.Calls["fork"] != nil || r.Calls["vfork"] != nil
	may := []string{"getpid", "gettid", "restart_syscall", "rt_sigprocmask", "tgkill"} // abort(3), and what a stop interrupts
	if r.Calls["mmap"] != nil {
		may = append(may, "brk", "madvise", "mremap", "munmap")
	}
	if threads { // locks, the sleep of who waits for one in turns, and what a thread asks of itself as it starts
		may = append(may, "clock_nanosleep", "futex", "nanosleep", "rseq", "sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_yield", "set_robust_list")
	}
	if processes {
		may = append(may, "kill", "wait4", "waitid")
	}
	slices.Sort(may)
	return slices.DeleteFunc(may, func(name string) bool { return r.Calls[name] != nil || r.Refused[name] != nil })
}

// words writes a list, a few words on each line, and then what was not seen.
func (w *writer) words(key string, words, unseen []string) {
	w.say("%s = [", key)
	w.wrapped(words)
	if len(unseen) > 0 {
		w.say("  # Not seen, but made by the same program when threads, processes or memory meet in another order:")
		w.wrapped(unseen)
	}
	w.say("]")
}

func (w *writer) wrapped(words []string) {
	line := " "
	for _, word := range words {
		if len(line)+len(word) > 100 {
			w.say("%s", line)
			line = " "
		}
		line += " " + strconv.Quote(word) + ","
	}
	if line != " " {
		w.say("%s", line)
	}
}

func (w *writer) rule(names []string, comment string, conds []seccomp.Condition) {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = strconv.Quote(n)
	}
	w.say("[[seccomp.rule]]")
	w.say("names = [%s]", strings.Join(quoted, ", "))
	if len(conds) > 0 {
		words := make([]string, len(conds))
		for i, c := range conds {
			words[i] = fmt.Sprintf("{ index = %d, op = %q, value = %d }", c.Index, c.Op, c.Value)
			if c.Op == seccomp.OpMaskedEqual {
				words[i] = fmt.Sprintf("{ index = %d, op = %q, value = %d, value_two = %d }", c.Index, c.Op, c.Value, c.ValueTwo)
			}
		}
		if comment != "" {
			comment = " # " + comment
		}
		w.say("args = [%s]%s", strings.Join(words, ", "), comment)
	}
	w.say(`action = "SCMP_ACT_ALLOW"`)
}

// conditions are those of one use.
func conditions(name string, args Args) []seccomp.Condition {
	var out []seccomp.Condition
	for _, i := range telling[name] {
		c := seccomp.Condition{Index: i, Op: seccomp.OpEqual, Value: args[i]}
		if i == 1 && strings.HasPrefix(name, "socket") {
			c = seccomp.Condition{Index: i, Op: seccomp.OpMaskedEqual, Value: sockType, ValueTwo: args[i]}
		}
		out = append(out, c)
	}
	return out
}

// meaning names the arguments of one use where they have names.
func meaning(name string, args Args) string {
	nr, _ := seccomp.Number(name)
	words, _ := seccomp.Describe(seccomp.Notification{NR: nr, Call: name, Args: args})
	var out []string
	for _, i := range telling[name] {
		if int(i) < len(words) { // #nosec G115 -- an index
			if _, err := strconv.ParseInt(words[i], 0, 64); err != nil {
				out = append(out, words[i])
			}
		}
	}
	return strings.Join(out, ", ")
}

// fileGrant is one grant of a written profile.
type fileGrant struct {
	path, from, access string
	why                string
}

// files writes the grants.
func (w *writer) files() {
	for _, g := range w.r.grants() {
		w.say("")
		w.say("[[files]]%s", g.why)
		w.say("path = %s", strconv.Quote(g.path))
		if g.from != "" && g.from != g.path {
			w.say("from = %s", strconv.Quote(g.from))
		}
		w.say("access = %s", strconv.Quote(g.access))
	}
}

// together is how many paths of one directory are granted as the directory.
const together = 4

// grants are what the paths amount to: files, or directories in which several
// were needed.
func (r *Recording) grants() []fileGrant {
	needed := map[string]fileGrant{}
	children := map[string]int{}
	for file, p := range r.Paths {
		switch {
		case strings.HasPrefix(file, "/proc/"), strings.HasPrefix(file, "/dev/"):
		case p.Grant != "":
			from := strings.TrimSuffix(p.From, strings.TrimPrefix(file, p.Grant))
			needed[p.Grant] = fileGrant{path: p.Grant, from: from, access: "rw"}
		default:
			needed[file] = fileGrant{path: file, from: p.From, access: access(p.Access)}
		}
	}
	for again := true; again; {
		again = false
		clear(children)
		for file, g := range needed {
			if g.access != "rw" {
				children[path.Dir(file)]++
			}
		}
		for dir, n := range children {
			if n > together && strings.Count(dir, "/") > 2 {
				needed[dir] = joined(needed, dir, n)
				again = true
			}
		}
	}
	out := slices.Collect(maps.Values(needed))
	slices.SortFunc(out, func(a, b fileGrant) int { return strings.Compare(a.path, b.path) })
	return slices.DeleteFunc(out, func(g fileGrant) bool {
		return slices.ContainsFunc(out, func(o fileGrant) bool {
			return o.path != g.path && strings.HasPrefix(g.path, o.path+"/") && (o.access == g.access || o.access == "rx") && g.access != "rw"
		})
	})
}

// joined grants a directory in place of what is in it.
func joined(needed map[string]fileGrant, dir string, n int) fileGrant {
	g := fileGrant{path: dir, access: "r", why: fmt.Sprintf(" # %d paths in it were needed", n)}
	if have, ok := needed[dir]; ok {
		g.access, g.from = have.access, have.from
	}
	for file, f := range needed {
		if path.Dir(file) != dir || f.access == "rw" {
			continue
		}
		if f.access == "rx" {
			g.access = "rx"
		}
		if f.from != "" && strings.HasSuffix(f.from, strings.TrimPrefix(file, dir)) {
			g.from = strings.TrimSuffix(f.from, strings.TrimPrefix(file, dir))
		}
		delete(needed, file)
	}
	return g
}

func access(rights []string) string {
	if slices.Contains(rights, "execute") {
		return "rx"
	}
	return "r"
}

// inside writes what of its own the program used.
func (w *writer) inside() {
	under := func(dir string) (first string) {
		for _, file := range slices.Sorted(maps.Keys(w.r.Paths)) {
			if strings.HasPrefix(file, dir) {
				return file
			}
		}
		return ""
	}
	if file := under("/proc/"); file != "" {
		w.say("")
		w.say("[proc]")
		w.comment("It read %s, which is of the machine and not of a process.", file)
		w.say(`mode = "full"`)
	}
	if under("/dev/shm/") != "" {
		w.say("")
		w.say("[shm]")
		w.say(`size = "16M"`)
		w.say("inodes = 256")
	}
}

func (w *writer) limits() {
	w.say("")
	w.say("[resources]")
	w.say("memory.max = %s # at most %s were used", size(max(leastMemory, spare*w.r.MemoryPeak)), mebibytes(w.r.MemoryPeak))
	w.say("pids.max = %d # %d processes and threads were seen", max(leastTasks, roundUp(int64(spare*w.r.Tasks))), w.r.Tasks)
	if data := spare * w.r.DataPeak; data > defaultData {
		w.say("rlimit.data = %s # %s of writable memory were mapped", size(data), mebibytes(w.r.DataPeak))
	}
	if len(w.r.Limits) > 0 {
		w.comment("Reached while it was recorded: %s.", strings.Join(w.r.Limits, ", "))
	}
}

// rest says what is not granted.
func (w *writer) rest() {
	if len(w.r.Refused) == 0 && len(w.r.Connects) == 0 && len(w.r.Execs) == 0 {
		return
	}
	w.say("")
	for _, exec := range w.r.Execs {
		w.comment("It executed %.200s, or tried to.", exec)
	}
	for _, name := range slices.Sorted(maps.Keys(w.r.Refused)) {
		w.comment("It called %s (%d times), which no recording lets through, and which is not allowed here.", name, w.r.Refused[name].Count)
	}
	for _, address := range w.r.Connects {
		w.comment("It tried to connect to %.200s; there is no network.", address)
	}
}

// verify holds the written profile against the recording.
func (r *Recording) verify(text string) error {
	p, err := profiles.ParseProfile("recorded.toml", []byte(text))
	if err != nil {
		return fmt.Errorf("cannot write the profile: it would not be one: %w", err)
	}
	arms, err := armsOf(p)
	if err != nil {
		return fmt.Errorf("cannot write the profile: it would not be one: %w", err)
	}
	for name, u := range r.Calls {
		if name == "execve" {
			continue
		}
		uses := u.Args
		if len(uses) == 0 {
			uses = []Args{{}}
		}
		for _, args := range uses {
			if !passes(arms[name], name, args) {
				return fmt.Errorf("cannot write the profile: %s with %#x was seen and would be refused", name, args)
			}
		}
	}
	return nil
}

func roundUp(n int64) int64 {
	if n <= 1 {
		return 1
	}
	return 1 << bits.Len64(uint64(n-1)) // #nosec G115 -- positive
}

// size is a power of two of mebibytes that holds n bytes, as a profile has it.
func size(n int64) string {
	m := roundUp((n + 1<<20 - 1) >> 20)
	if m >= 1024 {
		return fmt.Sprintf("%q", strconv.FormatInt(m/1024, 10)+"G")
	}
	return fmt.Sprintf("%q", strconv.FormatInt(m, 10)+"M")
}

func mebibytes(n int64) string { return strconv.FormatInt((n+1<<20-1)>>20, 10) + "M" }
