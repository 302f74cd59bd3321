package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/integration/vm/stream"
)

// judged gives what a guest's lines make of a run: the verdict, and the actions
// of the events by test ("" is the package).
func judged(t *testing.T, died error, lines ...string) (actions map[string]string, err error) {
	t.Helper()
	var out bytes.Buffer
	v := newVerdict("6.1", &out, io.Discard)
	for _, line := range lines {
		v.line(line)
	}
	err = v.end(died)
	actions = map[string]string{}
	for d := json.NewDecoder(&out); ; {
		var e event
		if decodeErr := d.Decode(&e); errors.Is(decodeErr, io.EOF) {
			return actions, err
		} else if decodeErr != nil {
			t.Fatal(decodeErr)
		}
		if e.Action == "pass" || e.Action == "fail" || e.Action == "skip" {
			actions[e.Test] = e.Action
		}
	}
}

func message(t *testing.T, m stream.Message) string {
	t.Helper()
	line, err := stream.Format(m)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func TestVerdicts(t *testing.T) {
	begin := message(t, stream.Message{Kind: stream.Begin, Tier: stream.Tier{Name: "p", Test: true}})
	end := message(t, stream.Message{Kind: stream.End, Seconds: 1})
	bad := message(t, stream.Message{Kind: stream.End, Text: "exit status 1"})
	done := message(t, stream.Message{Kind: stream.Done})
	const (
		runA, passA = "\x16=== RUN   TestA", "\x16--- PASS: TestA (0.00s)"
		skipA       = "\x16--- SKIP: TestA (0.00s)"
		failA       = "\x16--- FAIL: TestA (0.00s)"
	)
	for name, c := range map[string]struct {
		died  error
		lines []string
		want  string // of the error; empty for none
		test  string // TestA's action
	}{
		"passed":                   {nil, []string{begin, runA, passA, "\x16PASS", end, done}, "", "pass"},
		"failed":                   {nil, []string{begin, runA, failA, "\x16FAIL", bad, done}, "p: exit status 1", "fail"},
		"failed, status forgotten": {nil, []string{begin, runA, failA, "\x16FAIL", end, done}, "p: 1 tests failed", "fail"},
		"all skipped":              {nil, []string{begin, runA, skipA, "\x16PASS", end, done}, "p: it ran no test", "skip"},
		"nothing ran":              {nil, []string{begin, "testing: warning: no tests to run", "\x16PASS", end, done}, "p: it ran no test", ""},
		"cleanup failed":           {nil, []string{begin, runA, passA, "\x16PASS", bad, done}, "p: exit status 1", "pass"},
		"ended inside":             {nil, []string{begin, runA}, "the guest ended before", "fail"},
		"ended between":            {nil, []string{begin, runA, passA, "\x16PASS", end}, "the guest ended before", "pass"},
		"no tier at all":           {nil, []string{done}, "no tier", ""},
		"died":                     {errors.New("kernel died"), []string{begin, runA, passA, "\x16PASS", end, done}, "kernel died", "pass"},
		"a forged end":             {nil, []string{begin, runA, stream.Mark + `{"Kind":"do`, failA, "\x16FAIL", end, done}, "p: 1 tests failed", "fail"},
	} {
		t.Run(name, func(t *testing.T) {
			actions, err := judged(t, c.died, c.lines...)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("the run gave %v, want %q", err, c.want)
			}
			if actions["TestA"] != c.test {
				t.Errorf("TestA is %q, want %q", actions["TestA"], c.test)
			}
		})
	}
}

// TestTheReportOfTheCorpusIsKept: as its test prints it, and nothing if it does not.
func TestTheReportOfTheCorpusIsKept(t *testing.T) {
	begin := message(t, stream.Message{Kind: stream.Begin, Tier: stream.Tier{Name: "p", Test: true}})
	end := message(t, stream.Message{Kind: stream.End})
	v := newVerdict("6.1", io.Discard, io.Discard)
	var got string
	v.report = func(table string) { got = table }
	for _, line := range []string{begin, "\x16=== RUN   TestA", "    CATEGORY  CASE", "\x16--- PASS: TestA (0.00s)", "\x16PASS", end} {
		v.line(line)
	}
	if got != "" {
		t.Errorf("the report of another test is %q", got)
	}
	for _, line := range []string{
		begin, "\x16=== RUN   TestEscapes", "\x16=== RUN   TestEscapes/files/read", "\x16=== NAME  TestEscapes", "    corpus_test.go:56: ",
		"        CATEGORY  CASE  OUTCOME", "        files     read  held", "        2 cases, 2 held", "        more",
		"\x16--- PASS: TestEscapes (0.00s)", "\x16    --- PASS: TestEscapes/files/read (0.00s)", "\x16PASS", end,
	} {
		v.line(line)
	}
	if want := "CATEGORY  CASE  OUTCOME\nfiles     read  held\n2 cases, 2 held\n"; got != want {
		t.Errorf("the report is %q, want %q", got, want)
	}
}

func TestBenchLinesNameTheirKernel(t *testing.T) {
	for text, want := range map[string]string{
		"figure neighbour_p99_ratio_fork 2.9 3.00 ok": "figure linux_6.1_neighbour_p99_ratio_fork 2.9 3.00 ok",
		"counts: 3 OOM kills":                         "6.1: counts: 3 OOM kills",
	} {
		if got := benchLine("6.1", text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestSlowest(t *testing.T) {
	tests := []took{{"A", 1.5}, {"B", 3}, {"C", 0.1}, {"D", 1.5}}
	if got, want := slowest(tests, 3), "B 3.0 s, A 1.5 s, D 1.5 s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := slowest(tests[:1], 3); got != "A 1.5 s" {
		t.Errorf("got %q", got)
	}
}
