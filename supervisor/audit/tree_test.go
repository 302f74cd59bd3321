package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/cordonhq/cordon/supervisor/control"
)

// small opens a log that puts files aside after few bytes and keeps two.
func small(t *testing.T, path string) *Log {
	t.Helper()
	l := open(t, path)
	l.max, l.keep = 2000, 2
	return l
}

func publicKey(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(pathsOf(path).public)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func wholeLog(t *testing.T, path string) Verified {
	t.Helper()
	v, err := VerifyFiles(path, "")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestTreeIsTheLibrarys compares the tiles and the growing edge with the tree
// that the library computes, over several full tiles.
func TestTreeIsTheLibrarys(t *testing.T) {
	tl, err := openTiles(filepath.Join(t.TempDir(), "t"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tl.close() }()
	var stored []tlog.Hash
	var e edge
	reader := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, _ error) {
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for n := range int64(2*tileWidth + 77) {
		leaf := tlog.RecordHash(fmt.Append(nil, n))
		more, err := tlog.StoredHashesForRecordHash(n, leaf, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		if err := tl.add(leaf); err != nil {
			t.Fatal(err)
		}
		e.add(leaf)
		want, err := tlog.TreeHash(n+1, reader)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tl.tree(n + 1)
		if err != nil || got.Hash != want || e.root() != want {
			t.Fatalf("tree of %d: %v, edge %v, want %v (%v)", n+1, got.Hash, e.root(), want, err)
		}
	}
}

func TestRotationKeepsProofs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := small(t, path)
	add(t, l, "the first")
	if _, _, err := l.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	first, err := Prove(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	old := first.Checkpoint
	for i := range 100 {
		add(t, l, fmt.Sprint("event ", i))
	}
	l = reopened(t, l)
	files, err := asideOf(path)
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files were put aside and kept, want 2 (%v)", len(files), err)
	}
	v := wholeLog(t, path)
	if v.First < 2 || v.Last != l.seq || uint64(v.Signed) != l.seq {
		t.Errorf("found %+v, want all up to %d", v, l.seq)
	}
	if err := first.Check(publicKey(t, path)); err != nil {
		t.Errorf("the proof of a record that is no longer kept: %v", err)
	}
	growth, err := ProveGrowth(path, old)
	if err != nil {
		t.Fatal(err)
	}
	if err := growth.Check(publicKey(t, path)); err != nil {
		t.Error(err)
	}
	if _, err := Prove(path, 1); !errors.Is(err, ErrNoRecord) {
		t.Errorf("a proof of a record that is gone: %v", err)
	}
	for seq := v.First; seq <= v.Last; seq += 7 {
		if _, err := Prove(path, seq); err != nil {
			t.Errorf("record %d: %v", seq, err)
		}
	}
}

// reopened closes a log and opens it again with the same bounds.
func reopened(t *testing.T, l *Log) *Log {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return small(t, l.log)
}

// TestEveryTamperingOfTheFilesIsSeen: what is changed below a checkpoint is
// found, in whichever file.
func TestEveryTamperingOfTheFilesIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := small(t, path)
	for i := range 100 {
		add(t, l, fmt.Sprint("event ", i))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := asideOf(path)
	if err != nil {
		t.Fatal(err)
	}
	change := func(name string) func() error {
		return func() error {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			at := bytes.Index(data, []byte("event"))
			data[max(at, 0)] ^= 1
			return os.WriteFile(name, data, 0o600)
		}
	}
	where := pathsOf(path)
	for name, tamper := range map[string]func() error{
		"a file put aside": change(files[0].path),
		"the newest file":  change(path),
		"a tile":           change(where.tiles + "/0"),
		"the checkpoint":   change(where.checkpoint),
		"the last records": func() error { return os.Truncate(path, 0) },
		"the oldest file":  func() error { return os.Remove(files[0].path) },
		"a middle file":    func() error { return os.Remove(files[1].path) },
	} {
		t.Run(name, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(copied, os.DirFS(filepath.Dir(path))); err != nil {
				t.Fatal(err)
			}
			if err := tamper(); err != nil {
				t.Fatal(err)
			}
			if _, err := VerifyFiles(path, ""); !errors.Is(err, ErrBroken) {
				t.Errorf("VerifyFiles says %v", err)
			}
			if err := errors.Join(os.RemoveAll(filepath.Dir(path)), os.CopyFS(filepath.Dir(path), os.DirFS(copied))); err != nil {
				t.Fatal(err)
			}
			wholeLog(t, path)
		})
	}
}

// TestACrashBehindTheCheckpoint: whatever the unsynced tree lost, the lines
// bring it back.
func TestACrashBehindTheCheckpoint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := open(t, path)
	add(t, l, "signed")
	if _, _, err := l.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		add(t, l, fmt.Sprint(i))
	}
	// As after a crash: nothing is closed, and the tree's end was never written.
	if err := os.Truncate(pathsOf(path).tiles+"/0", tlog.HashSize+5); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	if again.seq != 21 {
		t.Errorf("%d records came back, want 21", again.seq)
	}
	if v := wholeLog(t, path); v.Signed != 21 {
		t.Errorf("%d records are signed, want 21", v.Signed)
	}
}

// TestACrashWhilePuttingAside: the newest file is not there yet, or empty.
func TestACrashWhilePuttingAside(t *testing.T) {
	for _, empty := range []bool{false, true} {
		path, _ := filled(t, 5)
		if err := os.Rename(path, asideName(path, 1)); err != nil {
			t.Fatal(err)
		}
		if empty {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l := open(t, path)
		if ev := add(t, l, "after"); ev.Seq != 6 || l.first != 6 {
			t.Errorf("it goes on with %d in a file from %d, want 6", ev.Seq, l.first)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if v := wholeLog(t, path); v.Last != 6 || v.First != 1 {
			t.Errorf("found %+v", v)
		}
	}
}

func TestALostCheckpointIsSaid(t *testing.T) {
	path, _ := filled(t, 3)
	if err := os.Remove(pathsOf(path).checkpoint); err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	if got := l.Recent(1, "")[0]; got.Kind != "audit-recovered" || !strings.Contains(got.Text, "no checkpoint: 3 records") {
		t.Errorf("the newest record is %+v", got)
	}
	wholeLog(t, path)
}

func TestALostKeyIsARefusal(t *testing.T) {
	path, _ := filled(t, 3)
	if err := os.Remove(pathsOf(path).key); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, fixedNow); !errors.Is(err, ErrBroken) {
		t.Errorf("Open says %v", err)
	}
}

func TestKeyIsPrivate(t *testing.T) {
	path, _ := filled(t, 1)
	st, err := os.Stat(pathsOf(path).key)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	secret, err := os.ReadFile(pathsOf(path).key)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{pathsOf(path).public, pathsOf(path).checkpoint} {
		data, err := os.ReadFile(name)
		if err != nil || bytes.Contains(data, secret[:40]) || strings.Contains(string(data), "PRIVATE") {
			t.Errorf("%s has the secret, or cannot be read: %v", name, err)
		}
	}
}

// TestAForeignProofDoesNotHold changes each part of a proof.
func TestAForeignProofDoesNotHold(t *testing.T) {
	path, _ := filled(t, 9)
	other, _ := filled(t, 9)
	good, err := Prove(path, 4)
	if err != nil {
		t.Fatal(err)
	}
	another, err := Prove(path, 5)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := Prove(other, 4)
	if err != nil {
		t.Fatal(err)
	}
	key := publicKey(t, path)
	for name, p := range map[string]Proof{
		"another record":     {Checkpoint: good.Checkpoint, Record: another.Record, Inclusion: good.Inclusion},
		"another checkpoint": {Checkpoint: foreign.Checkpoint, Record: good.Record, Inclusion: good.Inclusion},
		"no inclusion":       {Checkpoint: good.Checkpoint, Record: good.Record},
		"a changed record":   {Checkpoint: good.Checkpoint, Record: strings.Replace(good.Record, "event", "evens", 1), Inclusion: good.Inclusion},
		"nothing":            {Checkpoint: good.Checkpoint},
	} {
		if p.Check(key) == nil {
			t.Errorf("%s: the proof holds", name)
		}
	}
	if err := good.Check(key); err != nil {
		t.Error(err)
	}
	if good.Check(publicKey(t, other)) == nil {
		t.Error("the proof holds under another log's key")
	}
}

func TestALogOfBeforeTheTreeIsTakenUp(t *testing.T) {
	path, data := filled(t, 3)
	plain := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.WriteFile(plain, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, plain).Close(); err != nil {
		t.Fatal(err)
	}
	if a, b := wholeLog(t, plain), wholeLog(t, path); a.Root == "" || a.Root != b.Root {
		t.Errorf("roots %q and %q of the same records", a.Root, b.Root)
	}
}

// TestACrashWhileItIsPutAside: between its two steps the newest file has two
// names, and its records are there once.
func TestACrashWhileItIsPutAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := small(t, path)
	for range 7 {
		if _, err := l.Append(control.Event{Text: "an event"}); err != nil {
			t.Fatal(err)
		}
	}
	first, seq := l.first, l.seq
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, asideName(path, first)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".next", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := wholeLog(t, path)
	l = small(t, path)
	if l.seq != seq {
		t.Errorf("record %d is the last, want %d", l.seq, seq)
	}
	for range 20 {
		if _, err := l.Append(control.Event{Text: "an event"}); err != nil {
			t.Fatal(err)
		}
	}
	if l.first == first {
		t.Error("the file was never put aside again")
	}
	if after := wholeLog(t, path); before.Last != seq || after.Last != l.seq {
		t.Errorf("verified through %d and then %d, want %d and %d", before.Last, after.Last, seq, l.seq)
	}
}

// TestVerifyWhileItIsWritten: the daemon need not stop.
func TestVerifyWhileItIsWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := small(t, path)
	l.keep = 1000
	done := make(chan error, 1)
	go func() {
		for i := range 150 {
			if _, err := l.Append(control.Event{Text: fmt.Sprint("event ", i)}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
		wholeLog(t, path)
	}
}

func FuzzOpenCheckpoint(f *testing.F) {
	f.Add("cordon-audit\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
	f.Add("cordon-audit\n-1\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		tree, err := parseTree(text)
		if err == nil && fmt.Sprintf("%s\n%d\n%s\n", origin, tree.N, tree.Hash) != text {
			t.Errorf("%q was read as %v", text, tree)
		}
	})
}

func FuzzProof(f *testing.F) {
	f.Add([]byte(`{"checkpoint":"c","record":"{}","inclusion":["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]}`))
	f.Add([]byte(`{"old":"o","checkpoint":"c"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseProof(data)
		if err != nil {
			return
		}
		if err := p.checkRecord(tlog.Tree{N: 7}); err == nil {
			t.Error("a made-up record is in the tree of zeros")
		}
		if _, err := json.Marshal(p); err != nil {
			t.Error(err)
		}
	})
}

// TestVerifyOfWhatIsPutAsideMeanwhile: between the opening of the newest file and
// the listing of the others it may be put aside, and the next one, too.
func TestVerifyOfWhatIsPutAsideMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l := small(t, path)
	l.keep = 1000
	var files []aside
	for len(files) < 3 {
		if _, err := l.Append(control.Event{Text: "an event"}); err != nil {
			t.Fatal(err)
		}
		var err error
		if files, err = asideOf(path); err != nil {
			t.Fatal(err)
		}
	}
	newest, err := os.Open(files[1].path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = newest.Close() }()
	older, err := (&verifier{paths: pathsOf(path)}).asideBut(newest)
	if err != nil || len(older) != 1 || older[0] != files[0].path {
		t.Errorf("before %s come %v, %v", files[1].path, older, err)
	}
}
