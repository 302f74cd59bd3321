package supervisor

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/store"
)

// interpreted is a Launcher that tells what a plan's command would be run by.
type interpreted interface {
	Interpreters(p *plan.Plan, bundle string) ([]launch.Interpreter, error)
}

// pinsOf are what a start is held to. Another bundle, and another profile, is run
// by what there is at its first start.
func pinsOf(r store.Record) *launch.Pins {
	if of := r.Interpreters; of != nil && of.Digest == r.Digest && of.Profile == r.Profile {
		return &launch.Pins{Files: of.Files}
	}
	return &launch.Pins{}
}

// runByNow is what the next start of r is held to, after proc was started.
func runByNow(r store.Record, proc Process) *store.Interpreters {
	of, ok := proc.(interface{ Interpreters() []launch.Interpreter })
	if !ok || pinsOf(r).Files != nil {
		return r.Interpreters
	}
	return pinnedTo(r, of.Interpreters())
}

func pinnedTo(r store.Record, list []launch.Interpreter) *store.Interpreters {
	out := &store.Interpreters{Digest: r.Digest, Profile: r.Profile, Files: map[string]string{}}
	for _, i := range list {
		out.Files[i.Path] = i.Digest
	}
	return out
}

// runBy is what r may be run by, for records.
func runBy(r store.Record) map[string]string {
	if r.Interpreters == nil {
		return nil
	}
	return r.Interpreters.Files
}

// pinInterpreters has a plugin be run by what there is now, or by what there is
// at its next start.
func (s *Supervisor) pinInterpreters(by control.Caller, p *plugin, params control.PinParams) (control.Pinned, error) {
	r := p.shown.Load().record
	var next *store.Interpreters
	if !params.Remove {
		list, err := s.interpretersOf(r)
		if err != nil {
			return control.Pinned{}, control.Errorf(ipc.CodeUnsupported, "", "cannot pin what %s is run by: %w", p.name, err)
		}
		next = pinnedTo(r, list)
	}
	done := make(chan error, 1)
	if !p.box.post(message{do: func() { done <- p.holdTo(by, next) }}) {
		return control.Pinned{}, p.notFound()
	}
	select {
	case err := <-done:
		if err != nil {
			return control.Pinned{}, err
		}
	case <-p.ended:
		return control.Pinned{}, p.notFound()
	}
	out := control.Pinned{Tools: []string{}}
	if next != nil {
		out.Interpreters = next.Files
	}
	return out, nil
}

func (s *Supervisor) interpretersOf(r store.Record) ([]launch.Interpreter, error) {
	l, ok := s.launcher.(interpreted)
	if !ok {
		return nil, errors.New("the launcher looks at none")
	}
	bundle, err := s.source.Open(r.Digest)
	if err != nil {
		return nil, err
	}
	pl, err := s.source.Resolve(bundle, r.Profile)
	if err != nil {
		return nil, err
	}
	return l.Interpreters(pl, bundle.Path)
}

// holdTo runs in the actor. What was looked at is of one bundle and profile; if
// they are others by now, it says nothing of them.
func (p *plugin) holdTo(by control.Caller, next *store.Interpreters) error {
	was := p.record.Interpreters
	p.record.Interpreters = next
	if p.save(); p.unsaved {
		p.record.Interpreters = was
		return control.Errorf(ipc.CodeInternal, "", "cannot save what %s is run by", p.name)
	}
	text := p.name + " is run by what there is at its next start"
	if next != nil {
		text = p.name + " is run by " + programsInWords(next.Files)
	}
	p.auditEvent(control.Event{
		Plugin: p.name, Kind: "pinned", Actor: by.String(), Text: text,
		Data: map[string]any{"interpreters": runBy(p.record), "before": runBy(store.Record{Interpreters: was})},
	})
	p.publish()
	return nil
}

func programsInWords(files map[string]string) string {
	if len(files) == 0 {
		return "its own files alone"
	}
	list := make([]string, 0, len(files))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		list = append(list, name+" ("+files[name]+")")
	}
	return strings.Join(list, ", ")
}
