package profiles

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
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
