package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// fill makes a directory of evidence of so many bytes, age ago.
func (c *cabinet) fill(t *testing.T, plugin string, age time.Duration, size int) string {
	t.Helper()
	v := violation.Violation{ID: fmt.Sprint(age.Nanoseconds()), Time: c.clock.Now().Add(-age)}
	dir, err := evidenceDir(c.root, plugin, v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "violation.json"), make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newCabinet(t *testing.T, r EvidenceRules, held ...*string) *cabinet {
	t.Helper()
	is := func(dir string) bool {
		return slices.ContainsFunc(held, func(h *string) bool { return *h == dir })
	}
	return &cabinet{root: t.TempDir(), clock: newFakeClock(), held: is, rules: r.completed()}
}

func vanished(t *testing.T, dir string) bool {
	t.Helper()
	_, err := os.Stat(dir)
	return errors.Is(err, os.ErrNotExist)
}

func TestEvidenceIsKeptByTheRules(t *testing.T) {
	var heldDir string
	c := newCabinet(t, EvidenceRules{Keep: 2, MaxAge: 24 * time.Hour}, &heldDir)
	heldDir = c.fill(t, "p", 100*time.Hour, 1)
	old := c.fill(t, "q", 30*time.Hour, 1)
	surplus := c.fill(t, "r", 3*time.Hour, 1)
	kept := []string{heldDir, c.fill(t, "r", 2*time.Hour, 1), c.fill(t, "r", time.Hour, 1)}
	if _, err := c.prune(""); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{old, surplus} {
		if !vanished(t, dir) {
			t.Errorf("%s is still there", dir)
		}
	}
	for _, dir := range kept {
		if vanished(t, dir) {
			t.Errorf("%s is gone", dir)
		}
	}
}

// TestEvidenceIsBoundedInAll: the sum stays below the bound with room for one
// more, whichever plugins it belongs to; the oldest goes first.
func TestEvidenceIsBoundedInAll(t *testing.T) {
	c := newCabinet(t, EvidenceRules{MaxSize: evidenceSize + 3000})
	var dirs []string
	for i := range 6 {
		dirs = append(dirs, c.fill(t, fmt.Sprint("p", i), time.Duration(10-i)*time.Minute, 1000))
	}
	room, err := c.prune("")
	if err != nil || room < evidenceSize {
		t.Errorf("%d bytes of room, %v", room, err)
	}
	for i, dir := range dirs {
		if vanished(t, dir) != (i < 3) {
			t.Errorf("%s: gone is %v", dir, vanished(t, dir))
		}
	}
}

// TestEvidenceThatComesIsKnown: what came since all was looked through counts,
// once, whenever it is older than what was there; what others have done to the
// directories is known an hour later.
func TestEvidenceThatComesIsKnown(t *testing.T) {
	c := newCabinet(t, EvidenceRules{Keep: 3})
	clock, _ := c.clock.(*fakeClock)
	prune := func(came string, want int64) {
		t.Helper()
		room, err := c.prune(came)
		if used := c.rules.MaxSize - room; err != nil || used != want {
			t.Errorf("%d bytes are used, want %d; %v", used, want, err)
		}
	}
	prune("", 0)
	first := c.fill(t, "p", 2*time.Minute, 100)
	prune(first, 100)
	prune(first, 100)
	before := c.fill(t, "p", 3*time.Minute, 10)
	prune(before, 110)
	others := c.fill(t, "q", time.Minute, 1000)
	last := c.fill(t, "p", time.Minute, 1)
	prune(last, 111)
	prune(c.fill(t, "p", time.Second, 1), 102) // the oldest of four went
	if !vanished(t, before) || vanished(t, first) {
		t.Error("the oldest is there, or another is not")
	}
	if err := os.RemoveAll(first); err != nil {
		t.Fatal(err)
	}
	clock.jump(lookThrough)
	prune("", 1002)
	if vanished(t, others) || vanished(t, last) {
		t.Error("what is within the bounds was removed")
	}
}

func TestAFullCabinetStillTakesTheViolation(t *testing.T) {
	s := sharedOf(Config{})
	s.room.Store(evidenceSize)
	if got := s.takeRoom(); got != evidenceSize {
		t.Errorf("the first may write %d bytes", got)
	}
	if got := s.takeRoom(); got != evidenceLeast {
		t.Errorf("the second at once may write %d bytes", got)
	}
}

const secret = "hunter2-hunter2"

// TestEvidenceHasNoSecrets follows planted secrets through a real quarantine
// into every file of the evidence.
func TestEvidenceHasNoSecrets(t *testing.T) {
	b := newBench(t)
	pattern, err := Patterns([]string{`customer-(\d+)`})
	if err != nil {
		t.Fatal(err)
	}
	b.SetEvidenceRules(EvidenceRules{Redact: pattern})
	b.source.change(func(p *plan.Plan) { p.Process.Env = []string{"API=" + secret, "HOME=/data"} })
	proc, _ := b.start()
	params := json.RawMessage(`{"path":"` + secret + `","n":[1,2],"deep":{"a":{"b":{"c":{"d":"` + secret + `"}}}}}`)
	if _, err := b.Call(t.Context(), control.CallParams{Name: "p", Method: "read", Params: params}); err != nil {
		t.Fatal(err)
	}
	p, _ := b.get("p")
	for _, line := range []string{"using " + secret, "Authorization: Bearer abcdefghijkl", "password=letmein99", "customer-424242 called"} {
		p.log.add("stderr", []byte(line), false)
	}
	v := hitBy(violation.Quarantine)
	v.Path = "/tmp/" + secret
	proc.req.OnViolation(v)
	b.await("quarantined")
	list, err := b.EvidenceList(t.Context(), named)
	if err != nil || len(list) != 1 || !list[0].Held {
		t.Fatalf("%+v, %v", list, err)
	}
	if !slices.Contains(list[0].Files, "calls.json") || !slices.Contains(list[0].Files, "log.json") {
		t.Fatalf("the files are %v", list[0].Files)
	}
	all := ""
	for _, name := range list[0].Files {
		got, err := b.EvidenceShow(t.Context(), control.EvidenceParams{Name: "p", ID: list[0].ID, File: name})
		if err != nil {
			t.Fatal(err)
		}
		for _, planted := range []string{secret, "abcdefghijkl", "letmein99", "424242"} {
			if strings.Contains(got.Text, planted) {
				t.Errorf("%s has %q", name, planted)
			}
		}
		all += got.Text
	}
	for _, want := range []string{"API=[redacted]", "HOME=/data", "using [redacted]", "string(15)", `"method": "read"`, `"outcome": "answered"`} {
		if !strings.Contains(all, want) {
			t.Errorf("the evidence lacks %q", want)
		}
	}
}

func TestEvidenceOfNoPlugin(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{"../../etc", "", "p/../p"} {
		if _, err := b.EvidenceShow(t.Context(), control.EvidenceParams{Name: name}); codeOf(err) != ipc.CodeInvalidParams {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := b.EvidenceShow(t.Context(), control.EvidenceParams{Name: "p"}); codeOf(err) != ipc.CodeNotFound {
		t.Errorf("evidence of a plugin that was never quarantined: %v", err)
	}
}

func TestPatternsAreChecked(t *testing.T) {
	for _, bad := range [][]string{{"("}, {""}, {"a*"}, {strings.Repeat("x", maxPatternLen+1)}, make([]string, maxPatterns+1)} {
		if _, err := Patterns(bad); err == nil {
			t.Errorf("%.20q was taken", bad)
		}
	}
}

func TestCallBookForgetsTheOldest(t *testing.T) {
	var b callBook
	first := b.begin(epoch, "first", nil, ipc.Meta{})
	for range callsKept {
		b.begin(epoch, "later", json.RawMessage(`"x"`), ipc.Meta{})(epoch, &ipc.RPCError{Code: -32000, Message: secret})
	}
	first(epoch.Add(time.Hour), nil) // its place has another
	for _, c := range b.list() {
		if c.Method != "later" || c.Outcome != "error -32000" || c.Duration != 0 {
			t.Fatalf("%+v", c)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("token=" + secret)
	f.Add("postgres://u:" + secret + "@h/db")
	f.Add("-----BEGIN RSA PRIVATE KEY-----\nx")
	r := newRedactor(&plan.Plan{Process: plan.Process{Env: []string{"S=" + secret}}}, nil)
	f.Fuzz(func(t *testing.T, text string) {
		if out := r.text(text); strings.Contains(out, secret) && !strings.Contains(redacted+redacted, secret) {
			t.Errorf("%q became %q", text, out)
		}
	})
}

// TestEvidenceOfAQuarantineIsCounted: its directory is known once it is complete,
// without another look at all.
func TestEvidenceOfAQuarantineIsCounted(t *testing.T) {
	b := newBench(t)
	proc, _ := b.start()
	proc.req.OnViolation(hitBy(violation.Quarantine))
	b.await("quarantined")
	list, err := b.EvidenceList(t.Context(), named)
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	p, _ := b.get("p")
	p.walking.Wait()
	b.cabinet.mu.Lock()
	defer b.cabinet.mu.Unlock()
	if kept := b.cabinet.kept; len(kept) != 1 || kept[0].id != list[0].ID || kept[0].size != list[0].Size {
		t.Errorf("%+v is known, and %+v is there", kept, list[0])
	}
}
