package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func tallyOf(events ...string) (*tally, *bytes.Buffer) {
	var out bytes.Buffer
	t := &tally{output: map[string][]string{}, out: &out}
	t.read(strings.NewReader(strings.Join(events, "\n") + "\n"))
	return t, &out
}

func TestATierThatRanNothingFails(t *testing.T) {
	empty, _ := tallyOf(`{"Action":"skip","Package":"p"}`, `{"Action":"skip","Package":"p","Test":"TestA"}`)
	if err := empty.verdict("pure", nil); err == nil || !strings.Contains(err.Error(), "ran no test") {
		t.Errorf("verdict: %v, want a failure", err)
	}
	one, _ := tallyOf(`{"Action":"pass","Package":"p","Test":"TestA"}`, `{"Action":"pass","Package":"p"}`)
	if err := one.verdict("pure", nil); err != nil {
		t.Errorf("verdict: %v, want none", err)
	}
	if err := one.verdict("pure", errors.New("exit status 1")); err == nil {
		t.Error("verdict: none, want go test's own failure")
	}
}

func TestWhatFailedOrWasSkippedIsShown(t *testing.T) {
	_, out := tallyOf(
		`{"Action":"output","Package":"p","Test":"TestGood","Output":"quiet\n"}`,
		`{"Action":"pass","Package":"p","Test":"TestGood"}`,
		`{"Action":"output","Package":"p","Test":"TestBad","Output":"wrong\n"}`,
		`{"Action":"fail","Package":"p","Test":"TestBad"}`,
		`{"Action":"output","Package":"p","Test":"TestNot","Output":"no cgroup.kill\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestNot"}`,
		`{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}`,
		`plain text of a broken build`,
	)
	if got, want := out.String(), "wrong\nno cgroup.kill\nFAIL\tp\t0.1s\nplain text of a broken build\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

// TestATestThatNeverEndedIsPrinted: go test says the stacks of a package that
// ran out of time as output of the test that was running.
func TestATestThatNeverEndedIsPrinted(t *testing.T) {
	var out strings.Builder
	tally := &tally{output: map[string][]string{}, out: &out}
	tally.add(event{Action: "output", Package: "p", Test: "TestHangs", Output: "panic: test timed out\n"})
	tally.add(event{Action: "fail", Package: "p"})
	if !strings.Contains(out.String(), "panic: test timed out") {
		t.Errorf("printed %q", out.String())
	}
}
