package run

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/strict"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/launch"
)

// hostFile is the daemon's configuration: its ceiling is the host's, so a run
// without the daemon stays below it as well.
const hostFile = "/etc/cordon/cordond.toml"

// cgroupRootEnv moves the group below which runs get theirs; tests have their
// own.
const cgroupRootEnv = "CORDON_CGROUP_ROOT"

// host is what a run and the daemon must agree on.
type host struct {
	profilesDir string
	ceiling     *profiles.Ceiling
	launch      launch.Config
}

// loadHost reads file; what it leaves out, and the whole if there is no such
// file, has the daemon's defaults. A file that cannot be read is an error: a
// ceiling is not to be had by half.
func loadHost(file string) (*host, error) {
	h := &host{
		profilesDir: "/etc/cordon/profiles", ceiling: profiles.DefaultCeiling(),
		launch: launch.Config{CgroupRoot: "cordon"}, // the launcher has defaults for the rest
	}
	data, err := profiles.ReadBounded(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("cannot read the host's ceiling: %w", err)
	default:
		if err := h.read(file, data); err != nil {
			return nil, err
		}
	}
	if root := os.Getenv(cgroupRootEnv); root != "" {
		h.launch.CgroupRoot = root
	}
	h.launch.Refuses = judgeOf(h.ceiling)
	h.launch.Form = setByHelper
	h.launch.Compile = seccomp.NewCache(safeCacheDir(), compileByHelper).Program
	return h, nil
}

// judgeOf gives what a ceiling says of where grants lead on this host. Its own
// links are followed when the first grant is asked for.
func judgeOf(ceiling *profiles.Ceiling) func(real string, access []string) string {
	followed := sync.OnceValue(func() *profiles.Ceiling { return ceiling.Followed(filepath.EvalSymlinks) })
	return func(real string, access []string) string { return followed().Refuses(real, access) }
}

func (h *host) read(file string, data []byte) error {
	from := struct {
		Daemon  daemonTable      `toml:"daemon"`
		Ceiling profiles.Ceiling `toml:"ceiling"`
	}{Ceiling: *h.ceiling}
	if err := strict.Decode(file, data, &from); err != nil {
		return err
	}
	if err := from.Ceiling.Validate(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	h.ceiling = &from.Ceiling
	from.Daemon.text("profiles_dir", &h.profilesDir)
	from.Daemon.text("cgroup_root", &h.launch.CgroupRoot)
	from.Daemon.text("runtime_dir", &h.launch.RuntimeDir)
	return errors.Join(from.Daemon.number("uid_base", &h.launch.UIDBase), from.Daemon.number("uid_count", &h.launch.UIDCount))
}

// daemonTable is [daemon] as written. The daemon says what is wrong with it; a
// run reads the few keys that concern it.
type daemonTable map[string]any

// ParseTOML takes the table as it is.
func (t *daemonTable) ParseTOML(v any) error {
	m, ok := v.(map[string]any)
	if !ok {
		return errors.New("a table")
	}
	*t = m
	return nil
}

func (t daemonTable) text(key string, dst *string) {
	if s, ok := t[key].(string); ok {
		*dst = s
	}
}

func (t daemonTable) number(key string, dst *uint32) error {
	n, ok := t[key].(int64)
	switch {
	case !ok:
		return nil
	case n < 0 || n > math.MaxUint32:
		return fmt.Errorf("daemon.%s: expected a number from 0 to %d, got %d", key, uint32(math.MaxUint32), n)
	}
	*dst = uint32(n)
	return nil
}

// HostConfig is what a launcher has to know of this host; cordon doctor asks
// with it.
func HostConfig() (launch.Config, error) {
	h, err := loadHost(hostFile)
	if err != nil {
		return launch.Config{}, err
	}
	return h.launch, nil
}

// HostProfiles is where this host's profiles are, and its ceiling.
func HostProfiles() (dir string, ceiling *profiles.Ceiling, err error) {
	h, err := loadHost(hostFile)
	if err != nil {
		return "", nil, err
	}
	return h.profilesDir, h.ceiling, nil
}
