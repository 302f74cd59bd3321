package violation

import (
	"fmt"

	"github.com/cordonhq/cordon/profiles/plan"
)

// advice is what Explain fills in.
type advice struct {
	rule, change, also string
}

// Explain fills v's Rule, Change and Also from the plan that was enforced when
// v happened. It reads nothing but its arguments, and may be called again.
//
// Change is the smallest TOML that, added to the operator's profile, lifts this
// refusal. It is empty where no line of a profile should, and Also then says
// why; where a line exists but hardly anyone should write it, Also begins with
// when not to.
func Explain(v *Violation, p *plan.Plan) {
	a := advise(v, p)
	v.Rule, v.Change, v.Also = a.rule, a.change, a.also
}

func advise(v *Violation, p *plan.Plan) advice {
	switch v.Wall {
	case Seccomp:
		return adviseCall(v, p)
	case Files:
		return adviseFile(v, p)
	case Memory:
		return adviseMemory(v, p)
	case Pids:
		return advisePids(v, p)
	case Time:
		return adviseTime(v, p)
	case IPC:
		return adviseIPC(v, p)
	case Grant:
		return advice{
			rule: "a capability that was not granted is refused at every call",
			also: "Ask for the capability in the plugin's manifest, then grant it in the profile.",
		}
	case Watchdog:
		return advice{
			rule: "a plugin that misses its heartbeat is taken for hung",
			also: "No line of a profile lifts this: a plugin must stay responsive.",
		}
	}
	return advice{}
}

// origin is who wrote the first of keys that anyone wrote, as "file:line", or
// else the profile's name.
func origin(p *plan.Plan, keys ...string) string {
	for _, key := range keys {
		if o := p.Origins[key]; o != "" {
			return o
		}
	}
	return p.Profile
}

// ruled is a rule in words with who wrote it.
func ruled(p *plan.Plan, keys []string, format string, args ...any) string {
	return fmt.Sprintf(format, args...) + " (" + origin(p, keys...) + ")"
}
