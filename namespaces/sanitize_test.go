package namespaces

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fuzzRounds is a few seconds' work; CORDON_KEEPER_ROUNDS asks for more.
const fuzzRounds = "5000"

// TestKeeperUnderSanitizers builds the keeper's sources with AddressSanitizer
// and UBSan, and feeds them malformed plans (keeper/fuzz.c).
func TestKeeperUnderSanitizers(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("skipped: needs gcc")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "fuzz")
	args := []string{
		"-std=gnu11", "-g", "-O1", "-DHOSTED", "-DFAKE_CALLS", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
		"-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-unused-function", "-Wno-clobbered",
		"-o", program,
	}
	for _, source := range []string{"fuzz.c", "replies.c", "holder.c", "room.c", "confine.c", "table.c", "clone.c", "turns.c", "userns.c", "template.c", "groups.c", "check.c", "steps.c", "reaper.c"} {
		args = append(args, "keeper/"+source)
	}
	if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v: %s", err, out)
	}
	rounds := os.Getenv("CORDON_KEEPER_ROUNDS")
	if rounds == "" {
		rounds = fuzzRounds
	}
	seeds := wellFormed(t, dir)
	for seed := range 3 {
		cmd := exec.CommandContext(t.Context(), program, append([]string{fmt.Sprint(seed), rounds}, seeds...)...)
		cmd.Env = append(os.Environ(), "ASAN_OPTIONS=detect_leaks=0") // arenas live as long as the program
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("seed %d, %s rounds: %v\n%s", seed, rounds, err, out)
		} else {
			t.Logf("seed %d: %s", seed, out)
		}
	}
}

// wellFormed are requests of every kind, as the daemon sends them.
func wellFormed(t *testing.T, dir string) []string {
	t.Helper()
	v := testView("sh", "-c", "true")
	v.Proc = Proc{Mode: "full", Masked: []string{"/proc/kcore"}}
	v.Landlock.ConnectTCP = []uint16{80}
	h := Host{
		LandlockABI: 7, Joins: []int{0}, Holds: []int{1}, Kill: 2, Groups: []GroupDir{{Parent: 3, Name: "g"}, {Parent: 3, Name: "s", Shared: true}},
		UserNS: 4, UID: 1, GID: 1, Sources: []Source{{File: 5, Dir: true}, {File: NoFile}, {File: NoFile}},
		Descriptors: []Descriptor{{6, 0}, {6, 1}, {6, 2}}, Filter: []byte(strings.Repeat("\x06\x00\x00\x00\x00\x00\xff\x7f", 40)), MemfdNoexec: true,
	}
	steps, err := Compile(v, h)
	if err != nil {
		t.Fatal(err)
	}
	l := Launch{Steps: steps, CgroupFile: 3, NetNSFile: 4, ReaperUID: 2, ReaperGID: 2}
	var b blob
	b.strs([]string{"1000 1 1\n", "1000 1 1\n"})
	var messages [][]byte
	add := func(m []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	add(l.Message(8))
	l.Staged = func(int) {}
	add(l.Message(8))
	h.Prepared = true
	if steps, err = Compile(v, h); err != nil {
		t.Fatal(err)
	}
	shared, own := Part(steps)
	for i := range own {
		if own[i].Op == OpTemplate {
			own[i].File = 5
		}
	}
	l.Steps = own
	add(l.Message(8))
	l.Steps = shared
	add(l.TemplateMessage(8))
	add(pack(wireRequest{ID: 1, Kind: wireKindUserns, CgroupFD: wireNoString, NetnsFD: wireNoString}, nil, b.data))
	add(pack(wireRequest{ID: 1, Kind: wireKindForget, CgroupFD: wireNoString, NetnsFD: wireNoString}, nil, nil))
	add(pack(wireRequest{Kind: wireKindKeep, Flags: 1000, CgroupFD: wireNoString, NetnsFD: wireNoString}, nil, nil))
	var names []string
	for i, m := range messages {
		name := filepath.Join(dir, fmt.Sprintf("seed-%d", i))
		if err := os.WriteFile(name, m, 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}
