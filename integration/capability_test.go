package integration

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
)

// asker is a Python plugin that asks its host for whatever it is told to, and
// gives back what it was answered.
func asker(t *testing.T, asks string) string {
	t.Helper()
	sdk, err := os.ReadFile("../sdk/python/cordon.py")
	if err != nil {
		t.Fatal(err)
	}
	dir := bundle(t, "asker", "cordon", map[string]string{
		"cordon.py": string(sdk),
		"main.py": `import mmap, os, sys
sys.path.insert(0, "/plugin")
import cordon
plugin = cordon.Plugin("asker", "1.0.0")

@plugin.method("do")
def do(params, ctx):
    try:
        return {"result": ctx.call(params["method"], params.get("params"))}
    except cordon.Error as err:
        return {"code": err.code, "message": err.message}

@plugin.method("hand")
def hand(params, ctx):
    try:
        result, files = ctx.call_files(params["method"], params.get("params"))
    except cordon.Error as err:
        return {"code": err.code, "message": err.message}
    said = []
    for f in files:
        text = os.pread(f.fileno(), 100, 0).decode()
        try:
            os.pwrite(f.fileno(), b"!", 0)
        except OSError as err:
            text += " " + err.strerror
        try:
            mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        except OSError as err:
            text += ", " + err.strerror
        said.append(text)
        f.close()
    return {"result": {"result": result, "said": said}}

@plugin.method("say")
def say(params, ctx):
    print(params["text"], flush=True)

plugin.main()
`,
	}, "/usr/bin/python3", "main.py")
	f, err := os.OpenFile(dir+"/plugin.toml", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(asks); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// answer is what the asker says.
type answer struct {
	Result  json.RawMessage `json:"result"`
	Code    int             `json:"code"`
	Message string          `json:"message"`
}

func (d *daemon) ask(method string, params any) answer { return d.asked("do", method, params) }

// handed is ask for what is answered by descriptors.
func (d *daemon) handed(method string, params any) answer { return d.asked("hand", method, params) }

func (d *daemon) asked(how, method string, params any) answer {
	d.t.Helper()
	text, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		d.t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal([]byte(d.must("call", "asker", how, string(text))), &a); err != nil {
		d.t.Fatal(err)
	}
	return a
}

// flag adds a flag to the configuration and has it be read.
func (d *daemon) flag(text string) {
	d.t.Helper()
	f, err := os.OpenFile(d.dir+"/cordond.toml", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		d.t.Fatal(err)
	}
	d.must("reload")
}

func (d *daemon) profile(name, text string) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(d.dir, "profiles", name+".toml"), []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// audited are the records about what a plugin used, with the data that says by
// which grant.
func (d *daemon) audited() string {
	d.t.Helper()
	text, err := os.ReadFile(d.dir + "/state/audit.jsonl")
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

// TestCapabilities is the third walk, whole: what was asked for and granted is
// served, everything else is a violation, and an operator's word holds at once.
func TestCapabilities(t *testing.T) {
	d := startDaemon(t)
	files := t.TempDir()
	if err := os.WriteFile(files+"/photo", []byte("bits"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.dir+"/key", []byte("very-secret-key"), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := os.OpenFile(d.dir+"/cordond.toml", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(config, "[[secret]]\nname = \"api-key\"\nfile = %q\n", d.dir+"/key")
	if err := config.Close(); err != nil {
		t.Fatal(err)
	}
	d.must("reload")
	d.profile("asker", fmt.Sprintf(`extends = ["builtin:python"]
[[capability]]
name = "fs.open"
target = ["rw:%s"]
[[capability]]
name = "kv"
[[capability]]
name = "log"
[[capability]]
name = "secret.read"
target = ["api-key", "other"]
[ipc]
hello_timeout = "2m"
[lifecycle]
timeout_start_sec = "2m"
`, files))
	d.must("install", asker(t, fmt.Sprintf(`[[capability]]
name = "fs.open"
target = ["r:%s"]
why = "photos"
[[capability]]
name = "kv"
why = "where it was"
[[capability]]
name = "log"
why = "what it does"
[[capability]]
name = "metric"
why = "how much"
[[capability]]
name = "secret.read"
target = ["api-key"]
why = "to sign"
`, files)), "--profile", "asker")
	d.must("start", "asker")

	if a := d.ask("kv.put", map[string]any{"set": map[string]string{"a": "1"}}); a.Code != 0 {
		t.Fatalf("kv.put: %+v", a)
	}
	if a := d.ask("kv.get", map[string]string{"key": "a"}); string(a.Result) != `"1"` {
		t.Fatalf("kv.get: %+v", a)
	}
	if a := d.ask("fs.read", map[string]string{"path": files + "/photo"}); !strings.Contains(string(a.Result), base64.StdEncoding.EncodeToString([]byte("bits"))) {
		t.Fatalf("fs.read: %+v", a)
	}
	if a := d.ask("log", map[string]any{"message": "seen", "fields": map[string]any{"photo": 1}}); a.Code != 0 {
		t.Fatalf("log: %+v", a)
	}
	if a := d.ask("secret.read", map[string]string{"name": "api-key"}); !strings.Contains(string(a.Result), base64.StdEncoding.EncodeToString([]byte("very-secret-key"))) {
		t.Fatalf("secret.read: %+v", a)
	}
	// The same as descriptors: what was handed over is read, not written, not code.
	if a := d.handed("fs.open", map[string]string{"path": files + "/photo"}); !strings.Contains(string(a.Result), `"bits Bad file descriptor, Operation not permitted"`) {
		t.Errorf("fs.open: %+v", a)
	}
	if a := d.handed("fs.open", map[string]string{"path": files + "/photo", "access": "rw"}); a.Code != -32011 { // asked for reading only
		t.Errorf("fs.open for writing: %+v", a)
	}
	if a := d.handed("secret.open", map[string]string{"name": "api-key"}); !strings.Contains(string(a.Result), `"very-secret-key Operation not permitted`) {
		t.Errorf("secret.open: %+v", a)
	}
	for method, params := range map[string]any{
		"fs.write":    map[string]any{"path": files + "/photo", "data": ""}, // asked for reading only
		"fs.read":     map[string]string{"path": "/etc/hostname"},
		"metric.add":  map[string]any{"name": "n", "value": 1}, // asked for, and not granted
		"secret.read": map[string]string{"name": "other"},      // granted, and not asked for
		"data.usage":  nil,
	} {
		if a := d.ask(method, params); a.Code != -32011 {
			t.Errorf("%s is answered %+v", method, a)
		}
	}
	if why := d.must("why", "asker"); !strings.Contains(why, "The grants refused fs.open r:/etc/hostname") || !strings.Contains(why, `name = "fs.open"`) {
		t.Errorf("why says:\n%s", why)
	}
	d.must("call", "asker", "say", `{"text": "the key is very-secret-key"}`)
	d.eventually("the log has what was said, without the secret", func() bool {
		logs := d.must("logs", "asker")
		return strings.Contains(logs, "the key is [redacted]") && strings.Contains(logs, `info: seen photo="1"`)
	})

	d.flag("[[flag]]\nname = \"keep\"\non = true\nplugins = [\"ask*\"]\ncapabilities = [\"kv\"]\n")
	var flagged control.Flagged
	d.json(&flagged, "flag", "keep", "off")
	if a := d.ask("kv.get", map[string]string{"key": "a"}); a.Code != -32011 || !strings.Contains(a.Message, "revoked by the flag keep") {
		t.Errorf("while its flag is off: %+v", a)
	}
	d.must("reload") // an operator's word stands above the file's
	if a := d.ask("kv.get", map[string]string{"key": "a"}); a.Code != -32011 {
		t.Errorf("after a reload: %+v", a)
	}
	d.must("flag", "keep", "default")
	if a := d.ask("kv.get", map[string]string{"key": "a"}); a.Code != 0 {
		t.Errorf("when its flag is on again: %+v", a)
	}

	var granted control.Granted
	d.json(&granted, "revoke", "asker", "kv")
	if a := d.ask("kv.get", map[string]string{"key": "a"}); a.Code != -32011 || !strings.Contains(a.Message, "revoked by") {
		t.Errorf("after it was revoked: %+v", a)
	}
	d.must("restart", "asker")
	if a := d.ask("kv.get", map[string]string{"key": "a"}); a.Code != -32011 {
		t.Errorf("after a restart: %+v", a)
	}
	d.must("grant", "asker", "kv")
	if a := d.ask("kv.get", map[string]string{"key": "a"}); string(a.Result) != `"1"` {
		t.Errorf("after it was granted again: %+v", a)
	}
	d.must("grant", "asker", "metric", "--for", "1h")
	if a := d.ask("metric.add", map[string]any{"name": "n", "value": 2}); a.Code != 0 {
		t.Errorf("what an operator granted: %+v", a)
	}
	if _, err := d.cordon("grant", "asker", "fs.open", "r:/etc/shadow"); err == nil || !strings.Contains(err.Error(), "above the ceiling") {
		t.Errorf("a grant above the ceiling: %v", err)
	}
	list := d.must("capability", "list", "asker")
	if !strings.Contains(list, "secret.read") || !strings.Contains(list, "asker.toml:") {
		t.Errorf("capability list says:\n%s", list)
	}

	d.must("stop", "asker")
	log := d.audited()
	for _, want := range []string{
		`asker used kv.put: served`, `asker used fs.open r:` + files + `/photo: served`, `asker used secret.open api-key: served`, `asker used fs.read r:` + files + `/photo: served`, `asker used secret.read api-key: served`,
		`"grant":"` + d.dir + `/profiles/asker.toml:2"`, `asker hit the wall grant: fs.open r:/etc/hostname (deny)`, `kv of asker was revoked`, `"kind":"granted"`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the audit log does not say %s", want)
		}
	}
	if strings.Contains(log, "very-secret-key") {
		t.Error("the secret is in the audit log")
	}
	d.must("audit", "verify", "--log", d.dir+"/state/audit.jsonl")
}
