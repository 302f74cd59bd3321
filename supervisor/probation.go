package supervisor

import (
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// maxProbation bounds how long a released plugin may be on probation.
const maxProbation = 365 * 24 * time.Hour

// checkProbation refuses what is no probation.
func checkProbation(d time.Duration) error {
	if d < 0 || d > maxProbation {
		return control.Errorf(ipc.CodeInvalidParams, "cordon release NAME --probation 24h", "cannot release for a probation of %v: expected at most %v, or 0 for none", d, maxProbation)
	}
	return nil
}

// onProbation says whether the plugin was released on probation, and that lasts.
func (p *plugin) onProbation(now time.Time) bool { return now.Before(p.record.Probation) }

// strictly makes a quarantine of a violation by a plugin on probation, whatever
// its profile would have had done; what is only logged is not enforced, and stays
// so. The launcher may have killed it by then, which contains it no less.
func (p *plugin) strictly(m message) message {
	if m.hit == nil || !p.onProbation(p.clock.Now()) || m.event.Action == violation.Log || m.event.Action == violation.Quarantine {
		return m
	}
	hit := *m.hit
	hit.Action = violation.Quarantine
	m.hit, m.event.Action = &hit, violation.Quarantine
	m.event.Reason += ", on probation until " + p.record.Probation.UTC().Format(time.RFC3339)
	return m
}

// beginProbation notes how long a plugin that has just been released is watched
// more strictly; a release without ends an earlier one.
func (p *plugin) beginProbation(m message, before control.State) {
	if m.event.Kind != evRelease || before != control.Quarantined || p.state.Phase == control.Quarantined {
		return
	}
	p.record.Probation = time.Time{}
	if m.probation > 0 {
		p.record.Probation = p.clock.Now().Add(m.probation).UTC()
		p.state.Reason += "; on probation until " + p.record.Probation.Format(time.RFC3339)
	}
}
