package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/strict"
)

// TestSchemaAgrees: what the reader takes the schema takes; and of the wrong
// files with an unknown key or a wrong kind the schema refuses every one.
func TestSchemaAgrees(t *testing.T) {
	var doc any
	text, err := os.ReadFile("../docs/profile.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("profile.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("profile.json")
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, data []byte) error {
		tree, err := strict.Tree(name, data)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(plain)))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(v)
	}
	good, err := filepath.Glob("../profiles/*.toml")
	if err != nil || len(good) < 8 {
		t.Fatal(good, err)
	}
	for _, file := range good {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(file, data); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for _, word := range []string{
		"resources.memory.max = \"1.5G\"", "resources.rlimit.nofile = { soft = 1, hard = 2 }", "resources.rlimit.nofile = 7", "violation.seccomp = { action = \"deny\", budget = \"2/h\", then = \"kill\" }",
		"require.landlock = { mode = \"hard\", min_abi = 4 }", "files = [{ path = [\"/a\", \"/b\"], access = [\"read_file\"] }]", "lifecycle.restart_sec = \"1m30s\"", "environment.set.A = \"x\"",
		"seccomp.errno.mount = \"EPERM\"", "resources.cpu.max = \"max\"",
	} {
		if _, err := profiles.ParseProfile("t.toml", []byte(word+"\n")); err != nil {
			t.Errorf("%s: %v", word, err)
		}
		if err := check("t.toml", []byte(word+"\n")); err != nil {
			t.Errorf("%s: %v", word, err)
		}
	}
	for _, word := range []string{
		"memory = 1", "resources.memory.maxx = 1", "resources.memory.max = \"1 GB\"", "proc.mode = \"all\"", "files = \"/a\"", "devices.allow = [\"tty\"]", "lifecycle.restart_sec = 5",
		"seccomp.default_action = \"x\"", "resources.cpu.max = 50", fmt.Sprintf("description = %d", 1), "violation.seccomp = \"ask\"",
	} {
		if err := check("t.toml", []byte(word+"\n")); err == nil {
			t.Errorf("the schema takes %s", word)
		}
		if _, err := profiles.ParseProfile("t.toml", []byte(word+"\n")); err == nil {
			t.Errorf("the reader takes %s", word)
		}
	}
}
