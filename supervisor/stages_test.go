package supervisor

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
)

// TestLateStageIsNamed: what runs out of time says in which stage it stood.
func TestLateStageIsNamed(t *testing.T) {
	b := newBench(t)
	b.connector.silent.Store(true)
	done := make(chan error, 1)
	go func() {
		_, err := b.Start(context.Background(), operator, control.NameParams{Name: "p"})
		done <- err
	}()
	<-b.launcher.started
	for late := time.After(time.Minute); b.status().Stage != stageHello; {
		select {
		case <-late:
			t.Fatalf("the stage is %q", b.status().Stage)
		case <-time.After(time.Millisecond):
		}
	}
	b.clock.fireNumber(testPolicy.StartTimeout, 2) // the first ran until it was heard that there is a process
	if err := <-done; err == nil || !strings.Contains(err.Error(), "it was not ready within 30s: the stage hello was not over") {
		t.Errorf("it was answered %v", err)
	}
}

// TestWarmUp: it is ready when it is well, and not before; one that does not get
// well in time says what it said.
func TestWarmUp(t *testing.T) {
	const limit = 41 * time.Second
	unwell := func(context.Context) error { return wellness(json.RawMessage(`{"healthy":false,"reason":"loading"}`)) }
	for _, well := range []bool{true, false} {
		b := newBench(t)
		b.source.change(func(p *plan.Plan) { p.Lifecycle.WarmUp = limit })
		b.connector.silent.Store(true)
		done := make(chan error, 1)
		go func() {
			_, err := b.Start(context.Background(), operator, control.NameParams{Name: "p"})
			done <- err
		}()
		<-b.launcher.started
		conn := <-b.connector.made
		asked := make(chan struct{}, 8)
		tries := 0
		conn.well = func(ctx context.Context) error {
			asked <- struct{}{}
			if tries++; tries == 3 && well {
				return nil
			}
			return unwell(ctx)
		}
		conn.hello <- nil
		<-asked
		if st := b.status(); st.State != control.Starting || st.Stage != stageWarmUp {
			t.Errorf("while it warms up: %+v", st)
		}
		b.clock.fireNumber(warmUpPause, 1)
		<-asked
		if well {
			b.clock.fireNumber(warmUpPause, 2)
			if err := <-done; err != nil {
				t.Error(err)
			}
			in, err := b.Inspect(t.Context(), control.NameParams{Name: "p"})
			var names []string
			for _, s := range in.Stages {
				names = append(names, s.Name)
			}
			if got := strings.Join(names, " "); err != nil || !strings.HasPrefix(got, "place verify resolve start hello") {
				t.Errorf("the stages are %s, %v", got, err)
			}
			continue
		}
		b.clock.fireNumber(limit, 1)
		if err := <-done; err == nil || !strings.Contains(err.Error(), "warm-up: it was not well within 41s (warmup_sec): it says that it is not well: loading") {
			t.Errorf("it was answered %v", err)
		}
	}
}
