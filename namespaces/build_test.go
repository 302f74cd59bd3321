package namespaces

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestWireIsGenerated fails when one side of the protocol was edited, or the
// definition without "go generate ./namespaces".
func TestWireIsGenerated(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "keeper"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "run", "./internal/wiregen", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"wire_gen.go", "keeper/wire.h"} {
		same(t, name, filepath.Join(dir, name))
	}
}

// keeperCompiler is what the committed keeper was built with.
const keeperCompiler = "12.2.0"

// TestKeeperIsReproducible rebuilds the committed keeper from its sources.
func TestKeeperIsReproducible(t *testing.T) {
	version, err := exec.Command("gcc", "-dumpfullversion").Output()
	if err != nil || strings.TrimSpace(string(version)) != keeperCompiler {
		t.Skipf("skipped: needs gcc %s, the compiler of the committed keeper (here: %s)", keeperCompiler, bytes.TrimSpace(version))
	}
	built := filepath.Join(t.TempDir(), "keeper")
	if out, err := exec.Command("sh", "keeper/build.sh", built).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	same(t, "keeper/keeper_amd64", built)
}

func same(t *testing.T, committed, made string) {
	t.Helper()
	a, err := os.ReadFile(committed)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("%s is not what its sources give: run go generate ./namespaces", committed)
	}
}
