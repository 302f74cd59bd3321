package launch

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// call is one that waits for the worker.
type call struct {
	seccomp.Notification
	observed bool // allowed, and only looked at
	// The others are refused:
	action     violation.Action
	suppressed int
	flood      bool
}

// onCall is called in the listener's loop for every call that waits. It only
// judges and queues: the worker decodes and answers while the caller still
// waits, so that what is reported is what was asked. A plugin that floods waits
// for its own worker and for nobody else's; beyond the queue, and beyond the
// rate at which calls are reported, they are answered undecoded and counted.
// Every refused call counts against the budget. The first that contains the
// plugin waits for nobody: who took it goes on with it. Another has a queue of its
// own: nothing that the plugin does before fills it.
func (p *Process) onCall(n seccomp.Notification) seccomp.Verdict {
	if p.r.Answer != nil {
		p.worker()
		select {
		case p.work <- &call{Notification: n}:
		case <-p.gone:
		}
		return seccomp.Verdict{Pending: true}
	}
	if p.watched.Passes(n) {
		p.worker()
		select {
		case p.work <- &call{Notification: n, observed: true}:
			return seccomp.Verdict{Pending: true}
		default:
			return seccomp.Verdict{Continue: true}
		}
	}
	c := call{Notification: n, action: p.judge.Decide(violation.Seccomp, n.Time)}
	report, suppressed, flood := p.flood.Call(n.Time, n.NR, contains(c.action))
	c.suppressed = suppressed
	if flood && c.action == violation.Deny {
		c.action, c.flood = violation.Quarantine, true
	}
	queue := p.work
	if contains(c.action) {
		_ = p.group.FreezeNow() // at once; if it cannot be frozen, report kills it
		queue = p.urgent
		if p.first.CompareAndSwap(false, true) {
			return seccomp.Verdict{Pending: true, Then: func() {
				defer close(p.firstDone)
				p.onRefused(c)
			}}
		}
	}
	if report {
		p.worker()
		kept := c
		select {
		case queue <- &kept:
			return seccomp.Verdict{Pending: true}
		default:
			p.flood.Unreported(n.NR, suppressed)
		}
	}
	return refused(c.action)
}

// refused is the answer to a call that no rule allows. Only a complain mode may
// let it go on, and the profile says so.
func refused(a violation.Action) seccomp.Verdict {
	return seccomp.Verdict{Errno: unix.EPERM, Continue: a == violation.Log}
}

// worker is begun by the first call: most plugins never make one.
func (p *Process) worker() { p.works.Do(func() { go p.decode() }) }

// decode is the process's worker: it may be held up by the plugin's own memory
// locks, which holds up nobody else. What contains the plugin goes first.
func (p *Process) decode() {
	defer close(p.worked)
	for {
		select {
		case c := <-p.urgent:
			p.onRefused(*c)
			continue
		default:
		}
		select {
		case c := <-p.urgent:
			p.onRefused(*c)
		case c := <-p.work:
			p.serve(*c)
		case <-p.gone:
			p.rest()
			return
		}
	}
}

func (p *Process) serve(c call) {
	if p.r.Answer != nil {
		_ = c.Answer(p.r.Answer(c.Notification))
		return
	}
	if c.observed {
		p.onOpen(c.Notification)
		return
	}
	p.onRefused(c)
}

// rest serves what came just before the end. What the listener's loop may still
// put behind it has nobody who waits for an answer: the queues are never
// closed, so that it cannot hit upon a closed one.
func (p *Process) rest() {
	for {
		select {
		case c := <-p.urgent:
			p.onRefused(*c)
		case c := <-p.work:
			p.serve(*c)
		default:
			return
		}
	}
}

// onRefused describes the call while its caller waits, then answers it. What is
// to die is told to before: an answer would only wake it.
func (p *Process) onRefused(c call) {
	v := violation.Violation{
		Wall: violation.Seccomp, What: c.Call, Call: c.Call, RawArgs: c.Args[:], Unverified: true,
		Action: c.action, Suppressed: c.suppressed, Flood: c.flood,
	}
	v.Args, v.Path = seccomp.Describe(c.Notification)
	v.Where = where(c.Notification)
	if v.Action == violation.Kill {
		defer func() { _ = c.Answer(refused(v.Action)) }()
	} else {
		_ = c.Answer(refused(v.Action))
	}
	p.report(v)
}

func where(n seccomp.Notification) violation.Where {
	pid, exe := n.Process()
	return violation.Where{PID: pid, TID: n.PID, PC: n.PC, Exe: exe}
}

func contains(a violation.Action) bool { return a == violation.Kill || a == violation.Quarantine }

// onLimit is called in the watcher's loop.
func (p *Process) onLimit(e cgroups.Event) {
	v := violation.Violation{Limit: e.Limit, Peak: e.Peak}
	switch e.Kind {
	case cgroups.EventOOMKill:
		v.Wall, v.What = violation.Memory, "memory.max"
		p.felled.Store(true)
	case cgroups.EventPidsMax:
		v.Wall, v.What = violation.Pids, "pids.max"
	case cgroups.EventEmpty, cgroups.EventPressure:
		return
	}
	v.Action = p.judge.Decide(v.Wall, time.Now())
	p.report(v)
}

func (p *Process) onTime(what string, limit time.Duration) {
	p.report(violation.Violation{
		Wall: violation.Time, What: what, Limit: int64(limit), Action: p.judge.Decide(violation.Time, time.Now()),
	})
}

// report contains the plugin as the action asks, completes the violation and
// hands it on. Frozen is contained; what cannot be frozen is killed.
func (p *Process) report(v violation.Violation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.contained == v.Wall { // what was set off before it stood still
		return
	}
	if contains(v.Action) {
		p.contained = v.Wall
		if v.Action == violation.Kill && p.killHeld() {
			// Dead is contained, too, and nobody waits for its being told.
		} else if err := p.group.FreezeNow(); err != nil {
			_ = p.Kill()
		}
	}
	p.count++
	v.Kind, v.Time, v.Plugin = "violation", time.Now(), p.r.Name
	v.ID = fmt.Sprintf("v-%x-%d", v.Time.UnixMicro(), p.count)
	v.NotEnforced = v.Wall == violation.Seccomp && v.Action == violation.Log && !v.Killed
	v.PolicyDigest, v.PlanDigest = p.inForce.Load().digests()
	violation.Explain(&v, p.plan())
	if contains(v.Action) {
		p.book.hit(v)
	}
	if p.r.OnViolation != nil {
		p.r.OnViolation(v)
	}
}

// onOpen judges the path of an observed call by the plan's grants, and lets the
// call go on: the walls decide, this only tells.
func (p *Process) onOpen(n seccomp.Notification) {
	file, access := seccomp.OpenAccess(n)
	w := where(n)
	_ = n.Answer(seccomp.Verdict{Continue: true})
	if file == "" {
		return
	}
	v := violation.Violation{
		Wall: violation.Files, What: access + " " + file, Call: n.Call, Path: file, Access: access, Where: w, Unverified: true,
		Action: violation.Log,
	}
	host, allowed := p.granted(file, access)
	if allowed || probe(file) || !exists(host) {
		if p.r.OnWatch != nil {
			p.r.OnWatch(v)
		}
		return
	}
	v.Action = p.judge.Decide(violation.Files, time.Now())
	p.report(v)
}

// granted judges a path as the walls do: any rule above it that gives the right
// decides. host is what the path would be on the host.
func (p *Process) granted(file, access string) (host string, ok bool) {
	file = path.Clean(file)
	if file == "/" || file == "/proc" || strings.HasPrefix(file, "/proc/") || strings.HasPrefix(file, "/dev/") {
		return file, true // the launcher's own; what is masked there is not a grant's matter
	}
	for _, link := range p.view.Symlinks {
		if rest, ok := strings.CutPrefix(file, link.Path); ok && (rest == "" || rest[0] == '/') {
			file = path.Join("/", link.Target, rest)
		}
	}
	host = p.hostPath(file)
	right := map[string]string{"read": "read_file", "write": "write_file", "execute": "execute"}[access]
	if info, err := os.Lstat(host); err == nil && info.IsDir() && access == "read" {
		right = "read_dir"
	}
	for _, rule := range p.view.Landlock.Paths {
		if within(file, rule.Path) && hasAny(rule.Access, right) {
			return host, true
		}
	}
	return host, false
}

func within(file, dir string) bool { return file == dir || strings.HasPrefix(file, dir+"/") }

// hostPath undoes the mounts: the innermost one that shows file.
func (p *Process) hostPath(file string) string {
	best, host := -1, file
	for _, m := range p.view.Mounts {
		if m.From != "" && within(file, m.Path) && len(m.Path) > best {
			best, host = len(m.Path), path.Join(m.From, strings.TrimPrefix(file, m.Path))
		}
	}
	return host
}

// probes are what runtimes ask of every machine as they start and do without:
// how many processors there are, how large pages may be, what the group's limits
// are. Recorded, never a violation, so that a violation means something.
var probes = []string{
	"/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage",
	"/etc/ld.so.preload", "/etc/ld.so.nohwcap",
}

func probe(file string) bool {
	return slices.ContainsFunc(probes, func(p string) bool { return within(path.Clean(file), p) })
}

// exists tells a refusal from a file that is simply not there, which is
// recorded but never counted. Nothing is opened and no last link followed.
func exists(host string) bool {
	_, err := os.Lstat(host)
	return err == nil
}
