package profiles

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cordonhq/cordon/profiles/strict"
)

// documented gives the last column, and the default, of each key's row in the
// reference.
func documented(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]A-Z]+)` \\|(.*)\\|$")
	out := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		if _, there := out[m[1]]; there {
			continue // the manifest's keys come later
		}
		var words []string
		for _, cell := range strings.Split(m[2], " | ") {
			if cell = strings.TrimSpace(strings.ReplaceAll(cell, "`", "")); cell != "" && cell != "required" {
				words = append(words, cell)
			}
		}
		out[m[1]] = strings.Join(words, "; ")
	}
	return out
}

func schemaText(t *testing.T) string {
	t.Helper()
	rows := documented(t)
	text, err := json.MarshalIndent(Schema(func(key string) string { return rows[key] }), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

// TestSchema holds the schema for editors, which is made from the language's
// types and from its reference; -update writes it.
func TestSchema(t *testing.T) {
	text := schemaText(t)
	golden(t, "../docs/profile.schema.json", text)
	if n := strings.Count(text, `"description"`); n < 80 {
		t.Errorf("%d keys only are described", n)
	}
}

// TestSchemaAgrees: what the reader takes the schema takes; and of the wrong
// files with an unknown key or a wrong kind the schema refuses every one.
func TestSchemaAgrees(t *testing.T) {
	var doc any
	if err := json.Unmarshal([]byte(schemaText(t)), &doc); err != nil {
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
	good, err := filepath.Glob("*.toml")
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
		if _, err := ParseProfile("t.toml", []byte(word+"\n")); err != nil {
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
		if _, err := ParseProfile("t.toml", []byte(word+"\n")); err == nil {
			t.Errorf("the reader takes %s", word)
		}
	}
}
