package launch

import (
	"sync"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// KillingCall is what a violation names where the filter killed at once and
// nobody told which call it was: the kernel tells a parent only by which signal
// its child ended. A process can end itself in that way, too: unverified.
const KillingCall = "a call that kills: of another architecture, or by a rule"

// lastWord bounds the wait for what the kernel's audit has to say of a first
// process that is dead already. A thread of the kernel's writes it.
const lastWord = 250 * time.Millisecond

// deaths tells plugins of those of their processes that the filter killed. Each
// plugin has a uid of its own, by which its processes are known whatever became
// of them. On a host whose audit cannot be read (doctor says so) there is no
// audit, and only the end of a plugin's first process is seen.
type deaths struct {
	audit *seccomp.Deaths
	ended chan struct{} // closed when nobody reads any more

	mu sync.Mutex
	of map[uint32]*mourned
}

// mourned is who is told of a uid's deaths.
type mourned struct {
	process *Process        // nil until its start has returned
	early   []seccomp.Death // until then
}

// maxEarly bounds what is kept of a plugin that dies while its start returns.
const maxEarly = 64

// begin reads from now on, if this host lets it.
func (d *deaths) begin() {
	audit, err := seccomp.OpenDeaths()
	if err != nil {
		return
	}
	d.audit, d.ended, d.of = audit, make(chan struct{}), map[uint32]*mourned{}
	go d.serve()
}

func (d *deaths) serve() {
	defer close(d.ended)
	for {
		death, err := d.audit.Next()
		if err != nil {
			return
		}
		if p := d.whose(death); p != nil {
			p.onDeath(death)
		}
	}
}

// whose finds who is to be told now.
func (d *deaths) whose(death seccomp.Death) *Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.of[death.UID]
	switch {
	case m == nil:
		return nil
	case m.process == nil && len(m.early) < maxEarly:
		m.early = append(m.early, death)
	}
	return m.process
}

func (d *deaths) close() error {
	if d.audit == nil {
		return nil
	}
	err := d.audit.Close()
	<-d.ended
	return err
}

// announce has what happens to a uid's processes kept until expect: a plugin
// runs, and may die, before its start has returned. It is called before, and
// undone by drop where the start fails.
func (d *deaths) announce(uid uint32) {
	if d.audit == nil || switchedOff("seccomp") {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.of[uid] = &mourned{}
}

// drop undoes announce.
func (d *deaths) drop(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.of, uid)
}

// expect has a plugin that was announced told. Its first process must be known.
func (d *deaths) expect(p *Process) {
	p.fallen.first = make(chan struct{})
	d.mu.Lock()
	m := d.of[p.lease.uid]
	if m == nil {
		d.mu.Unlock()
		return
	}
	early := m.early
	m.process, m.early = p, nil
	d.mu.Unlock()
	for _, death := range early {
		p.onDeath(death)
	}
}

// forget ends that: nothing is reported when it has returned. It tells whether
// the end of the first process, with that status, was reported; where the
// filter killed it and nothing was told yet, it waits a moment.
func (d *deaths) forget(p *Process, status syscall.WaitStatus) (named bool) {
	if d.audit == nil {
		return false
	}
	if status.Signaled() && status.Signal() == syscall.SIGSYS {
		select {
		case <-p.fallen.first:
		case <-time.After(lastWord):
		}
	}
	d.drop(p.lease.uid)
	p.fallen.mu.Lock()
	defer p.fallen.mu.Unlock()
	p.fallen.over = true
	select {
	case <-p.fallen.first:
		return true
	default:
		return false
	}
}

// fallen are those of a plugin's processes that the filter killed.
type fallen struct {
	mu    sync.Mutex
	flood seccomp.Flood
	over  bool          // nobody wants to know any more
	first chan struct{} // closed when the first process is among them
}

// onDeath judges and reports one. Like refused calls they may come in floods.
func (p *Process) onDeath(d seccomp.Death) {
	p.fallen.mu.Lock()
	defer p.fallen.mu.Unlock()
	if p.fallen.over {
		return
	}
	now := time.Now()
	v := violation.Violation{
		Wall: violation.Seccomp, What: d.Call(), Killed: true,
		Where: violation.Where{PID: d.PID, PC: d.PC, Exe: d.Exe}, Action: p.judge.Decide(violation.Seccomp, now),
	}
	if d.Native() {
		v.Call = v.What
	}
	report, suppressed, flood := p.fallen.flood.Call(now, d.NR, contains(v.Action))
	if v.Suppressed = suppressed; flood && v.Action == violation.Deny {
		v.Action, v.Flood = violation.Quarantine, true
	}
	if report {
		p.report(v)
	}
	if d.PID == p.child.PID {
		close(p.fallen.first)
	}
}

// onKilled reports that the plugin's first process ended by SIGSYS, where
// nothing more is known.
func (p *Process) onKilled() {
	p.report(violation.Violation{
		Wall: violation.Seccomp, What: KillingCall, Unverified: true, Killed: true, Where: violation.Where{PID: p.child.PID},
		Action: p.judge.Decide(violation.Seccomp, time.Now()),
	})
}
