package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// linked are the modules that the command line may link. What a package sets up
// before main every cordon run waits for: with containerd/cgroups alone, which
// brings protobuf, eBPF and D-Bus, that was as long as half a start.
var linked = []string{
	"github.com/cordonhq/cordon/", "golang.org/x/sys/", "github.com/BurntSushi/toml", "github.com/spf13/cobra", "github.com/spf13/pflag",
	"golang.org/x/mod/sumdb/", // the audit log's
}

func TestRunLinksLittle(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(out))
	if len(names) < 10 {
		t.Fatalf("go list names %d packages", len(names))
	}
	for _, name := range names {
		if !slices.ContainsFunc(linked, func(prefix string) bool {
			return strings.HasPrefix(name+"/", prefix) || strings.HasPrefix(name, prefix)
		}) {
			t.Errorf("cordon links %s", name)
		}
	}
}
