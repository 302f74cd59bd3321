package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// touched is one line of cordon audit who.
type touched struct {
	Who     string `json:"who"`
	What    string `json:"what"`
	Target  string `json:"target"`
	Outcome string `json:"outcome"`
	Grant   string `json:"grant"`
	Plan    string `json:"plan_digest"`
}

// TestWhoTouchedWhat runs the example that owns nothing, and asks the audit log
// who touched what, when, by which grant.
func TestWhoTouchedWhat(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, "signed ", len(r.Header.Get("Signature")))
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	to, papers := l.Addr().String(), t.TempDir()
	if err := os.WriteFile(papers+"/letter", []byte("dear"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t)
	config := d.dir + "/cordond.toml"
	d.stop()
	f, err := os.OpenFile(config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(f, "[[secret]]\nname = \"clerk-key\"\nfile = %q\n", d.dir+"/key"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.dir+"/key", []byte("secret-of-the-clerk"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
	dir := t.TempDir()
	for from, name := range map[string]string{"../examples/clerk/main.py": "main.py", "../examples/clerk/plugin.toml": "plugin.toml", "../sdk/python/cordon.py": "cordon.py"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d.profile("clerk", fmt.Sprintf(`extends = ["builtin:python"]
[[capability]]
name = "fs.open"
target = ["r:%s"]
[[capability]]
name = "net.dial"
target = [%q]
[[capability]]
name = "secret.read"
target = ["clerk-key"]
[[capability]]
name = "kv"
`, papers, to))
	d.must("install", dir, "--profile", "clerk")
	d.must("start", "clerk")
	send := func(path string) (string, error) {
		return d.cordon("call", "clerk", "clerk.send", fmt.Sprintf(`{"path": %q, "to": %q}`, path, to))
	}
	if out, err := send(papers + "/letter"); err != nil || !strings.Contains(out, "signed 64") {
		t.Fatalf("%s, %v; %s", out, err, d.log)
	}
	if out, err := send("/etc/shadow"); err == nil {
		t.Fatalf("it has read /etc/shadow: %s", out)
	}
	d.must("revoke", "clerk", "net.dial")
	if out, err := send(papers + "/letter"); err == nil {
		t.Fatalf("it has sent after the revocation: %s", out)
	}
	d.must("stop", "clerk")

	var all []touched
	d.json(&all, "audit", "who", "--plugin", "clerk")
	by := d.dir + "/profiles/clerk.toml:"
	for _, want := range []touched{
		{What: "fs.open", Target: "r:" + papers + "/letter", Outcome: "served", Grant: by + "2"},
		{What: "secret.open", Target: "clerk-key", Outcome: "served", Grant: by + "8"},
		{What: "net.dial", Target: to, Outcome: "connected", Grant: by + "5"},
		{What: "net.dial", Target: to, Outcome: "ended", Grant: by + "5"},
		{What: "kv.put", Outcome: "served", Grant: by + "11"},
		{What: "fs.open", Target: "r:/etc/shadow", Outcome: "refused"},
		{What: "net.dial", Outcome: "revoked", Grant: "uid 0"},
		{What: "net.dial", Target: to, Outcome: "refused: revoked by uid 0"},
	} {
		found := false
		for _, have := range all {
			found = found || have.Who == "clerk" && have.What == want.What && have.Target == want.Target &&
				strings.HasPrefix(have.Outcome, want.Outcome) && strings.HasPrefix(have.Grant, want.Grant) && have.Plan != ""
		}
		if !found {
			t.Errorf("nobody knows of %+v; there is\n%+v", want, all)
		}
	}
	var letters []touched
	d.json(&letters, "audit", "who", papers)
	for _, one := range letters {
		if one.What != "fs.open" {
			t.Errorf("asked for who touched the papers, it says %+v", one)
		}
	}
	if len(letters) != 2 {
		t.Errorf("the papers were touched %d times", len(letters))
	}
	if text := d.must("audit", "who", "--log", d.dir+"/state/audit.jsonl"); !strings.Contains(text, "WHEN") || strings.Contains(text, "secret-of-the-clerk") {
		t.Errorf("it says\n%s", text)
	}
}
