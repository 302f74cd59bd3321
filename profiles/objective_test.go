package profiles

import (
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
)

func TestObjective(t *testing.T) {
	base := resolve(t, Input{Profile: parse(t, "")})
	if !base.SLO.Equal(plan.Objective{}) {
		t.Errorf("without a word: %+v", base.SLO)
	}
	text := "[slo]\nobjective = \"99.5%\"\nlatency = \"200ms\"\nessential = [\"a\"]\n"
	pl := resolve(t, Input{Profile: parse(t, text)})
	want := plan.Objective{Objective: 995, Latency: 200 * time.Millisecond, Window: time.Hour, BurnRate: 14, MinCalls: 20, Essential: []string{"a"}}
	if !pl.SLO.Equal(want) || pl.SLO.Percent() != "99.5%" {
		t.Errorf("%+v, want %+v", pl.SLO, want)
	}
	if pl.PolicyDigest() == base.PolicyDigest() {
		t.Error("the policy digest does not say that there is an objective")
	}
	merged, live, restart := Changes(base, pl)
	if len(restart) > 0 || len(live) == 0 || !merged.SLO.Equal(want) {
		t.Errorf("a new objective: live %v, restart %v", live, restart)
	}
	if merged, _, restart = Changes(pl, base); len(restart) > 0 || merged.SLO.Set() {
		t.Errorf("an objective that is gone: %+v, restart %v", merged.SLO, restart)
	}
	for bad, says := range map[string]string{
		"objective = \"100%\"": "from \"50%\" to \"99.9%\"", "objective = \"49%\"": "from", "latency = \"0s\"": "above 0", "window = \"1s\"": "from 1m",
		"burn_rate = 0": "1 to 1000", "min_calls = 0": "1 to", "essential = [\"\"]": "name of a method",
	} {
		if _, err := ParseProfile("x.toml", []byte("[slo]\n"+bad+"\n")); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
