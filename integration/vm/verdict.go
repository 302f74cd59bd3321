package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/cordonhq/cordon/integration/vm/stream"
)

// event is one line of go test -json; go doc test2json.
type event struct {
	Time    time.Time `json:",omitzero"`
	Action  string
	Package string
	Test    string   `json:",omitempty"`
	Elapsed *float64 `json:",omitempty"`
	Output  string   `json:",omitempty"`
}

// verdict turns what a guest says into go test's own events. Each tier's output
// goes through go tool test2json, which knows what a test binary's output means.
type verdict struct {
	kernel  string
	out     io.Writer
	log     io.Writer // all that the guest says, as it says it
	started time.Time
	spent   time.Duration // processor time of the guest until now

	tierSpent time.Duration // when the tier began
	tierBegan time.Time
	tier      stream.Tier
	text      bytes.Buffer // the tier's output
	inside    bool
	tiers     int
	ended     int  // tiers of which the guest said the end
	done      bool // the guest said that it ran all
	failed    []string
	took      []took // of tests that are no other's part
	// compile is told of each recipe that was not compiled ahead.
	compile func(words string)
	// tell is given each line of a tier's output as it comes.
	tell func(text string)
	// report is given the table of the escape corpus.
	report func(table string)
}

func newVerdict(kernel string, out, log io.Writer) *verdict {
	return &verdict{kernel: kernel, out: out, log: log, started: time.Now(), compile: func(string) {}, tell: func(string) {}, report: func(string) {}}
}

// line takes one line of the guest's.
func (v *verdict) line(text string) {
	_, _ = fmt.Fprintln(v.log, text)
	m, ok := stream.Parse(text)
	if !ok {
		if v.inside {
			v.text.WriteString(text + "\n")
			v.tell(text)
		} else if strings.TrimSpace(text) != "" {
			say("%s: guest: %s", v.kernel, text)
		}
		return
	}
	switch m.Kind {
	case stream.Ready:
		say("%s: up after %.1f s (%.1f s of processor time): %s", v.kernel, time.Since(v.started).Seconds(), v.spent.Seconds(), m.Text)
	case stream.Begin:
		v.tier, v.inside = m.Tier, true
		v.tiers++
		v.text.Reset()
		v.tierSpent, v.tierBegan = v.spent, time.Now()
		say("%s: %s", v.kernel, m.Tier.Name)
	case stream.End:
		v.inside = false
		v.ended++
		v.judge(m)
	case stream.Compile:
		v.compile(m.Text)
	case stream.Done:
		v.done = true
	}
}

// judge prints the events of one tier.
func (v *verdict) judge(end stream.Message) {
	pkg := v.tier.Name + " [" + v.kernel + "]"
	events, err := convert(pkg, v.text.String())
	if err != nil {
		v.failed = append(v.failed, fmt.Sprintf("%s: %v", v.tier.Name, err))
		return
	}
	passed, failed := v.relay(pkg, events)
	if table := escapes(events); table != "" {
		v.report(table)
	}
	action := "pass"
	var why string
	switch {
	case end.Text != "":
		action, why = "fail", end.Text
	case failed > 0:
		action, why = "fail", fmt.Sprintf("%d tests failed", failed)
	case passed == 0:
		action, why = "fail", "it ran no test"
	}
	word := map[string]string{"pass": "ok  ", "fail": "FAIL"}[action]
	v.print(event{Action: "output", Package: pkg, Output: fmt.Sprintf("%s\t%s\t%.3fs\n", word, pkg, end.Seconds)})
	v.print(event{Action: action, Package: pkg, Elapsed: &end.Seconds})
	say("%s: %s %s after %.1f s (%.1f s of processor time; %.1f s by its own clock, its processors idle for %.1f s)", v.kernel, strings.TrimSpace(word), v.tier.Name,
		time.Since(v.tierBegan).Seconds(), (v.spent - v.tierSpent).Seconds(), end.Seconds, end.Idle)
	if action == "fail" {
		v.failed = append(v.failed, v.tier.Name+": "+why)
	}
}

// again forgets the tier that the guest did not end, which another guest runs,
// but for the tests that failed in it, and gives how many tiers it did end.
func (v *verdict) again() int {
	if !v.inside {
		return v.ended
	}
	v.inside = false
	v.tiers--
	const next = "\x16=== NAME  \n" // without a next line test2json keeps the last one's meaning to itself
	events, err := convert(v.tier.Name, v.text.String()+next)
	if err != nil {
		v.failed = append(v.failed, fmt.Sprintf("%s: %v", v.tier.Name, err))
	}
	for _, e := range events {
		if e.Action == "fail" && e.Test != "" {
			v.failed = append(v.failed, fmt.Sprintf("%s: %s failed before the kernel died", v.tier.Name, e.Test))
		}
	}
	return v.ended
}

// relay prints the events of the tests, and fails those that began and never
// ended.
func (v *verdict) relay(pkg string, events []event) (passed, failed int) {
	var open []string
	for _, e := range events {
		if e.Test == "" && e.Action != "output" {
			continue // the package's own, which judge makes
		}
		switch e.Action {
		case "run":
			open = append(open, e.Test)
		case "pass":
			passed++
		case "fail":
			failed++
		}
		if e.Elapsed != nil && e.Test != "" && !strings.Contains(e.Test, "/") {
			v.took = append(v.took, took{e.Test, *e.Elapsed})
		}
		if e.Action == "pass" || e.Action == "fail" || e.Action == "skip" {
			open = slices.DeleteFunc(open, func(test string) bool { return test == e.Test })
		}
		v.print(e)
	}
	for _, test := range slices.Backward(open) {
		failed++
		v.print(event{Action: "fail", Package: pkg, Test: test})
	}
	return passed, failed
}

func (v *verdict) print(e event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	line, err := json.Marshal(e)
	if err != nil {
		v.failed = append(v.failed, err.Error())
		return
	}
	_, _ = fmt.Fprintf(v.out, "%s\n", line)
}

// escapes is the report of the escape corpus in a tier's output: from its head to
// its last line, which counts the cases.
func escapes(events []event) string {
	var table strings.Builder
	for _, e := range events {
		if e.Action != "output" || e.Test != "TestEscapes" {
			continue
		}
		line := strings.TrimSpace(e.Output)
		if table.Len() > 0 || strings.HasPrefix(line, "CATEGORY ") {
			table.WriteString(line + "\n")
		}
		if strings.HasSuffix(line, " held") && strings.Contains(line, " cases, ") {
			return table.String()
		}
	}
	return ""
}

// convert gives the events of a test binary's output.
func convert(pkg, text string) ([]event, error) {
	cmd := exec.Command("go", "tool", "test2json", "-p", pkg)
	cmd.Stdin = strings.NewReader(text)
	out, err := output(cmd)
	if err != nil {
		return nil, err
	}
	var events []event
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var e event
		err := d.Decode(&e)
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read what test2json says: %w", err)
		}
		e.Time = time.Time{}
		events = append(events, e)
	}
}

// end is what became of the guest's whole run.
func (v *verdict) end(err error) error {
	if v.inside {
		v.judge(stream.Message{Text: "the guest ended in the middle of it"})
	}
	if len(v.took) > 0 {
		say("%s: the slowest tests, by its own clock: %s", v.kernel, slowest(v.took, slowestShown))
	}
	if err != nil {
		return err
	}
	if !v.done {
		return errors.New("the guest ended before it had run all tiers")
	}
	if v.tiers == 0 {
		return errors.New("the guest had no tier to run")
	}
	if len(v.failed) > 0 {
		return errors.New(strings.Join(v.failed, "; "))
	}
	say("%s: all tiers passed after %.0f s (%.0f s of processor time)", v.kernel, time.Since(v.started).Seconds(), v.spent.Seconds())
	return nil
}
