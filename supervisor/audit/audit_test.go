package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/supervisor/control"
)

func fixedNow() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC) }

func open(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(path, fixedNow)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func add(t *testing.T, l *Log, text string) control.Event {
	t.Helper()
	ev, err := l.Append(control.Event{Kind: "test", Plugin: "p", Text: text})
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// filled writes a log of n records and returns its path and bytes.
func filled(t *testing.T, n int) (string, []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	for i := range n {
		add(t, l, fmt.Sprint("event ", i))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, data
}

func TestNumbersGoOnAfterReopen(t *testing.T) {
	path, _ := filled(t, 3)
	l := open(t, path)
	if ev := add(t, l, "later"); ev.Seq != 4 {
		t.Errorf("the first record after reopening is %d, want 4", ev.Seq)
	}
	if got := l.Recent(2, ""); len(got) != 2 || got[0].Text != "event 2" || got[1].Text != "later" {
		t.Errorf("recent: %+v", got)
	}
	if got := l.Recent(0, "another"); len(got) != 0 {
		t.Errorf("records of a plugin that has none: %+v", got)
	}
	verify(t, path, 4)
}

func verify(t *testing.T, path string, want uint64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if n, err := Verify(f); err != nil || n != want {
		t.Errorf("Verify: %d records, %v; want %d", n, err, want)
	}
}

// TestTornTail cuts a log at every byte of its last record.
func TestTornTail(t *testing.T) {
	_, data := filled(t, 3)
	last := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
	for cut := last + 1; cut < len(data); cut++ {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(path, data[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, path)
		got := l.Recent(1, "")[0]
		if got.Kind != "audit-recovered" || got.Seq != 3 {
			t.Fatalf("cut at %d: the newest record is %+v", cut, got)
		}
		add(t, l, "after")
		verify(t, path, 4)
	}
}

// TestTamperingIsSeen changes, takes away and swaps records.
func TestTamperingIsSeen(t *testing.T) {
	path, data := filled(t, 5)
	lines := bytes.SplitAfter(data, []byte("\n"))[:5]
	join := func(order ...int) []byte {
		var out []byte
		for _, i := range order {
			out = append(out, lines[i]...)
		}
		return out
	}
	cases := map[string][]byte{
		"changed text": bytes.Replace(data, []byte("event 1"), []byte("event X"), 1),
		"first gone":   join(1, 2, 3, 4),
		"middle gone":  join(0, 1, 3, 4),
		"swapped":      join(0, 2, 1, 3, 4),
		"repeated":     join(0, 1, 1, 2, 3, 4),
		"no JSON":      append(join(0, 1), "x\n"...),
	}
	for name, bad := range cases {
		if _, err := Verify(bytes.NewReader(bad)); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: Verify says %v", name, err)
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, fixedNow); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: Open says %v", name, err)
		}
	}
}

func TestLongLogIsReadFromItsTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	var data []byte
	prev, n := hashOf(nil), uint64(0)
	for len(data) <= tail { // written at once: Append would sync each
		n++
		text, err := json.Marshal(line{Event: control.Event{Seq: n, Text: strings.Repeat("x", maxText)}, Prev: prev})
		if err != nil {
			t.Fatal(err)
		}
		data, prev = append(append(data, text...), '\n'), hashOf(text)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if ev := add(t, open(t, path), "after"); ev.Seq != n+1 {
		t.Errorf("got number %d, want %d", ev.Seq, n+1)
	}
	verify(t, path, n+1)
}

func TestHostileTextStaysOneLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	ev, err := l.Append(control.Event{
		Kind: "violation", Plugin: "p\n{\"seq\":9}", Text: "\x1b[2J\u202e" + strings.Repeat("y", 10*maxText),
		Data: map[string]any{"big": strings.Repeat("z", maxData)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(ev.Text+ev.Plugin, "\n\x1b\u202e") || len(ev.Text) > maxText+3 {
		t.Errorf("not escaped or capped: %q", ev.Plugin)
	}
	if _, kept := ev.Data["big"]; kept {
		t.Error("data beyond the cap was kept")
	}
	verify(t, path, 1)
}

func TestSlowFollowerIsDropped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	slow, quick := l.Subscribe(1), l.Subscribe(3)
	for i := range 3 {
		add(t, l, fmt.Sprint(i))
	}
	if got := len(drain(slow)); got != 1 || !slow.Lost() {
		t.Errorf("the slow one got %d records, lost=%v; want 1, true", got, slow.Lost())
	}
	quick.Close()
	quick.Close()
	if got := len(drain(quick)); got != 3 || quick.Lost() {
		t.Errorf("the quick one got %d records, lost=%v; want 3, false", got, quick.Lost())
	}
}

func drain(s *Subscription) (out []control.Event) {
	for ev := range s.C {
		out = append(out, ev)
	}
	return out
}

func TestCloseEndsFollowers(t *testing.T) {
	l := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	s := l.Subscribe(1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if len(drain(s)) != 0 || s.Lost() {
		t.Error("a follower did not end with the log")
	}
	if _, err := l.Append(control.Event{}); err == nil {
		t.Error("a closed log took a record")
	}
	if len(drain(l.Subscribe(1))) != 0 {
		t.Error("a closed log took a follower")
	}
}

// TestUnwritableFile takes the file away under the log: a record that cannot be
// written is an error, never a gap.
func TestUnwritableFile(t *testing.T) {
	path, _ := filled(t, 1)
	l := open(t, path)
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	good := l.file
	l.file = readOnly
	if _, err := l.Append(control.Event{Text: "lost"}); err == nil {
		t.Fatal("a record that could not be written was taken")
	}
	l.file = good
	if _, err := l.Append(control.Event{Text: "later"}); err == nil {
		t.Error("the log went on although the failed write could not be undone")
	}
	verify(t, path, 1)
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2030-01-02T03:04:05Z","kind":"a","text":"b","prev":"0000000000000000000000000000000000000000000000000000000000000000"}` + "\n"))
	f.Add([]byte("{}\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := Verify(bytes.NewReader(data))
		if lines := uint64(bytes.Count(data, []byte("\n"))); n > lines {
			t.Errorf("%d records in %d lines (%v)", n, lines, err)
		}
	})
}

// TestAppendsAtOnce: what many append at once is there once each, and verifies.
func TestAppendsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := Open(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	const many = 100
	l.mu.Lock() // so that all wait, and go together
	got := make(chan uint64, many)
	for i := range many {
		go func() {
			ev, err := l.Append(control.Event{Kind: "test", Text: fmt.Sprint(i)})
			if err != nil {
				t.Error(err)
			}
			got <- ev.Seq
		}()
	}
	for waiting := 0; waiting < many; {
		l.waitingMu.Lock()
		waiting = len(l.waiting)
		l.waitingMu.Unlock()
		runtime.Gosched()
	}
	l.mu.Unlock()
	seen := map[uint64]bool{}
	for range many {
		seen[<-got] = true
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if len(seen) != many {
		t.Errorf("%d numbers for %d records", len(seen), many)
	}
	if _, err := VerifyFiles(path, ""); err != nil {
		t.Error(err)
	}
}
