package supervisor

import (
	"strings"
	"testing"

	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/supervisor/control"
)

func (f *family) flag(name, state string) control.Flagged {
	f.t.Helper()
	done, err := f.SetFlag(f.t.Context(), operator, control.FlagParams{Name: name, State: state})
	if err != nil {
		f.t.Fatal(err)
	}
	return done
}

// TestFlagGatesAPlugin: what is off leaves with what needs it, cannot be started,
// also not by another daemon, and comes back when it is on.
func TestFlagGatesAPlugin(t *testing.T) {
	f := newFamily(t, map[string]manifest.Needs{"a": requires("b")}, "a", "b")
	f.SetFlags(t.Context(), []Flag{{Name: "photos", On: true, Plugins: []string{"b*"}}}, "daemon")
	f.do(f.Start, "a")
	if done := f.flag("photos", "off"); strings.Join(done.Stopped, " ") != "b" || done.Flag.On || done.Flag.By != "uid 0" {
		t.Errorf("flipped: %+v", done)
	}
	if a, b := f.of("a"), f.of("b"); a.State != control.Stopped || b.State != control.Stopped || b.Waits != "the flag photos is off" || a.Waits != "a requires b, which is stopped" {
		t.Fatalf("off: %+v %+v", a, b)
	}
	for name, want := range map[string]string{
		"b": "cannot start b: the flag photos is off", "a": "cannot start a: the flag photos of b, which it needs, is off",
	} {
		if _, err := f.Start(t.Context(), operator, control.NameParams{Name: name}); err == nil || err.Error() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := f.plugin("b") // whoever asks the actor
	b.box.post(message{event: event{Kind: evStart}})
	for range 3 { // what it posts to itself comes after what waits
		done := make(chan struct{})
		b.box.post(message{do: func() { close(done) }})
		<-done
	}
	f.until("b", control.Stopped)
	if got := f.launched(); got != "b a" {
		t.Errorf("launched: %s", got)
	}

	f.reopen() // the configuration still says on
	f.watch()
	f.SetFlags(t.Context(), []Flag{{Name: "photos", On: true, Plugins: []string{"b*"}}}, "daemon")
	f.StartEnabled()
	if st := f.of("b"); st.State != control.Stopped || st.Waits != "the flag photos is off" {
		t.Errorf("after a restart of the daemon: %+v", st)
	}
	f.flag("photos", "default")
	f.until("a", control.Running)
	for _, kind := range []string{"flag-on", "flag-off"} {
		found := false
		for _, ev := range f.audit.Recent(0, "") {
			found = found || ev.Kind == kind && ev.Actor == "uid 0" && strings.Contains(ev.Text, "photos")
		}
		if !found {
			t.Errorf("no record %s", kind)
		}
	}
}

// TestFlagFailsClosed: a flag that says nothing is off, and what cannot be kept
// is off but never on.
func TestFlagFailsClosed(t *testing.T) {
	f := newFamily(t, nil)
	f.do(f.Start, "p")
	f.SetFlags(t.Context(), []Flag{{Name: "photos", Plugins: []string{"p"}}}, "daemon")
	if st := f.of("p"); st.State != control.Stopped {
		t.Fatalf("a flag without a word leaves it %s", st.State)
	}
	f.flag("photos", "on")
	f.until("p", control.Running)
	if err := f.store.Close(); err != nil {
		t.Fatal(err)
	}
	done, err := f.SetFlag(t.Context(), operator, control.FlagParams{Name: "photos", State: "off"})
	if err == nil || done.Flag.On || !strings.Contains(err.Error(), "only until this cordond ends") {
		t.Errorf("off without a disk: %+v, %v", done, err)
	}
	if done, err = f.SetFlag(t.Context(), operator, control.FlagParams{Name: "photos", State: "on"}); err == nil || done.Flag.On {
		t.Errorf("on without a disk: %+v, %v", done, err)
	}
	for _, c := range []control.FlagParams{{Name: "photo", State: "on"}, {Name: "photos", State: "yes"}} {
		if _, err := f.SetFlag(t.Context(), operator, c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestFlagsAreChecked(t *testing.T) {
	for want, flags := range map[string][]Flag{
		"flag[0]: name":                      {{Name: "A", Plugins: []string{"p"}}},
		"flag[0]: a gates nothing":           {{Name: "a"}},
		"flag[0]: plugins":                   {{Name: "a", Plugins: []string{"p*q"}}},
		"flag[0]: capabilities":              {{Name: "a", Capabilities: []string{"fly"}}},
		"flag[1]: there are two flags \"a\"": {{Name: "a", Plugins: []string{"p"}}, {Name: "a", Plugins: []string{"q"}}},
		"flag: at most 256 flags, got 257":   make([]Flag, 257),
	} {
		if err := CheckFlags(flags); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if err := CheckFlags([]Flag{{Name: "a", Capabilities: []string{"kv"}}, {Name: "b.c", Plugins: []string{"x*"}}}); err != nil {
		t.Error(err)
	}
}
