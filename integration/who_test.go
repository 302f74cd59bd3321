package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/supervisor/control"
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

// office is where the examples that own nothing work: a directory of papers, a
// server, and a secret.
type office struct {
	*daemon
	papers, to string
}

func newOffice(t *testing.T) *office {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.9:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprint(rw, "signed ", len(r.Header.Get("Signature")))
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	o := &office{daemon: newDaemon(t), papers: t.TempDir(), to: l.Addr().String()}
	o.write(o.papers+"/letter", "dear")
	o.write(o.dir+"/key", "secret-of-the-office")
	o.configure(fmt.Sprintf("[[secret]]\nname = \"clerk-key\"\nfile = %q\n[[secret]]\nname = \"ledger-key\"\nfile = %q\n", o.dir+"/key", o.dir+"/key"))
	o.start()
	t.Cleanup(func() { o.stop() })
	return o
}

func (o *office) write(path, text string) {
	o.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// example is one that holds capabilities: how it is put together, and a run of it
// that uses everything that it asks for.
type example struct {
	base  string            // of its profile
	files map[string]string // beside its own, by name
	build bool              // it is in Go
	run   func(o *office)
	also  func(o *office) []touched // what must be known besides
}

func examples() map[string]example {
	return map[string]example{
		"clerk": {
			base: "python", files: map[string]string{"cordon.py": "../sdk/python/cordon.py"},
			run: func(o *office) {
				send := func(path string) (string, error) {
					return o.cordon("call", "clerk", "clerk.send", fmt.Sprintf(`{"path": %q, "to": %q}`, path, o.to))
				}
				if out, err := send(o.papers + "/letter"); err != nil || !strings.Contains(out, "signed 64") {
					o.t.Fatalf("%s, %v; %s", out, err, o.log)
				}
				if out, err := send("/etc/shadow"); err == nil {
					o.t.Fatalf("it has read /etc/shadow: %s", out)
				}
				o.must("revoke", "clerk", "net.dial")
				if out, err := send(o.papers + "/letter"); err == nil {
					o.t.Fatalf("it has sent after the revocation: %s", out)
				}
			},
			also: func(o *office) []touched {
				return []touched{
					{What: "fs.open", Target: "r:" + o.papers + "/letter", Outcome: "served"},
					{What: "fs.open", Target: "r:/etc/shadow", Outcome: "refused"},
					{What: "secret.open", Target: "clerk-key", Outcome: "served"},
					{What: "net.dial", Target: o.to, Outcome: "ended"},
					{What: "kv.put", Outcome: "served"},
					{What: "net.dial", Outcome: "revoked", Grant: "uid 0"},
					{What: "net.dial", Target: o.to, Outcome: "refused: revoked by uid 0"},
				}
			},
		},
		"ledger": {
			base: "static", build: true,
			run: func(o *office) {
				for _, want := range []string{`"known":false`, `"same":true`} {
					if out := o.must("call", "ledger", "ledger.enter", fmt.Sprintf(`{"path": %q}`, o.papers+"/letter")); !strings.Contains(strings.ReplaceAll(out, " ", ""), want) {
						o.t.Fatalf("it says %s, not %s", out, want)
					}
				}
			},
		},
		"watcher": {
			base: "node", files: map[string]string{"cordon.mjs": "../sdk/node/cordon.mjs"},
			run: func(o *office) {
				if out := o.must("call", "watcher", "watcher.look", fmt.Sprintf(`{"to": %q, "path": "/"}`, o.to)); !strings.Contains(out, "false") {
					o.t.Fatalf("it says %s; %s", out, o.must("logs", "watcher"))
				}
			},
		},
	}
}

// bundle puts an example together, or says what this host lacks for it.
func (e example) bundle(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	own, err := filepath.Glob("../examples/" + name + "/*")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, path := range own {
		files[filepath.Base(path)] = path
	}
	for as, path := range e.files {
		files[as] = path
	}
	for as, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, as), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if e.build {
		if _, err := exec.LookPath("go"); err != nil {
			t.Skip("this host has no Go")
		}
		cmd := exec.Command("go", "build", "-o", dir, ".")
		cmd.Dir = "../examples/" + name
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("cannot build %s: %v: %s", name, err, out)
		}
	}
	return dir
}

// profile grants all that an example asks for.
func (o *office) grants(e example, name string, asks []manifest.Capability) {
	o.t.Helper()
	targets := map[string]string{"fs.open": "r:" + o.papers, "net.dial": o.to, "secret.read": name + "-key"}
	text := fmt.Sprintf("extends = [\"builtin:%s\"]\n[ipc]\nhello_timeout = \"2m\"\n[lifecycle]\ntimeout_start_sec = \"2m\"\n", e.base)
	for _, ask := range asks {
		text += fmt.Sprintf("[[capability]]\nname = %q\n", ask.Name)
		if to := targets[ask.Name]; to != "" {
			text += fmt.Sprintf("target = [%q]\n", to)
		}
	}
	o.profile(name, text)
}

// TestWhoTouchedWhat runs every example that holds capabilities, and asks the
// audit log who touched what, when, by which grant: each grant that was used is
// answered for, and nothing is that no grant has.
func TestWhoTouchedWhat(t *testing.T) {
	manifests, err := filepath.Glob("../examples/*/plugin.toml")
	if err != nil || len(manifests) == 0 {
		t.Fatal(len(manifests), err)
	}
	known := examples()
	for _, path := range manifests {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Parse(path, text)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Capabilities) == 0 {
			continue
		}
		name := filepath.Base(filepath.Dir(path))
		e, ok := known[name]
		if !ok {
			t.Errorf("the example %s holds capabilities, and no run of it is here", name)
			continue
		}
		delete(known, name)
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(m.Exec[0]); err != nil && strings.HasPrefix(m.Exec[0], "/usr/") {
				t.Skip("this host has no " + m.Exec[0])
			}
			o, dir := newOffice(t), e.bundle(t, name)
			o.grants(e, name, m.Capabilities)
			o.must("install", dir, "--profile", name)
			o.must("start", name)
			e.run(o)
			var also []touched
			if e.also != nil {
				also = e.also(o)
			}
			o.answers(name, m.Capabilities, also)
			o.onlyPapers()
		})
	}
	for name := range known {
		t.Errorf("there is no example %s that holds capabilities", name)
	}
}

// onlyPapers: asked for who touched the papers, the log says who opened them and
// nothing else.
func (o *office) onlyPapers() {
	o.t.Helper()
	var letters []touched
	o.json(&letters, "audit", "who", o.papers)
	for _, one := range letters {
		if one.What != "fs.open" {
			o.t.Errorf("asked for who touched the papers, it says %+v", one)
		}
	}
}

// answers holds the audit log against what the broker counted.
func (o *office) answers(name string, asks []manifest.Capability, also []touched) {
	o.t.Helper()
	var now control.Capabilities
	o.json(&now, "capability", "list", name)
	o.must("revoke", name, asks[0].Name)
	o.must("stop", name)
	var all []touched
	o.json(&all, "audit", "who", "--plugin", name)
	has := func(want touched, what func(string) bool) bool {
		return slices.ContainsFunc(all, func(have touched) bool {
			return have.Who == name && what(have.What) && (want.Target == "" || have.Target == want.Target) &&
				strings.HasPrefix(have.Outcome, want.Outcome) && (want.Grant == "" || have.Grant == want.Grant) && have.Plan != ""
		})
	}
	is := func(want string) func(string) bool { return func(have string) bool { return have == want } }
	of := func(capability string) func(string) bool {
		family, _, _ := strings.Cut(capability, ".")
		return func(have string) bool { return have == family || strings.HasPrefix(have, family+".") }
	}
	for _, ask := range asks {
		at := slices.IndexFunc(now.Grants, func(u control.Use) bool { return u.Capability == ask.Name })
		if at < 0 || now.Grants[at].Uses == 0 {
			o.t.Errorf("the run of the example does not use %s", ask.Name)
			continue
		}
		outcome := "served"
		if ask.Name == "net.dial" {
			outcome = "connected"
		}
		if !has(touched{Outcome: outcome, Grant: now.Grants[at].By}, of(ask.Name)) {
			o.t.Errorf("%s was used %d times by the grant %s, and the log does not answer for it:\n%+v", ask.Name, now.Grants[at].Uses, now.Grants[at].By, all)
		}
	}
	for _, have := range all {
		granted := slices.ContainsFunc(now.Grants, func(u control.Use) bool { return u.By == have.Grant && of(u.Capability)(have.What) })
		if !granted && !strings.HasPrefix(have.Outcome, "refused") && have.Outcome != "revoked" {
			o.t.Errorf("by no grant: %+v", have)
		}
	}
	for _, want := range append(also, touched{What: asks[0].Name, Outcome: "revoked", Grant: "uid 0"}) {
		if !has(want, is(want.What)) {
			o.t.Errorf("nobody knows of %+v; there is\n%+v", want, all)
		}
	}
	if text := o.must("audit", "who", "--log", o.dir+"/state/audit.jsonl"); !strings.Contains(text, "WHEN") || strings.Contains(text, "secret-of-the-office") {
		o.t.Errorf("it says\n%s", text)
	}
}
