package supervisor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// The stages of a start, in order. A start that fails says in which: what its
// error begins with is the stage, or a step of it.
const (
	stagePlace   = "place"   // a place among those that are being started
	stageVerify  = "verify"  // the sealed bundle is what was installed
	stageResolve = "resolve" // profile, manifest and ceiling come to a plan
	stageStart   = "start"   // data, descriptors, group, namespaces; then its first instruction
	stageHello   = "hello"   // it says hello (ipc.hello_timeout)
	stageWarmUp  = "warm-up" // it is well (lifecycle.warmup_sec), and keeps its contract's examples
)

// stages are those that the newest start of a plugin went through.
type stages struct {
	mu   sync.Mutex
	run  uint64
	at   string // "" when it is over
	from time.Time
	done []control.Stage
}

// begin forgets an earlier start.
func (s *stages) begin(run uint64, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.at, s.done = run, "", nil
	s.enter(stagePlace, now)
}

// next enters a stage, "" for the end of the last. What belongs to another run is
// not shown: an earlier one, or a process that is to take another's place.
func (s *stages) next(run uint64, stage string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if run == s.run {
		s.enter(stage, now)
	}
}

func (s *stages) enter(stage string, now time.Time) {
	if s.at != "" {
		s.done = append(s.done, control.Stage{Name: s.at, Took: max(0, now.Sub(s.from))})
	}
	s.at, s.from = stage, now
}

// now is the stage that it is in; "" is none.
func (s *stages) now() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// list are the stages that are over.
func (s *stages) list() []control.Stage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]control.Stage(nil), s.done...)
}

// stage notes how far a start has got.
func (p *plugin) stage(run uint64, name string) { p.stages.next(run, name, p.clock.Now()) }

// notReady is why a start took too long: ev has the stage that was not over.
func notReady(s lifecycle, ev event, p plan.Lifecycle) string {
	if ev.Reason == stagePlace {
		return fmt.Sprintf("no place among the %d plugins that are started at once was free within %v", maxStarting, placeTime)
	}
	limit := startTime(p)
	switch {
	case s.Process == alive:
		limit += p.WarmUp
	case ev.Reason == stageVerify || ev.Reason == stageResolve:
		limit = placeTime
	}
	text := fmt.Sprintf("it was not ready within %v", limit)
	if ev.Reason != "" {
		text += fmt.Sprintf(": the stage %s was not over", ev.Reason)
	}
	return text
}

// warmUpPause is how long a plugin that is not well yet is left alone.
const warmUpPause = 100 * time.Millisecond

// becomeWell asks a plugin that has said hello how it is, until it says that it
// is well; see lifecycle.warmup_sec. What has none is taken at its hello.
func (p *plugin) becomeWell(run *running) error {
	limit := run.plan().Lifecycle.WarmUp
	if limit <= 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(run.ctx)
	defer cancel()
	defer p.clock.AfterFunc(limit, cancel)()
	said := "it did not answer when asked for its health"
	for {
		err := run.conn.Health(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			said = err.Error()
		}
		if ctx.Err() != nil || !p.pause(ctx, warmUpPause) {
			return fmt.Errorf("it was not well within %s (warmup_sec): %s", violation.Span(limit), said)
		}
	}
}
