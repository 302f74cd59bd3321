package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cordonhq/cordon/supervisor/control"
)

// ours are the attacks of integration/testdata/abuse.
var ours = []string{"fork", "threads", "anonymous", "tmpfs", "cache", "kernel", "cpu", "disk", "inodes", "descriptors"}

// stressNG is Debian's.
const stressNG = "/usr/bin/stress-ng"

// stress are attacks of stress-ng's, which nobody here has written.
var stress = map[string][]string{
	"stress-fork":    {"--fork", "8", "--fork-max", "64"},
	"stress-pthread": {"--pthread", "2", "--pthread-max", "256"},
	"stress-vm":      {"--vm", "2", "--vm-bytes", "256m", "--vm-keep"},
	"stress-pipe":    {"--pipe", "4", "--pipe-size", "1m"},
	"stress-cpu":     {"--cpu", "4"},
	"stress-hdd":     {"--hdd", "2", "--hdd-bytes", "64m"},
	"stress-dentry":  {"--dentry", "2", "--dentries", "4096"},
	"stress-open":    {"--open", "2"},
}

// attacks are the names of all, ours first.
func attacks() []string { return append(slices.Clone(ours), slices.Sorted(maps.Keys(stress))...) }

// wanted are the attacks to measure.
func (b *bench) wanted() []string {
	if b.only != nil {
		return b.only
	}
	return attacks()
}

// known refuses an attack that there is not.
func (b *bench) known() error {
	for _, name := range b.only {
		if !slices.Contains(attacks(), name) {
			return fmt.Errorf("cannot attack by %q: want %s", name, strings.Join(attacks(), ", "))
		}
	}
	return nil
}

// installStress installs a plugin for each attack of stress-ng's.
func (b *bench) installStress(ctx context.Context) error {
	if _, err := os.Stat(stressNG); err != nil {
		return fmt.Errorf("cannot attack with stress-ng: %w (.ci/setup test installs it)", err)
	}
	file := b.dir + "/profiles/stress.toml"
	if err := os.WriteFile(file, fmt.Appendf(nil, profile, "shell", "log"), 0o600); err != nil {
		return err
	}
	for name, args := range stress {
		exec, err := json.Marshal(append([]string{stressNG, "--temp-path", "/data", "--timeout", "0"}, args...))
		if err != nil {
			return err
		}
		bundle := b.dir + "/" + name
		manifest := fmt.Sprintf("schema = 1\n[plugin]\nname = %q\nversion = \"1.0.0\"\nexec = %s\nprotocol = \"jsonrpc\"\n", name, exec)
		if err := errors.Join(os.Mkdir(bundle, 0o755), os.WriteFile(bundle+"/plugin.toml", []byte(manifest), 0o600)); err != nil {
			return err
		}
		if _, err := b.client.Install(ctx, control.InstallParams{Dir: bundle, Profile: file}); err != nil {
			return err
		}
	}
	return nil
}

// awaitStress waits until a worker of stress-ng's is at work: it is called
// stress-ng-WHAT. One that cannot get what it wants may be between two starts.
func (b *bench) awaitStress(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !workers() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("cannot see stress-ng at work: %w", ctx.Err())
		}
	}
	return nil
}

// workers says whether the host runs one.
func workers() bool {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	return slices.ContainsFunc(names, func(file string) bool {
		text, _ := os.ReadFile(file)
		return strings.HasPrefix(string(text), "stress-ng-")
	})
}
