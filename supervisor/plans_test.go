package supervisor

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
)

// TestPlanIsKnownUntilItsProfileChanges: a plan is shared while nothing of what
// it follows from has changed, and never a moment longer.
func TestPlanIsKnownUntilItsProfileChanges(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("p.toml", "extends = [\"./base.toml\", \"static\"]\n")
	write("base.toml", "[resources]\npids.max = 7\n")
	b, err := NewBundles(filepath.Join(dir, "bundles"), dir, profiles.DefaultCeiling())
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Parse("plugin.toml", []byte("schema = 1\n[plugin]\nname = \"tiny\"\nversion = \"1.0.0\"\nexec = [\"/bin/true\"]\nprotocol = \"mcp\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	bundle := &Bundle{Digest: "sha256:1", Manifest: m}
	resolve := func(bundle *Bundle, name string) *plan.Plan {
		t.Helper()
		pl, err := b.Resolve(bundle, name)
		if err != nil {
			t.Fatal(err)
		}
		return pl
	}
	last := resolve(bundle, "p")
	if resolve(bundle, "p") != last {
		t.Error("the same was resolved again")
	}
	if other := *bundle; other.Digest != "" {
		other.Digest = "sha256:2"
		if resolve(&other, "p") == last {
			t.Error("another bundle got its plan")
		}
	}
	changed := func(what string) {
		t.Helper()
		next := resolve(bundle, "p")
		if next == last {
			t.Errorf("%s: the plan stayed", what)
		}
		last = next
	}
	write("base.toml", "[resources]\npids.max = 8\n")
	changed("a file that it extends says something else")
	write("p.toml", "extends = [\"./base.toml\", \"static\"]\ndescription = \"x\"\n")
	changed("its own file says something else")
	write("static.toml", "extends = [\"builtin:static\"]\n")
	changed("a file stands before a built-in profile")
	b.SetCeiling(profiles.DefaultCeiling())
	changed("another ceiling")
	if err := os.Remove(filepath.Join(dir, "base.toml")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Resolve(bundle, "p"); err == nil {
		t.Error("a file that is gone still counts")
	}
	if built := resolve(bundle, "static"); built == resolve(bundle, "builtin:static") {
		t.Error("two profiles of one name have one plan")
	}
}
