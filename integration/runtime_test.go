package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestNodeMakesNoCodeFromStrings: what runtime.eval takes away is gone, in the
// main program and in a child of it, and is there without it.
func TestNodeMakesNoCodeFromStrings(t *testing.T) {
	const node = "/usr/bin/node"
	if _, err := exec.LookPath(node); err != nil {
		t.Skip("this host has no " + node)
	}
	const try = `let n = 0
for (const f of [() => eval("1"), () => new Function("return 1")()]) { try { n += f() } catch (e) { console.log(e.name) } }
console.log("ran " + n)
if (!process.argv[1]) console.log(require("child_process").execFileSync(process.execPath, ["-e", process.env.TRY, "child"]).toString())`
	for eval, want := range map[string]string{
		"true":  "ran 2 ran 2",
		"false": "EvalError EvalError ran 0 EvalError EvalError ran 0",
	} {
		profile := filepath.Join(t.TempDir(), "eval.toml")
		if err := os.WriteFile(profile, []byte("extends = [\"builtin:node\"]\n[runtime]\neval = "+eval+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(bin+"/cordon", "run", "--profile", profile, "--timeout", "1m", "--env", "TRY="+try, "--", node, "-e", try)
		cmd.Env = append(os.Environ(), "CORDON_CGROUP_ROOT=cordon-it-eval")
		out, err := cmd.CombinedOutput()
		if got := strings.Join(strings.Fields(string(out)), " "); err != nil || got != want {
			t.Errorf("eval = %s: %v: %s, want %s", eval, err, out, want)
		}
	}
}
