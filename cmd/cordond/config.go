package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/strict"
	"github.com/cordonhq/cordon/supervisor"
	"github.com/cordonhq/cordon/supervisor/broker/secret"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/launch"
)

const defaultConfig = "/etc/cordon/cordond.toml"

// config is cordond.toml.
type config struct {
	Daemon   daemonTable      `toml:"daemon"`
	Ceiling  profiles.Ceiling `toml:"ceiling"`
	Evidence evidenceTable    `toml:"evidence"`
	// Continuity is what becomes of plugins when the daemon goes.
	Continuity continuityTable `toml:"continuity"`
	Secret     []secretTable   `toml:"secret"`
	Role       []roleTable     `toml:"role"`
	Flag       []flagTable     `toml:"flag"`
}

// flagTable is one [[flag]]: a feature flag, and what it gates.
type flagTable struct {
	Name         string   `toml:"name"`
	On           bool     `toml:"on"`
	Plugins      []string `toml:"plugins"`
	Capabilities []string `toml:"capabilities"`
}

// flags are the feature flags.
func (c config) flags() (out []supervisor.Flag, err error) {
	for _, t := range c.Flag {
		out = append(out, supervisor.Flag(t))
	}
	return out, supervisor.CheckFlags(out)
}

// roleTable is one [[role]]: who may do what, with which plugins.
type roleTable struct {
	Role string `toml:"role" oneof:"observe call admin"`
	// Users and Groups are names of passwd(5) and group(5), or numbers.
	Users   []string `toml:"users"`
	Groups  []string `toml:"groups"`
	Plugins []string `toml:"plugins"`
}

// roles are the rules of the control socket.
func (c config) roles() (rules []control.Rule, err error) {
	for i, t := range c.Role {
		r := control.Rule{Role: t.Role, Plugins: t.Plugins}
		var users, groups error
		r.UIDs, users = numbers("/etc/passwd", t.Users)
		r.GIDs, groups = numbers("/etc/group", t.Groups)
		if err := errors.Join(users, groups); err != nil {
			return nil, fmt.Errorf("role[%d]: %w", i, err)
		}
		if err := r.Check(); err != nil {
			return nil, fmt.Errorf("role[%d]: %w", i, err)
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// numbers finds the ids of names in a file like /etc/passwd or /etc/group.
func numbers(file string, names []string) (ids []uint32, err error) {
	for _, name := range names {
		if id, err := strconv.ParseUint(name, 10, 32); err == nil && id <= maxUID {
			ids = append(ids, uint32(id))
			continue
		}
		id := control.LookupGroup(file, name) // both have the number in the third field
		if id < 0 {
			return nil, fmt.Errorf("there is no %.64q in %s", name, file)
		}
		ids = append(ids, uint32(id))
	}
	return ids, nil
}

// secretTable is one [[secret]]: its name, and exactly one place where it is.
type secretTable struct {
	Name       string   `toml:"name"`
	File       string   `toml:"file"`
	Credential string   `toml:"credential"`
	Command    []string `toml:"command"`
}

func (t secretTable) source() secret.Source {
	return secret.Source{File: t.File, Credential: t.Credential, Command: t.Command}
}

// secrets are the sources by name.
func (c config) secrets() (map[string]secret.Source, error) {
	out := map[string]secret.Source{}
	spec, _ := grant.Find("secret.read")
	for i, t := range c.Secret {
		err := spec.Check(t.Name)
		if err == nil && strings.Contains(t.Name, "*") {
			err = errors.New("expected a name without '*'")
		}
		if err == nil {
			err = t.source().Check()
		}
		if _, twice := out[t.Name]; err == nil && twice {
			err = fmt.Errorf("there are two secrets %q", t.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("secret[%d]: %w", i, err)
		}
		out[t.Name] = t.source()
	}
	return out, nil
}

// continuityTable is [continuity].
type continuityTable struct {
	// Grace is how long plugins run on, with every wall up, when the daemon was
	// killed, until another goes on with them; then they end. 0s ends them with
	// the daemon.
	Grace strict.Duration `toml:"grace"`
}

// maxGrace bounds how long plugins may run that nobody watches.
const maxGrace = 10 * time.Minute

func (t continuityTable) check() error {
	if t.Grace < 0 || time.Duration(t.Grace) > maxGrace {
		return fmt.Errorf("continuity.grace: expected from 0s to %v, got %v", maxGrace, time.Duration(t.Grace))
	}
	return nil
}

// keeperSocket is where a successor finds the keeper.
func (t daemonTable) keeperSocket() string { return filepath.Join(t.RuntimeDir, "keeper.sock") }

// evidenceTable is [evidence]: what is kept of quarantines.
type evidenceTable struct {
	// MaxSize bounds all of it together, Keep the quarantines of one plugin,
	// MaxAge how long it stays once the plugin was released.
	MaxSize strict.Size     `toml:"max_size"`
	Keep    uint32          `toml:"keep"`
	MaxAge  strict.Duration `toml:"max_age"`
	// Redact are regular expressions (RE2) of what is taken out, besides the
	// values of the environment and the known shapes of secrets: the first group
	// of each match, or all of it.
	Redact []string `toml:"redact"`
	// Core adds a core(5) of the process that hit the wall, for a debugger, within
	// the 8 MiB of one quarantine. Nothing is taken out of it: it has every secret
	// that the plugin had in its memory.
	Core bool `toml:"core"`
}

// The least room for evidence: one quarantine's, whole.
const minEvidence = 8 << 20

func (e evidenceTable) rules() (supervisor.EvidenceRules, error) {
	patterns, err := supervisor.Patterns(e.Redact)
	if err != nil {
		return supervisor.EvidenceRules{}, fmt.Errorf("evidence.redact: %w", err)
	}
	if e.MaxSize < minEvidence || e.Keep < 1 || e.Keep > 10000 || e.MaxAge <= 0 {
		return supervisor.EvidenceRules{}, fmt.Errorf("evidence: expected max_size of at least 8M, keep from 1 to 10000 and max_age above 0, got %d, %d and %v", e.MaxSize, e.Keep, time.Duration(e.MaxAge))
	}
	return supervisor.EvidenceRules{MaxSize: int64(e.MaxSize), Keep: int(e.Keep), MaxAge: time.Duration(e.MaxAge), Redact: patterns, Core: e.Core}, nil
}

// daemonTable is [daemon]. Every path is absolute.
type daemonTable struct {
	// StateDir holds what must not be forgotten; RuntimeDir the socket.
	StateDir    string `toml:"state_dir"`
	RuntimeDir  string `toml:"runtime_dir"`
	ProfilesDir string `toml:"profiles_dir"`
	// Socket defaults to cordon.sock in RuntimeDir.
	Socket string `toml:"socket"`
	// CgroupRoot is a path below each hierarchy's root; it starts with no '/'.
	CgroupRoot string `toml:"cgroup_root"`
	// UIDBase and UIDCount are the range of the plugins, two for each.
	UIDBase  uint32 `toml:"uid_base"`
	UIDCount uint32 `toml:"uid_count"`
	// LogFormat is text, json, or empty for text on a terminal only.
	LogFormat string `toml:"log_format" oneof:"text json"`
}

// changed are the keys that differ in what was read anew.
func (t daemonTable) changed(now daemonTable) []string {
	var out []string
	was, is := reflect.ValueOf(t), reflect.ValueOf(now)
	for i := range was.NumField() {
		if !was.Field(i).Equal(is.Field(i)) {
			out = append(out, "daemon."+was.Type().Field(i).Tag.Get("toml"))
		}
	}
	return out
}

func defaults() config {
	return config{
		Daemon: daemonTable{
			StateDir: "/var/lib/cordon", RuntimeDir: filepath.Dir(control.DefaultSocket), ProfilesDir: "/etc/cordon/profiles",
			CgroupRoot: "cordon", UIDBase: launch.DefaultUIDBase, UIDCount: launch.DefaultUIDCount,
		},
		Ceiling:    *profiles.DefaultCeiling(),
		Evidence:   evidenceTable{MaxSize: 256 << 20, Keep: 16, MaxAge: strict.Duration(90 * 24 * time.Hour)},
		Continuity: continuityTable{Grace: strict.Duration(30 * time.Second)},
	}
}

// loadConfig reads file. A file that was not asked for by name may be absent:
// then the defaults hold and found is false.
func loadConfig(file string, asked bool) (c config, found bool, err error) {
	c = defaults()
	data, err := profiles.ReadBounded(file)
	switch {
	case errors.Is(err, os.ErrNotExist) && !asked:
		return c.completed(), false, nil
	case err != nil:
		return c, false, fmt.Errorf("cannot read the configuration: %w", err)
	}
	if err := strict.Decode(file, data, &c); err != nil {
		return c, true, err
	}
	c = c.completed()
	if real, err := filepath.Abs(file); err == nil {
		c.deny(real)
	}
	_, wrong := c.Evidence.rules()
	_, wrongSecrets := c.secrets()
	_, wrongRoles := c.roles()
	_, wrongFlags := c.flags()
	if err := errors.Join(c.check(), c.Ceiling.Validate(), c.Continuity.check(), wrong, wrongSecrets, wrongRoles, wrongFlags); err != nil {
		return c, true, fmt.Errorf("cannot use %s: %w", file, err)
	}
	return c, true, nil
}

// completed fills what follows from other keys: the socket's name, and that no
// plugin is ever granted what makes the daemon trust its own state, wherever
// that lies and whatever deny_paths says.
func (c config) completed() config {
	if c.Daemon.Socket == "" {
		c.Daemon.Socket = filepath.Join(c.Daemon.RuntimeDir, filepath.Base(control.DefaultSocket))
	}
	c.Ceiling.DenyPaths = slices.Clone(c.Ceiling.DenyPaths)
	for _, own := range []string{c.Daemon.StateDir, c.Daemon.RuntimeDir, c.Daemon.ProfilesDir, c.Daemon.Socket} {
		c.deny(own)
	}
	return c
}

// deny adds a path to what is never granted; check says what is wrong with one
// that is none.
func (c *config) deny(own string) {
	if filepath.IsAbs(own) && filepath.Clean(own) == own && !slices.Contains(c.Ceiling.DenyPaths, own) {
		c.Ceiling.DenyPaths = append(c.Ceiling.DenyPaths, own)
	}
}

// maxUID is the largest uid; the one above means "no change" to the kernel.
const maxUID = 1<<32 - 2

// maxSocketPath is sun_path without its final zero; unix(7).
const maxSocketPath = 107

func (c config) check() error {
	d := c.Daemon
	var errs []error
	for _, p := range []struct{ key, value string }{
		{"state_dir", d.StateDir}, {"runtime_dir", d.RuntimeDir}, {"profiles_dir", d.ProfilesDir}, {"socket", d.Socket},
	} {
		if !filepath.IsAbs(p.value) || filepath.Clean(p.value) != p.value || p.value == "/" {
			errs = append(errs, fmt.Errorf("daemon.%s: expected an absolute path without '..' or a final slash, got %q", p.key, p.value))
		}
	}
	if n := len(d.keeperSocket()); n > maxSocketPath && len(d.Socket) <= maxSocketPath {
		errs = append(errs, fmt.Errorf("daemon.runtime_dir: expected at most %d bytes, got %d", maxSocketPath-len("/keeper.sock"), len(d.RuntimeDir)))
	}
	if len(d.Socket) > maxSocketPath {
		errs = append(errs, fmt.Errorf("daemon.socket: expected at most %d bytes, got %d", maxSocketPath, len(d.Socket)))
	}
	if !filepath.IsLocal(d.CgroupRoot) || filepath.Clean(d.CgroupRoot) != d.CgroupRoot || d.CgroupRoot == "." {
		errs = append(errs, fmt.Errorf("daemon.cgroup_root: expected a path below each hierarchy's root, such as %q, got %q", "cordon", d.CgroupRoot))
	}
	if d.UIDBase < 1000 || d.UIDCount < 8 || uint64(d.UIDBase)+uint64(d.UIDCount) > maxUID {
		errs = append(errs, fmt.Errorf("daemon.uid_base, daemon.uid_count: expected at least 8 uids, none below 1000, got %d from %d", d.UIDCount, d.UIDBase))
	}
	return errors.Join(errs...)
}
