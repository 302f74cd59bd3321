package violation

import (
	"cmp"
	"fmt"
	"strings"

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
		return adviseGrant(v)
	case Watchdog:
		return adviseWatchdog(p)
	}
	return advice{}
}

// adviseGrant explains a capability, whose name is in Call and whose target in
// Args, and what refused it in Rule.
func adviseGrant(v *Violation) advice {
	a := advice{
		rule: cmp.Or(v.Rule, "a capability that was not granted is refused at every call"),
		also: "Ask for the capability in the plugin's manifest, then grant it in the profile.",
	}
	if v.Call == "" || v.Unliftable {
		return a
	}
	target := ""
	if len(v.Args) > 0 {
		asked := v.Args[0]
		if host, ok := strings.CutPrefix(asked, "dns:"); ok { // it asked for a name, and not yet for a port
			asked = host + ":443"
		}
		target = fmt.Sprintf("%q", Escape(asked, maxPath))
	}
	switch {
	case v.Call == "listen":
		a.change, a.also = "[network]\nlisten = ["+target+"]\n", "Whoever reaches that address of the host reaches the plugin."
	case v.Call == "egress":
		a.change, a.also = "[network]\negress = ["+target+"]\n", "What the plugin knows can leave by it."
	case target != "":
		a.change = fmt.Sprintf("[[capability]]\nname = %q\ntarget = [%s]\n", v.Call, target)
		a.also = "The plugin's manifest must ask for it too."
	default:
		a.change = fmt.Sprintf("[[capability]]\nname = %q\n", v.Call)
		a.also = "The plugin's manifest must ask for it too."
	}
	return a
}

// adviseWatchdog explains a plugin that did not answer, or said that it is not
// well.
func adviseWatchdog(p *plan.Plan) advice {
	a := advice{
		rule: ruled(p, []string{"lifecycle.watchdog_sec"}, "watchdog_sec is %s: a plugin that does not answer in it is taken for hung", Span(p.Lifecycle.Watchdog)),
		also: "A plugin that hangs stays so for longer before it is restarted. One that says itself that it is not well is restarted whatever the time.",
	}
	if next := nextSpan(p.Lifecycle.Watchdog); next > 0 {
		a.change = fmt.Sprintf("[lifecycle]\nwatchdog_sec = %q\n", Span(next))
	}
	return a
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
