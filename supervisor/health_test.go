package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

const testWatchdog = 38 * time.Second

// TestWatchdog: one that answers stays, one that does not is killed and
// restarted with the reason.
func TestWatchdog(t *testing.T) {
	for name, c := range map[string]struct {
		well func(ctx context.Context) error
		fire bool // its time runs out
		want string
	}{
		"hangs":    {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, true, "did not answer its watchdog (watchdog_sec 38s)"},
		"not well": {func(context.Context) error { return wellness(json.RawMessage(`{"healthy":false,"reason":"no disk"}`)) }, false, "not well: no disk"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.source.change(func(p *plan.Plan) { p.Lifecycle.Watchdog = testWatchdog })
			proc, conn := b.start()
			asked := make(chan struct{}, 4)
			conn.well = func(context.Context) error { asked <- struct{}{}; return nil }
			// A pause, then the bound of its question, each half as long as the watchdog.
			b.clock.fireNumber(testWatchdog/2, 1)
			<-asked
			conn.well = c.well
			b.clock.fireNumber(testWatchdog/2, 3)
			if c.fire {
				b.clock.fireNumber(testWatchdog/2, 4)
			}
			if ev := b.await("backoff"); !strings.Contains(ev.Text, c.want) {
				t.Errorf("the reason is %q", ev.Text)
			}
			if !proc.has("kill") {
				t.Errorf("it was not killed: %v", proc.list())
			}
			why, err := b.Why(t.Context(), control.NameParams{Name: "p"})
			if err != nil || len(why) != 1 || why[0].Wall != violation.Watchdog || !strings.Contains(why[0].What, c.want) {
				t.Errorf("why says %+v, %v", why, err)
			}
		})
	}
}

// TestWatchdogAnswers: what a missed heartbeat leads to is the profile's to say.
func TestWatchdogAnswers(t *testing.T) {
	for action, want := range map[string]control.State{"quarantine": control.Quarantined, "deny": control.Running} {
		t.Run(action, func(t *testing.T) {
			b := newBench(t)
			b.source.change(func(p *plan.Plan) {
				p.Lifecycle.Watchdog = testWatchdog
				p.Violation = map[string]plan.Response{"watchdog": {Action: action}}
			})
			_, conn := b.start()
			conn.well = func(context.Context) error { return wellness(json.RawMessage(`{"healthy":false,"reason":"no disk"}`)) }
			b.clock.fireNumber(testWatchdog/2, 1)
			b.await(map[string]string{"quarantine": "quarantined", "deny": "violation"}[action])
			if got := b.status().State; got != want {
				t.Errorf("it is %s", got)
			}
		})
	}
}

func TestOnlyAClearWordIsUnwell(t *testing.T) {
	for text, unwell := range map[string]bool{
		`{"healthy":false}`: true, `{"healthy":true}`: false, `{}`: false, `null`: false, `7`: false, `{"healthy":"no"}`: false,
	} {
		if got := errors.Is(wellness(json.RawMessage(text)), ErrUnwell); got != unwell {
			t.Errorf("%s: unwell is %v", text, got)
		}
	}
}
