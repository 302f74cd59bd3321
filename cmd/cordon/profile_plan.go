package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
)

// planned is what profile plan prints as JSON.
type planned struct {
	PolicyDigest string     `json:"policy_digest"`
	Plan         *plan.Plan `json:"plan"`
	Steps        []stepLine `json:"steps"`
}

// stepLine is one step of a launch. Numbers are those of error messages.
type stepLine struct {
	Number int    `json:"number"`
	Wall   string `json:"wall"`
	Text   string `json:"text"`
}

func profilePlan(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "plan PROFILE [-- CMD [ARG...]]", Short: "Show the steps of a start, without starting",
		Long: `Show what a start behind a profile's walls does on this host, step by step and in
order, without starting anything. Errors of a start name the same steps. The
numbers of a real start are higher by the groups that the host makes it join.

With --json, the whole plan and its policy digest are printed, too.`,
		Example: `  cordon profile plan strict
  cordon profile plan ./thumbs.toml --set resources.pids.max=8 -- node main.js
  cordon profile plan --json node | jq -r '.steps[].text'`,
		Args: cobra.MinimumNArgs(0),
	}
	sets, asJSON := setFlag(cmd), jsonFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		name, argv, err := profileAndCommand(cmd, args)
		if err != nil {
			return err
		}
		p, ceiling, err := findProfile(name, *sets)
		if err != nil {
			return err
		}
		pl, err := planOf(p, ceiling, argv)
		if err != nil {
			return err
		}
		_, steps, err := preview(pl, ceiling)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.out, planned{pl.PolicyDigest(), pl, stepLines(steps)})
		}
		a.printSteps(pl, stepLines(steps))
		return nil
	}
	return cmd
}

// profileAndCommand divides PROFILE [-- CMD...].
func profileAndCommand(cmd *cobra.Command, args []string) (name string, argv []string, err error) {
	dash := cmd.ArgsLenAtDash()
	if dash < 0 {
		dash = min(len(args), 1)
	}
	switch {
	case dash == 0 || len(args) == 0:
		return "", nil, usage(cmd, "there is no profile")
	case dash > 1:
		return "", nil, usage(cmd, fmt.Sprintf("%q is one argument too many", lines(args[1])))
	case len(args) > 1 && cmd.ArgsLenAtDash() < 0:
		return "", nil, usage(cmd, "write the command after --")
	}
	return args[0], args[1:], nil
}

func stepLines(steps []namespaces.Step) []stepLine {
	out := make([]stepLine, len(steps))
	for i, s := range steps {
		out[i] = stepLine{i + 1, s.Wall, s.String()}
	}
	return out
}

func (a *app) printSteps(p *plan.Plan, steps []stepLine) {
	for _, s := range steps {
		fmt.Fprintf(a.out, "%3d  %-16s %s\n", s.Number, s.Wall, lines(s.Text))
	}
	for _, r := range p.Refusals {
		fmt.Fprintf(a.out, "not granted: %s, %s: refused by the %s: %s\n", lines(r.Ask), lines(r.Why), r.By, lines(r.Hint))
	}
	fmt.Fprintf(a.out, "%s, %s\n", lines(p.Profile), p.PolicyDigest())
}
