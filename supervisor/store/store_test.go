package store

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// TestMain lets the test binary be the writer that the crash test kills.
func TestMain(m *testing.M) {
	if path := os.Getenv("CORDON_STORE_TEST_WRITER"); path != "" {
		writeForEver(path)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, 8)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func create(t *testing.T, s *Store, name string) Record {
	t.Helper()
	r, err := s.Create(Record{Name: name, State: control.Stopped})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecordSurvivesReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	r := create(t, s, "a")
	r.State = control.Quarantined
	r.Quarantine = &Quarantine{Violation: violation.Violation{ID: "v1", Wall: violation.Seccomp}, Evidence: "/e"}
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := open(t, path).List()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].State != control.Quarantined || list[0].Quarantine.Violation.ID != "v1" {
		t.Errorf("got %+v, want the quarantined record", list)
	}
}

func TestViolationsAreBounded(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	r := create(t, s, "a")
	for i := range 3 * MaxViolations {
		r.Violations = append(r.Violations, violation.Violation{ID: fmt.Sprint(i)})
	}
	if err := s.Put(r); err != nil {
		t.Fatal(err)
	}
	list, _ := s.List()
	got := list[0].Violations
	if len(got) != MaxViolations || got[len(got)-1].ID != fmt.Sprint(3*MaxViolations-1) {
		t.Errorf("kept %d violations, the last %s", len(got), got[len(got)-1].ID)
	}
}

func TestSlots(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	used := map[uint32]bool{}
	for i := range 8 {
		r := create(t, s, fmt.Sprint("p", i))
		if used[r.Slot] || r.Slot >= 8 {
			t.Fatalf("slot %d given twice or beyond the range", r.Slot)
		}
		used[r.Slot] = true
	}
	if _, err := s.Create(Record{Name: "one-more"}); !errors.Is(err, ErrNoSlot) {
		t.Errorf("a ninth plugin: %v, want ErrNoSlot", err)
	}
	if err := s.Delete("p3"); err != nil {
		t.Fatal(err)
	}
	if r := create(t, s, "next"); r.Slot != 3 {
		t.Errorf("got slot %d, want the only free one, 3", r.Slot)
	}
}

func TestSlotOfRemovedPluginRests(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	first := create(t, s, "a")
	if err := s.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if again := create(t, s, "b"); again.Slot == first.Slot {
		t.Errorf("slot %d was given again while others were never used", first.Slot)
	}
}

func TestNames(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	create(t, s, "a")
	if _, err := s.Create(Record{Name: "a"}); !errors.Is(err, ErrExists) {
		t.Errorf("second create: %v", err)
	}
	if err := s.Put(Record{Name: "b"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("put of an unknown plugin: %v", err)
	}
	if err := s.Delete("b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("delete of an unknown plugin: %v", err)
	}
}

func TestSecondHolderIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	open(t, path)
	if _, err := Open(path, 8); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
}

// TestDamagedFileIsRefused damages a good file in many ways. Whatever Open
// then returns, it neither panics nor hands out a record that was not written.
func TestDamagedFileIsRefused(t *testing.T) {
	good := filepath.Join(t.TempDir(), "state.db")
	s := open(t, good)
	for i := range 5 {
		r := create(t, s, fmt.Sprint("p", i))
		r.State, r.Reason = control.Quarantined, strings.Repeat("x", 3000)
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	garbage := []byte(strings.Repeat("not a database ", 4000))
	cases := map[string][]byte{"garbage": garbage, "one byte": {1}, "only meta pages": data[:8192], "half": data[:len(data)/2/4096*4096]}
	for i := range 40 {
		cases[fmt.Sprint("flipped page ", i)] = flipPage(data, i)
	}
	refused := 0
	for name, bytes := range cases {
		if openDamaged(t, name, bytes) {
			refused++
		}
	}
	if refused < 8 {
		t.Errorf("only %d damaged files were refused", refused)
	}
}

// flipPage returns the file with 64 bytes turned somewhere in it.
func flipPage(data []byte, seed int) []byte {
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	out := append([]byte(nil), data...)
	at := r.IntN(len(out) - 64)
	for i := range 64 {
		out[at+i] ^= 0xff
	}
	return out
}

func openDamaged(t *testing.T, name string, data []byte) (refused bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path, 8)
	if err != nil {
		return true
	}
	defer func() { _ = s.Close() }()
	list, err := s.List()
	if err != nil {
		t.Errorf("%s: Open accepted what List refuses: %v", name, err)
	}
	for _, r := range list {
		if r.State != control.Quarantined {
			t.Errorf("%s: %s came back as %q", name, r.Name, r.State)
		}
	}
	return false
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keySchema, []byte{0, 0, 0, 0, 0, 0, 0, 2})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, 8); err == nil || !strings.Contains(err.Error(), "schema is version 2") {
		t.Errorf("got %v", err)
	}
}

func TestForeignFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	open1 := filepath.Join(dir, "readable")
	if err := os.WriteFile(open1, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{open1, link, dir} {
		if _, err := Open(path, 8); err == nil {
			t.Errorf("%s was accepted", path)
		}
	}
}

// TestCrash kills a process that writes without end, at random points. What
// it said was written must be there afterwards, above all the quarantines.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	seed(t, path)
	for round := range 12 {
		wrote := crashWriter(t, path, 1+rand.IntN(40))
		s := open(t, path)
		list, err := s.List()
		if err != nil || len(list) != 1 {
			t.Fatalf("round %d: %v, %d records", round, err, len(list))
		}
		if list[0].State != control.Quarantined || list[0].Restarts < wrote {
			t.Fatalf("round %d: writing %d was acknowledged, found %d as %q", round, wrote, list[0].Restarts, list[0].State)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// seed makes a file that holds the record of one plugin.
func seed(t *testing.T, path string) {
	t.Helper()
	s := open(t, path)
	create(t, s, "plugin")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// crashWriter runs the writer until it acknowledged n writes, kills it in the
// middle of a later one and returns the last acknowledged.
func crashWriter(t *testing.T, path string, n int) int {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CORDON_STORE_TEST_WRITER="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan, last := bufio.NewScanner(out), 0
	for range n {
		if !scan.Scan() {
			break
		}
		_, _ = fmt.Sscan(scan.Text(), &last)
	}
	_ = cmd.Process.Kill()
	rest, _ := io.ReadAll(out)
	_ = cmd.Wait()
	for line := range strings.Lines(string(rest)) {
		if strings.HasSuffix(line, "\n") {
			_, _ = fmt.Sscan(line, &last)
		}
	}
	if last == 0 {
		t.Fatal("the writer wrote nothing")
	}
	return last
}

func writeForEver(path string) {
	s, err := Open(path, 8)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	list, err := s.List()
	if err != nil || len(list) != 1 {
		os.Exit(1)
	}
	r := list[0]
	for {
		r.State = control.Quarantined
		r.Since = time.Now()
		r.Restarts++
		r.Reason = strings.Repeat("r", r.Restarts%9000)
		if err := s.Put(r); err != nil {
			os.Exit(1)
		}
		fmt.Println(r.Restarts)
	}
}

// TestPutsAtOnce: what many write at once is there, and one that cannot be
// written keeps no other from it.
func TestPutsAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path, 64)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for i := range 20 {
		r, err := s.Create(Record{Name: fmt.Sprintf("p%d", i), State: control.Stopped})
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, r.Name)
	}
	records, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock() // so that all wait, and go together
	errs := make(chan error, len(names))
	for _, r := range records {
		go func() {
			r.Reason = "written by " + r.Name
			errs <- s.Put(r)
		}()
	}
	stranger := make(chan error, 1)
	go func() { stranger <- s.Put(Record{Name: "nobody"}) }()
	for waiting := 0; waiting < len(names)+1; {
		s.waitingMu.Lock()
		waiting = len(s.waiting)
		s.waitingMu.Unlock()
		runtime.Gosched()
	}
	s.mu.Unlock()
	for range names {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := <-stranger; !errors.Is(err, ErrNotFound) {
		t.Errorf("a record of no plugin: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path, 64); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	records, err = s.List()
	if err != nil || len(records) != len(names) {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for _, r := range records {
		if r.Reason != "written by "+r.Name {
			t.Errorf("%s: %q", r.Name, r.Reason)
		}
	}
}

// TestInstallingDoesNotReadWhatIsInstalled: or a thousand would take a thousand
// times a thousand records.
func TestInstallingDoesNotReadWhatIsInstalled(t *testing.T) {
	const installed, atMost = 100, 1000 // a record takes some thirty allocations to read
	s, err := Open(filepath.Join(t.TempDir(), "state.db"), 2*installed)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	n := 0
	create := func() {
		n++
		if _, err := s.Create(Record{Name: fmt.Sprintf("p%d", n)}); err != nil {
			t.Fatal(err)
		}
	}
	for range installed {
		create()
	}
	if got := testing.AllocsPerRun(5, create); got > atMost {
		t.Errorf("with %d installed one more takes %.0f allocations", installed, got)
	}
}
