package broker

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/supervisor/broker/host"
	"github.com/cordonhq/cordon/supervisor/broker/kv"
	"github.com/cordonhq/cordon/supervisor/broker/metric"
	"github.com/cordonhq/cordon/supervisor/broker/secret"
)

var update = flag.Bool("update", false, "write the page of capabilities anew")

// TestCatalogueIsDocumented: docs/capabilities.md says what cordon capability
// list and show do, word for word: both come from the catalogue.
func TestCatalogueIsDocumented(t *testing.T) {
	stores, err := kv.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Capabilities\n\nWhat the host serves to plugins. `cordon capability list` and `cordon capability show NAME` print the same, with the JSON Schemas of every call.\n" +
		"[profiles.md](profiles.md) says how they are asked for, granted and bounded. `go test ./supervisor/broker -args -update` writes this page.\n")
	kinds := map[grant.Kind]string{grant.None: "none", grant.Path: "paths", grant.Word: "names", grant.Endpoint: "places", grant.Address: "addresses"}
	for _, c := range Catalogue(Host{
		Stores: stores, Metrics: metric.NewStore(), Functions: host.NewFunctions(),
		Secrets: func(string) (secret.Source, bool) { return secret.Source{}, false },
	}) {
		spec, _ := grant.Find(c.Name)
		var phases []string
		for _, p := range c.Phases {
			phases = append(phases, string(p))
		}
		fmt.Fprintf(&b, "\n## `%s`\n\n%s\n\nTargets: %s. Costs: %s. Served while a plugin is %s.\n", c.Name, c.Text, kinds[spec.Kind], c.Cost, strings.Join(phases, " or "))
		if len(c.Methods) > 0 {
			b.WriteString("\n| call | |\n|---|---|\n")
		}
		for _, m := range c.Methods {
			fmt.Fprintf(&b, "| `%s` | %s |\n", m.Name, m.Text)
		}
	}
	page := filepath.Join("..", "..", "docs", "capabilities.md")
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil || string(have) != b.String() {
		t.Errorf("docs/capabilities.md is not what the catalogue says (%v): go test ./supervisor/broker -args -update", err)
	}
}
