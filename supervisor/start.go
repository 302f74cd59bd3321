package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/store"
	"github.com/cordonhq/cordon/supervisor/violation"
	"github.com/cordonhq/cordon/supervisor/volume"
)

// PermanentError marks a failed start that trying again will not mend: a wall
// that the host cannot give, a command that does not exist.
type PermanentError struct{ Err error }

// Error implements error.
func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *PermanentError) Unwrap() error { return e.Err }

// stepError is a start that failed, and in which step of the walk.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return fmt.Sprintf("%s: %v", e.step, e.err) }
func (e *stepError) Unwrap() error { return e.err }

// launch begins the start walk of the current run in a goroutine of its own.
// It ends with exactly one evStartFailed or evSpawned; after evSpawned an
// evReady or evStartFailed follows, and at the end evExited.
func (p *plugin) launch() {
	// What a daemon starts anew did not crash of itself, though it counts as if it had:
	// a thousand of them in a lane for one or two would take a minute.
	crashed := p.state.Restarts > 0 && !p.again
	loops := crashed && p.state.Step > loopAfter
	p.again = false
	number := p.state.Run
	if err := p.mayStart(); err != nil {
		p.box.post(message{event: event{Kind: evStartFailed, Run: number, Reason: err.Error()}})
		return
	}
	if why := p.unmet(p.name); why != "" {
		p.box.post(message{event: event{Kind: evStop, Reason: why}, hold: true})
		p.box.post(message{event: event{Kind: evStartFailed, Run: number, Reason: why}})
		return
	}
	p.stages.begin(number, p.clock.Now())
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	record := p.record
	p.walking.Go(func() {
		defer cancel()
		err := p.startWalk(ctx, number, record, crashed, loops)
		p.stage(number, "")
		if err != nil {
			var permanent *PermanentError
			p.box.post(message{event: event{
				Kind: evStartFailed, Run: number, Reason: err.Error(), Permanent: errors.As(err, &permanent),
			}})
		}
	})
}

// mayStart fails closed: nothing runs whose quarantine could not be kept, or
// whose doings could not be recorded.
func (p *plugin) mayStart() error {
	if p.unsaved {
		return errors.New("record: the state cannot be saved")
	}
	if p.auditErr != nil {
		return fmt.Errorf("record: %w", p.auditErr)
	}
	return nil
}

// startWalk is the first walk of the design. An error before the process
// exists leaves nothing; later the actor owns the process.
func (p *plugin) startWalk(ctx context.Context, number uint64, r store.Record, crashed, loops bool) error {
	over, err := p.beginLoop(ctx, loops)
	if err != nil {
		return &stepError{"wait for a free place", err}
	}
	leave, err := p.enter(ctx, crashed)
	if err != nil {
		over()
		return &stepError{"wait for a free place", err}
	}
	run, err := p.bringUp(ctx, number, r, nil)
	leave()
	if err != nil {
		over()
		return err
	}
	if loops {
		p.endLoop(run, over)
	}
	return p.greet(run, false)
}

// bringUp verifies, resolves, connects and launches, and hands the process to
// the actor. beside is the swap that it is for; nil for the only process of the
// plugin, which has the uid of its slot.
func (p *plugin) bringUp(ctx context.Context, number uint64, r store.Record, beside *swap) (*running, error) {
	p.stage(number, stageVerify)
	bundle, err := p.source.Open(r.Digest)
	if err != nil {
		return nil, &stepError{"verify", &PermanentError{err}}
	}
	p.stage(number, stageResolve)
	pl, err := p.source.Resolve(bundle, r.Profile)
	if err != nil {
		return nil, &stepError{"resolve", &PermanentError{err}}
	}
	p.box.post(message{do: func() { p.resolved(number, pl) }})
	p.box.post(message{event: event{Kind: evPlaced, Run: number}})
	p.stage(number, stageStart)
	req := launch.Request{Name: r.Name, Plan: pl, Bundle: bundle.Path, UID: p.uidOf(r.Slot), Pins: pinsOf(r)}
	if beside != nil {
		req.UID = 0 // one that nobody has
		if req.Data, err = p.dataBeside(beside.share, pl); err != nil {
			return nil, &stepError{"data", &PermanentError{err}}
		}
		return p.spawn(ctx, number, bundle, r.Profile, req)
	}
	if req.Data, err = p.dataFor(ctx, r, pl); err != nil {
		return nil, &stepError{"data", err}
	}
	run, err := p.spawn(ctx, number, bundle, r.Profile, req)
	if err != nil {
		p.closeData()
	}
	return run, err
}

// resolved notes the plan, so that its policy holds for what comes.
func (p *plugin) resolved(number uint64, pl *plan.Plan) {
	if number == p.state.Run {
		p.plan, p.policy = pl, pl.Lifecycle
		p.record.PolicyDigest = pl.PolicyDigest()
	}
}

// spawn makes the connection, launches and starts everything that watches the
// process.
func (p *plugin) spawn(ctx context.Context, number uint64, bundle *Bundle, profile string, req launch.Request) (*running, error) {
	w, err := newWires(req.Plan.Protocol)
	if err != nil {
		return nil, &stepError{"connect", err}
	}
	defer w.closePlugins()
	caps := p.capabilities(number, bundle, profile, &req)
	room, err := p.enterListening(ctx, req.Plan, caps)
	if err != nil {
		closeSession(caps)
		w.closeHosts()
		return nil, &stepError{"listen", err}
	}
	defer room.Handed()
	req.Listen = room.Files()
	book, journal, err := p.book()
	if err != nil {
		closeSession(caps)
		w.closeHosts()
		return nil, &stepError{"connect", err}
	}
	conn, err := p.connect(w.transport, req.Name, req.Plan, p.answering(bundle, caps), KeptConn{Journal: journal})
	if err != nil {
		closeSession(caps)
		w.closeHosts()
		closeBook(book)
		return nil, &stepError{"connect", err}
	}
	if book != nil {
		files, err := w.keepFiles()
		if err == nil {
			var own []*os.File
			own, err = room.Kept()
			files = append(files, own...)
		}
		if err != nil {
			closeFiles(files)
			closeSession(caps)
			w.closeHosts()
			closeBook(book)
			return nil, &stepError{"connect", errors.Join(err, conn.Close())}
		}
		defer closeFiles(files)
		req.Keep = &launch.Keep{Book: book, Files: files}
	}
	req.Stdin, req.Stdout, req.Stderr, req.Socket = w.stdin, w.stdout, w.stderr, w.socket
	req.OnViolation = func(v violation.Violation) { p.violated(number, v) }
	req.OnPressure = p.pressed
	proc, err := p.launcher.Start(ctx, req)
	if err != nil {
		closeSession(caps)
		w.closeHosts()
		closeBook(book)
		return nil, &stepError{"launch", errors.Join(err, conn.Close())}
	}
	run := newRunning(number, caps, bundle, proc, conn, req.Plan, p.circuitChanged)
	run.listening, run.data = room, req.Data != ""
	for _, l := range w.logs {
		go p.log.copyFrom(l.stream, l.file)
	}
	if !p.box.post(message{event: event{Kind: evSpawned, Run: number}, begun: run}) {
		p.discard(run)
		return nil, &stepError{"launch", errors.New("the plugin was removed meanwhile")}
	}
	p.awaitExit(run)
	return run, nil
}

// greet serves the connection and waits for the hello. The actor's timer
// bounds it: killing the process ends the connection. What is to take another's
// place is asked for its health, too.
func (p *plugin) greet(run *running, beside bool) error {
	p.stage(run.number, stageHello)
	go p.serve(run)
	said, err := run.conn.Hello(run.ctx)
	if err != nil {
		p.broke(run, err)
		ended(run)
		return &stepError{"hello", err}
	}
	run.hello.Store(&said)
	p.stage(run.number, stageWarmUp)
	if err := p.becomeWell(run); err != nil {
		return &stepError{"warm-up", err}
	}
	if err := p.pinned(run); err != nil {
		return &stepError{"contract", err}
	}
	if err := p.warmUp(run); err != nil {
		return &stepError{"warm-up", err}
	}
	p.writeBook(run)
	if beside {
		if err := p.isWell(run); err != nil {
			return err
		}
	} else {
		run.listening.Serve(connections{run.caps})
	}
	p.box.post(message{event: event{Kind: evReady, Run: run.number}})
	go p.watchHealth(run)
	return nil
}

// serve runs the connection to its end.
func (p *plugin) serve(run *running) {
	err := run.conn.Run(run.ctx)
	p.loosen(run)
	p.broke(run, err)
	if err == nil {
		ended(run)
	}
	p.box.post(message{event: event{Kind: evDisconnected, Run: run.number}})
}

// endTime is how long a process may live on without its connection until that is
// told as the reason.
const endTime = 50 * time.Millisecond

// ended waits a while for the end of a process whose connection has ended: of one
// that was killed for a wall that it hit, what it hit is to be told first.
func ended(run *running) {
	late := time.NewTimer(endTime) // decides nothing but the words
	defer late.Stop()
	select {
	case <-run.proc.Done():
	case <-late.C:
	}
}

// broke reports a violation if err says that the plugin broke the protocol. A
// message that was cut off is how a killed peer looks, and none.
func (p *plugin) broke(run *running, err error) {
	var broken *ipc.ProtocolError
	if errors.As(err, &broken) && run.outOfStep() { // our doing, not the plugin's
		p.box.post(message{event: event{Kind: evUnhealthy, Run: run.number, Reason: "daemon-crash: its connection could not be gone on with: " + breachInWords(broken)}})
		return
	}
	if !errors.As(err, &broken) || broken.Code == ipc.BreachTruncated || !run.told.CompareAndSwap(false, true) {
		return
	}
	v := violation.Violation{
		Kind: "violation", Time: p.clock.Now().UTC(), Wall: violation.IPC, What: breachInWords(broken),
		Where: violation.Where{PID: run.proc.PID()}, PolicyDigest: run.plan().PolicyDigest(), PlanDigest: run.proc.PlanDigest(),
	}
	v.Action = run.judge.Decide(violation.IPC, v.Time)
	p.violated(run.number, v)
}

// breachInWords names the profile's key where one bounds what was broken.
func breachInWords(e *ipc.ProtocolError) string {
	key := map[ipc.Breach]string{ipc.BreachTooLarge: "max_frame", ipc.BreachDepth: "max_depth", ipc.BreachOverdue: "cancel_grace"}[e.Code]
	if key != "" {
		key = " (" + key + ")"
	}
	return violation.Escape(string(e.Code)+key+": "+e.Msg, 512)
}

// violated tells the actor of a violation. It does not wait. One that ends the
// plugin is never lost; of others too many at once are only counted.
func (p *plugin) violated(number uint64, v violation.Violation) {
	v.Plugin = p.name
	if v.ID == "" {
		v.ID = p.newID()
	}
	m := message{hit: &v, event: event{
		Kind: evViolation, Run: number, Action: v.Action,
		Reason: violation.Escape(fmt.Sprintf("it hit the wall %s: %s", v.Wall, v.What), 300),
	}}
	if v.Action == violation.Log || v.Action == violation.Deny {
		p.box.offer(m)
		return
	}
	p.box.post(m)
}

// pressed records that the whole plugin stood still for want of memory, of a
// processor or of the disk: no violation, but what an operator looks for who is
// told that it is slow. The kernel tells every two seconds while it lasts; the
// first, second, fourth, eighth ... time of each is recorded.
func (p *plugin) pressed(file string, count int64) {
	if count&(count-1) != 0 {
		return
	}
	p.box.offer(message{do: func() {
		p.auditEvent(control.Event{
			Plugin: p.name, Kind: "pressure", Actor: "kernel",
			Text: fmt.Sprintf("all of %s stood still for 200 ms of 2 s, for the time number %d: %s", p.name, count, file),
			Data: map[string]any{"file": file, "count": count},
		})
	}})
}

// awaitExit has the end of the last process reported: without a goroutine that
// waits, where the process can be asked to call.
func (p *plugin) awaitExit(run *running) {
	if proc, ok := run.proc.(interface{ Then(f func()) }); ok {
		proc.Then(func() { p.exited(run) })
		return
	}
	go func() { <-run.proc.Done(); p.exited(run) }()
}

// exited reports that end.
func (p *plugin) exited(run *running) {
	run.cancel()
	closeSession(run.caps)
	st := run.proc.Exit().Status
	p.box.post(message{event: event{
		Kind: evExited, Run: run.number, Clean: st.Exited() && st.ExitStatus() == 0, Reason: exitInWords(st),
	}})
}

func exitInWords(st syscall.WaitStatus) string {
	if st.Signaled() {
		return fmt.Sprintf("it was ended by %s", unix.SignalName(st.Signal()))
	}
	return fmt.Sprintf("it ended with status %d", st.ExitStatus())
}

// dataFor makes the directory that becomes /data, owned by the plugin, if the
// plan keeps one: a file system of its own, of the plan's size. Only the
// directory itself is ever given away: what is in it belongs to the plugin
// already, and is not to be trusted.
func (p *plugin) dataFor(ctx context.Context, r store.Record, pl *plan.Plan) (dir string, err error) {
	if !pl.Data.Persistent {
		return "", nil
	}
	defer func() {
		if err != nil {
			p.closeData()
		}
	}()
	dir = p.dataDir()
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	if pl.Data.Size > 0 {
		v := p.volume()
		v.Size, v.Inodes = pl.Data.Size, pl.Data.Inodes
		if err := volume.Mount(ctx, v); err != nil {
			return "", err
		}
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	uid := int(p.uidOf(r.Slot))
	if err := errors.Join(unix.Fchown(fd, uid, uid), unix.Fchmod(fd, 0o700)); err != nil {
		return "", fmt.Errorf("cannot give %s to uid %d: %w", dir, uid, err)
	}
	return dir, nil
}

// volume is where the data that is kept lies.
func (p *plugin) volume() volume.Spec {
	return volume.Spec{Image: filepath.Join(p.stateDir, "volumes", p.name), Dir: p.dataDir()}
}

// closeData unmounts the data that is kept. The plugin has ended, or none began.
func (p *plugin) closeData() { p.logFailure("unmount its data", volume.Unmount(p.dataDir())) }

// uidOf is the host uid of a slot's plugin; the next is its reaper's.
func (s *shared) uidOf(slot uint32) uint32 { return s.uidBase + 2*slot }

// helloOf is what the plugin said of itself, nil if nothing yet.
func helloOf(run *running) json.RawMessage {
	if run == nil {
		return nil
	}
	if said := run.hello.Load(); said != nil {
		return *said
	}
	return nil
}
