package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// touch is one answer to the question who touched what, when, by which grant.
type touch struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Who     string    `json:"who"`
	What    string    `json:"what"`
	Target  string    `json:"target,omitempty"`
	Outcome string    `json:"outcome"`
	// Grant is the line of a profile, or the operator, that granted it.
	Grant string `json:"grant,omitempty"`
	// Plan is the digest of the plan that was in force.
	Plan string `json:"plan_digest,omitempty"`
}

func auditWho(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "who [TEXT]", Short: "Say who touched what, when, by which grant",
		Long: `Read the whole audit log, check it as cordon audit verify does, and print each use
of a capability and of a place: who, what, when, how it came out, and which grant
let it through. What was refused is there, too, and what operators granted and
revoked. TEXT keeps what has it in its target: a path, a host, a name.

What a plugin does with files of its own view is the kernel's to allow, and no
record: cordon inspect says what it sees. Calls that are made in masses (log,
metric, kv) are counted, and the count is recorded when the plugin ends.`,
		Example: `  cordon audit who
  cordon audit who /srv/photos --plugin thumbs --since 24h
  cordon audit who api.example.com --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return takes("TEXT")(cmd, args)
		},
	}
	log := logFlag(cmd)
	plugin := cmd.Flags().String("plugin", "", "only what the plugin of this `name` did")
	since := cmd.Flags().Duration("since", 0, "only what is not older")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *since < 0 {
			return usage(cmd, "--since must not be negative")
		}
		path, public, err := a.logPath(cmd.Context(), *log)
		if err != nil {
			return err
		}
		from := time.Time{}
		if *since > 0 {
			from = time.Now().Add(-*since)
		}
		found := []touch{}
		_, err = audit.Read(path, public, func(ev control.Event) {
			t, ok := touchOf(ev)
			if ok && (*plugin == "" || t.Who == *plugin) && !t.Time.Before(from) && strings.Contains(t.Target, strings.Join(args, "")) {
				found = append(found, t)
			}
		})
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, found)
		}
		return a.printTouches(found)
	}
	return cmd
}

// touchOf gives what a record says of the question; ok is false where it says
// nothing.
func touchOf(ev control.Event) (t touch, ok bool) {
	text := func(key string) string {
		s, _ := ev.Data[key].(string)
		return s
	}
	t = touch{Seq: ev.Seq, Time: ev.Time, Who: ev.Plugin, Plan: text("plan_digest")}
	switch ev.Kind {
	case "capability":
		t.What, t.Target, t.Outcome, t.Grant = text("what"), text("target"), text("outcome"), text("grant")
		if n, counted := ev.Data["calls"].(float64); counted {
			t.Outcome += fmt.Sprintf(" %.0f times", n)
		}
	case "violation", "quarantined":
		if text("wall") != string(violation.Grant) {
			return t, false
		}
		t.What, t.Target, _ = strings.Cut(text("what"), " ")
		t.Outcome = "refused: " + text("rule")
	case "granted", "revoked":
		t.What, t.Outcome, t.Grant = text("capability"), ev.Kind, ev.Actor
		if targets, some := ev.Data["target"].([]any); some {
			t.Target = strings.Trim(fmt.Sprint(targets), "[]")
		}
	default:
		return t, false
	}
	return t, true
}

func (a *app) printTouches(found []touch) error {
	if len(found) == 0 {
		_, err := fmt.Fprintln(a.out, "The audit log has no such record.")
		return err
	}
	rows := [][]string{{"WHEN", "WHO", "WHAT", "TARGET", "OUTCOME", "BY"}}
	for _, t := range found {
		rows = append(rows, []string{timeText(t.Time), t.Who, t.What, t.Target, t.Outcome, t.Grant})
	}
	table(a.out, rows)
	return nil
}
