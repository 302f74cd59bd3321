package supervisor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
)

func newTestLog(t *testing.T) (*logBook, *fakeClock, string) {
	t.Helper()
	clock := newFakeClock()
	path := filepath.Join(t.TempDir(), "p.log")
	b, err := openLog(path, clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.close() })
	return b, clock, path
}

// emit writes text as a plugin's output.
func emit(b *logBook, text string) {
	b.copyFrom("stdout", readCloser{strings.NewReader(text)})
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestLogRateIsBounded(t *testing.T) {
	b, clock, _ := newTestLog(t)
	emit(b, strings.Repeat("x\n", 3*logBurst))
	if n := len(b.tail(4 * logBurst)); n != logBurst {
		t.Errorf("%d lines were kept, want the burst of %d", n, logBurst)
	}
	clock.AfterFunc(saveEvery, func() {})
	clock.fire(saveEvery)
	emit(b, "later\n")
	got := b.tail(2)
	if want := fmt.Sprintf("%d lines were dropped", 2*logBurst); !strings.Contains(got[0].Text, want) || got[0].Stream != "cordon" || got[1].Text != "later" {
		t.Errorf("the log is %+v", got)
	}
}

func TestLogMemoryIsBounded(t *testing.T) {
	b, clock, _ := newTestLog(t)
	for range 20 {
		emit(b, strings.Repeat("\n", logRate)+strings.Repeat(strings.Repeat("y", 3000)+"\n", 50))
		clock.AfterFunc(2*saveEvery, func() {})
		clock.fire(2 * saveEvery)
	}
	size := 0
	for _, l := range b.tail(1 << 20) {
		size += len(l.Text) + logLineCost
	}
	if size > logRingMax {
		t.Errorf("%d bytes are kept", size)
	}
}

func TestLogFileIsRotatedAndReadBack(t *testing.T) {
	b, clock, path := newTestLog(t)
	for range 10 {
		emit(b, strings.Repeat(strings.Repeat("z", 1000)+"\n", logRate))
		clock.AfterFunc(saveEvery, func() {})
		clock.fire(saveEvery)
	}
	emit(b, "the last\n")
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".1"} {
		st, err := os.Stat(name)
		if err != nil || st.Size() > logFileMax || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	again, err := openLog(path, clock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.close() }()
	if got := again.tail(1); len(got) != 1 || got[0].Text != "the last" {
		t.Errorf("read back: %+v", got)
	}
}

func TestTornLogLineIsLeftOut(t *testing.T) {
	b, clock, path := newTestLog(t)
	emit(b, "whole\n")
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(data, `{"time":"2030`...), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "second"} {
		again, err := openLog(path, clock)
		if err != nil {
			t.Fatal(err)
		}
		emit(again, text+"\n")
		if err := again.close(); err != nil {
			t.Fatal(err)
		}
	}
	again, err := openLog(path, clock)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.close() }()
	var got []string
	for _, l := range again.tail(10) {
		got = append(got, l.Text)
	}
	if strings.Join(got, " ") != "whole first second" {
		t.Errorf("read back: %v", got)
	}
}

func TestSlowLogFollowerIsDropped(t *testing.T) {
	b, _, _ := newTestLog(t)
	_, f := b.tailAndFollow(0)
	emit(b, strings.Repeat("x\n", logFollower+1))
	var got []control.LogLine
	for l := range f.C() {
		got = append(got, l)
	}
	if len(got) != logFollower || !f.Lost() {
		t.Errorf("%d lines, lost %v", len(got), f.Lost())
	}
}

func TestLogIsNotWrittenThroughALink(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "p.log")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if _, err := openLog(link, newFakeClock()); err == nil {
		t.Error("a link was followed")
	}
}

func FuzzLineSplitter(f *testing.F) {
	f.Add([]byte("one\ntwo\r\nthree"), 2)
	f.Add(bytes.Repeat([]byte("x"), 2*logLineMax), 100)
	f.Fuzz(func(t *testing.T, data []byte, step int) {
		step = max(1, min(step, len(data)))
		var got int
		s := lineSplitter{emit: func(line []byte, _ bool) {
			got++
			if len(line) > logLineMax || bytes.IndexByte(line, '\n') >= 0 {
				t.Errorf("a line of %d bytes", len(line))
			}
		}}
		for at := 0; at < len(data); at += step {
			s.write(data[at:min(at+step, len(data))])
		}
		s.flush()
		want := bytes.Count(data, []byte("\n"))
		if len(data) > 0 && data[len(data)-1] != '\n' {
			want++
		}
		if got != want {
			t.Errorf("%d lines, want %d", got, want)
		}
	})
}
