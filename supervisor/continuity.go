package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/store"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// keeper is a Launcher whose plugins may outlive the daemon.
type keeper interface {
	// Keeps says whether they do.
	Keeps() bool
	// TookOver says that an earlier daemon went without a stop, or became this one.
	TookOver() bool
	// Left are the plugins that it left running.
	Left() []*launch.Left
	// Adopt goes on with one; on an error it has ended.
	Adopt(k *launch.Left, r launch.Request) (Process, error)
}

// kept is a Process that a successor may go on with.
type kept interface {
	// Book is what it is told; nil if it may not.
	Book() *launch.Book
	// Loosen says that it may not any more.
	Loosen() error
}

// keptConnector is a Connector whose connections a successor may go on with.
type keptConnector interface {
	ConnectKept(t ipc.Transport, name string, p *plan.Plan, handler ipc.Handler, k KeptConn) (Conn, error)
}

// KeptConn is what a connection needs to go on in another process.
type KeptConn struct {
	Journal *ipc.Journal
	// Resume says that this is the other process, and Hello what the plugin said.
	Resume bool
	Hello  json.RawMessage
}

// session is what a daemon writes down of a plugin that is ready, for the next.
type session struct {
	Digest string          `json:"digest"` // of the bundle
	Policy string          `json:"policy"` // the digest of what is in force
	Hello  json.RawMessage `json:"hello,omitempty"`
	// Circuits are those that are not simply closed.
	Circuits []keptCircuit `json:"circuits,omitempty"`
	// Budget is what has become of its objective.
	Budget *keptBudget `json:"budget,omitempty"`
}

// book makes what a successor is told of a plugin that is about to start; nil
// if none shall go on with it.
func (s *shared) book() (*launch.Book, *ipc.Journal, error) {
	k, ok := s.launcher.(keeper)
	if _, both := s.connector.(keptConnector); !ok || !both || !k.Keeps() {
		return nil, nil, nil
	}
	b, err := launch.NewBook()
	if err != nil {
		return nil, nil, err
	}
	j, err := b.Journal()
	if err != nil {
		return nil, nil, errors.Join(err, b.Close())
	}
	return b, j, nil
}

func closeBook(b *launch.Book) {
	if b != nil {
		_ = b.Close() // nobody has it
	}
}

// connect makes the connection of a start.
func (s *shared) connect(t ipc.Transport, name string, p *plan.Plan, handler ipc.Handler, k KeptConn) (Conn, error) {
	if c, ok := s.connector.(keptConnector); ok && k.Journal != nil {
		return c.ConnectKept(t, name, p, handler, k)
	}
	return s.connector.Connect(t, name, p, handler)
}

// writeBook tells a successor what it must know to go on with a run.
func (p *plugin) writeBook(run *running) {
	k, ok := run.proc.(kept)
	if !ok || k.Book() == nil {
		return
	}
	run.booking.Lock()
	defer run.booking.Unlock()
	p.logFailure("write down what another cordond would go on with", k.Book().Say(session{
		Digest: run.digest, Policy: run.plan().PolicyDigest(), Hello: helloOf(run), Circuits: run.breaker.kept(), Budget: p.objective.kept(),
	}))
}

// writeBooks is writeBook for all that runs. It runs in the actor.
func (p *plugin) writeBooks() {
	for _, run := range p.runs() {
		p.writeBook(run)
	}
}

// loosen has what is closed here be closed for the plugin: it is to end.
func (p *plugin) loosen(run *running) {
	k, ok := run.proc.(kept)
	if !ok {
		return
	}
	run.loosened.Do(func() {
		if err := k.Loosen(); err != nil { // the keeper has ended, and with it the plugin
			p.logger.Debug("cannot loosen", "plugin", p.name, "err", err)
		}
	})
}

// inherit sorts what an earlier daemon left: by name what may be gone on with,
// and for which plugins that is not so, and why. What nobody wants has ended.
func (s *Supervisor) inherit(records []store.Record) (wanted map[string]*launch.Left, lost map[string]error) {
	wanted, lost = map[string]*launch.Left{}, map[string]error{}
	k, ok := s.launcher.(keeper)
	if !ok {
		return wanted, lost
	}
	var unwanted, besides []*launch.Left
	for _, left := range k.Left() {
		at := slices.IndexFunc(records, func(r store.Record) bool { return left.Name != "" && r.Name == left.Name })
		switch {
		case at < 0 || records[at].State != control.Running || records[at].Quarantine != nil || wanted[left.Name] != nil:
			unwanted = append(unwanted, left)
		case left.Err != nil:
			unwanted = append(unwanted, left)
			lost[left.Name] = left.Err
		case left.UID() != s.uidNow(records[at]):
			unwanted = append(unwanted, left)
			besides = append(besides, left)
		default:
			wanted[left.Name] = left
		}
	}
	s.discardLeft(unwanted)
	s.endSwaps(besides, wanted, lost)
	s.missed(records, wanted, lost, k.TookOver())
	return wanted, lost
}

// missed adds to what was lost the plugins for which something was about to
// happen when the daemon went, or happened while there was none: one that was
// being started, one that waited to be, and one that ended and shall not.
//
// A daemon that is told to end stops what runs, and says so. So what the state has
// as running was killed with its daemon: with the keeper, too, where none was taken
// over. As with a unit of systemd it is started again in the same boot, and in the
// next only if it is enabled.
func (s *Supervisor) missed(records []store.Record, wanted map[string]*launch.Left, lost map[string]error, tookOver bool) {
	for _, r := range records {
		if !tookOver && (r.Boot == "" || r.Boot != s.boot) {
			continue
		}
		if r.Quarantine != nil || wanted[r.Name] != nil || lost[r.Name] != nil {
			continue
		}
		switch r.State {
		case control.Starting:
			lost[r.Name] = errors.New("it was being started")
		case control.Backoff:
			lost[r.Name] = errors.New("it waited to be restarted")
		case control.Running:
			if s.restarts(r) {
				lost[r.Name] = errors.New("it ended while there was no daemon")
			}
		case control.Stopped, control.Stopping, control.Failed, control.Quarantined:
		}
	}
}

// restarts says whether a plugin that ended nobody knows how is to be started
// again; if its profile cannot be read it is not.
func (s *Supervisor) restarts(r store.Record) bool {
	p := s.policyOf(r)
	return p.Restart == "always" || p.Restart == "on-failure"
}

// policyOf is what a record's profile says of restarts; defaultPolicy if it
// cannot be read.
func (s *shared) policyOf(r store.Record) plan.Lifecycle {
	bundle, err := s.source.Open(r.Digest)
	if err != nil {
		return defaultPolicy()
	}
	pl, err := s.source.Resolve(bundle, r.Profile)
	if err != nil {
		return defaultPolicy()
	}
	return pl.Lifecycle
}

// discardLeft ends what nobody goes on with, several at a time.
func (s *Supervisor) discardLeft(unwanted []*launch.Left) {
	var wait sync.WaitGroup
	places := make(chan struct{}, maxStarting)
	for _, left := range unwanted {
		wait.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if err := left.Discard(); err != nil {
				s.logger.Error("cannot end what an earlier cordond left", "plugin", left.Name, "pid", left.PID(), "err", err)
			}
		})
	}
	wait.Wait()
}

// errChanged says that what would run now is not what runs.
var errChanged = errors.New("its profile, or what that resolves to, has changed")

// adopt goes on with what an earlier daemon left of the plugin, as run 1 of this
// one. On an error it has ended. Nothing of the actor runs yet.
func (p *plugin) adopt(left *launch.Left) error {
	req, bundle, said, err := p.recognise(left)
	if err != nil {
		return errors.Join(err, left.Discard())
	}
	journal, err := left.Book.Journal()
	if err == nil {
		err = journal.Resumable()
	}
	if err != nil {
		return errors.Join(err, left.Discard())
	}
	const number = 1
	caps := p.capabilities(number, bundle, p.record.Profile, &req)
	room, files, err := p.adoptListening(req.Plan, caps, left.Files)
	if left.Files = files; err != nil {
		closeSession(caps)
		return errors.Join(err, left.Discard())
	}
	w, err := reopenWires(req.Plan.Protocol, files)
	left.Files = nil // taken, or closed
	if err != nil {
		closeSession(caps)
		return errors.Join(err, left.Discard())
	}
	conn, err := p.connect(w.transport, p.name, req.Plan, p.answering(bundle, caps), KeptConn{Journal: journal, Resume: true, Hello: said.Hello})
	if err != nil {
		closeSession(caps)
		w.closeHosts()
		return errors.Join(err, left.Discard())
	}
	req.OnViolation = func(v violation.Violation) { p.violated(number, v) }
	req.OnPressure = p.pressed
	k, ok := p.launcher.(keeper)
	if !ok {
		return errors.New("cannot adopt: the launcher keeps nothing")
	}
	proc, err := k.Adopt(left, req)
	if err != nil {
		closeSession(caps)
		w.closeHosts()
		return errors.Join(err, conn.Close())
	}
	run := newRunning(number, caps, bundle, proc, conn, req.Plan, p.circuitChanged)
	run.adopted, run.listening, run.data = true, room, req.Data != ""
	run.judge.Recall(req.Past)
	run.breaker.restore(said.Circuits)
	p.objective.restore(said.Budget, req.Plan.SLO)
	hello := said.Hello
	run.hello.Store(&hello)
	if digest := proc.PlanDigest(); digest != p.record.PlanDigest {
		for _, l := range w.logs {
			_ = l.file.Close()
		}
		p.discard(run)
		p.closeData()
		return fmt.Errorf("it runs under the plan %s, and the state says %s", digest, p.record.PlanDigest)
	}
	p.run, p.plan, p.policy = run, req.Plan, req.Plan.Lifecycle
	for _, l := range w.logs {
		go p.log.copyFrom(l.stream, l.file)
	}
	p.contained(left)
	return nil
}

// recognise checks that what is left is what would run: the same bundle under
// the same policy, and the uid that is the plugin's.
func (p *plugin) recognise(left *launch.Left) (req launch.Request, bundle *Bundle, said session, err error) {
	if left.Book == nil {
		return req, nil, said, errors.New("nothing was written down of it")
	}
	if err := left.Book.Said(&said); err != nil {
		return req, nil, said, err
	}
	if said.Digest != p.record.Digest {
		return req, nil, said, errors.New("it is of another bundle")
	}
	if bundle, err = p.source.Open(p.record.Digest); err != nil {
		return req, nil, said, err
	}
	pl, err := p.source.Resolve(bundle, p.record.Profile)
	if err != nil {
		return req, nil, said, err
	}
	if pl.PolicyDigest() != said.Policy {
		return req, nil, said, errChanged
	}
	if left.UID() != p.uidNow(p.record) {
		return req, nil, said, fmt.Errorf("it runs as uid %d, which is not its own", left.UID())
	}
	req = launch.Request{Name: p.name, Plan: pl, Bundle: bundle.Path, Data: left.Data(), UID: left.UID()}
	for _, v := range p.record.Violations {
		if !v.Time.Before(left.Started()) {
			req.Past = append(req.Past, v)
		}
	}
	return req, bundle, said, nil
}

// contained goes on with the violation by which a plugin stood still when its
// daemon went. What stands still and nobody knows why is not let go on.
func (p *plugin) contained(left *launch.Left) {
	switch {
	case left.Hit != nil:
		p.violated(p.run.number, *left.Hit)
	case left.Frozen:
		p.violated(p.run.number, violation.Violation{
			Kind: "violation", Time: p.clock.Now().UTC(), Wall: violation.Seccomp, Unverified: true,
			What:  "it stood still when cordond ended, before anything was written down of why",
			Where: violation.Where{PID: p.run.proc.PID()}, Action: violation.Quarantine,
			PolicyDigest: p.run.plan().PolicyDigest(), PlanDigest: p.run.proc.PlanDigest(),
		})
	}
}

// outOfStep says whether what came first on an adopted connection made no sense:
// then its bytes were lost with the daemon before.
func (r *running) outOfStep() bool {
	c, ok := r.conn.(interface{ Stats() ipc.Stats })
	return ok && r.adopted && c.Stats().MessagesIn <= 1
}

// goOn starts what watches an adopted run, when the actor works.
func (p *plugin) goOn() {
	run := p.run
	run.objective = p.objective
	if p.objective.now(p.clock.Now()) != nil {
		p.box.post(message{do: p.lookAgain})
	}
	if run.caps != nil {
		run.caps.Open(p.record.PlanDigest, p.decisions(p.record.Decisions))
		run.listening.Serve(connections{run.caps})
	}
	p.awaitExit(run)
	p.pinnedBefore(run)
	forgotTasks(run.conn)
	go p.serve(run)
	go p.watchHealth(run)
}

// keepFiles are our ends as a successor gets them: copies that the caller
// closes; see reopenWires.
func (w *wires) keepFiles() (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeFiles(files)
			files = nil
		}
	}()
	ends := []any{w.transport.R}
	if any(w.transport.R) != any(w.transport.W) {
		ends = append(ends, w.transport.W)
	}
	for _, l := range w.logs {
		ends = append(ends, l.file)
	}
	for _, end := range ends {
		f, err := copyOf(end)
		if err != nil {
			return files, fmt.Errorf("cannot keep the plugin's descriptors: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // copies
	}
}

// copyOf duplicates a descriptor and leaves it as it is: os.File's own way would
// make the open file blocking, which is ours, too.
func copyOf(end any) (*os.File, error) {
	c, ok := end.(syscall.Conn)
	if !ok {
		return nil, errors.New("not a file")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	own := -1
	failed := raw.Control(func(fd uintptr) { own, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(failed, err); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(own), "kept"), nil
}

// reopenWires makes our ends of what was kept. It takes the files over, also
// when it fails.
func reopenWires(protocol ipc.Protocol, files []*os.File) (w *wires, err error) {
	w = &wires{}
	defer func() {
		if err != nil {
			closeFiles(files)
		}
	}()
	logs := []string{"stderr"}
	ends := 2
	if protocol == ipc.ProtocolCordon || protocol == "" {
		logs, ends = []string{"stderr", "stdout"}, 1
	}
	if len(files) != ends+len(logs) {
		return w, fmt.Errorf("cannot go on with its descriptors: %d were kept, and it has %d", len(files), ends+len(logs))
	}
	for i, f := range files {
		if err := unix.SetNonblock(int(f.Fd()), true); err != nil {
			return w, fmt.Errorf("cannot go on with its descriptors: %w", err)
		}
		if i >= ends {
			w.logs = append(w.logs, logWire{logs[i-ends], f})
		}
	}
	if ends == 2 {
		w.transport = ipc.PipeTransport(files[0], files[1])
		return w, nil
	}
	w.transport, err = ipc.FileTransport(files[0])
	return w, err
}
