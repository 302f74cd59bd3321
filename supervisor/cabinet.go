package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// EvidenceRules bound what is kept of quarantines, all of them together.
type EvidenceRules struct {
	// MaxSize is in bytes, over all plugins; Keep is in directories of one
	// plugin; what is older than MaxAge goes too. Evidence of a quarantine that
	// was not released stays whatever its age; room for it is made first, and
	// where there is none it is cut. 0 is the default of each.
	MaxSize int64
	Keep    int
	MaxAge  time.Duration
	// Redact is what is taken out beside the values of the environment and the
	// shapes that are known: the first group of each match, or all of it.
	Redact []*regexp.Regexp
	// Core adds a core of the process that hit the wall, in what room is left. It
	// has whatever the plugin knew: nothing is redacted in it.
	Core bool
}

// The rules without a configuration.
const (
	evidenceMaxSize = 256 << 20
	evidenceKeep    = 16
	evidenceMaxAge  = 90 * 24 * time.Hour
	// evidenceLeast is what a quarantine may write however full the cabinet is:
	// the violation and the plan.
	evidenceLeast = 128 << 10
)

func (r EvidenceRules) completed() EvidenceRules {
	if r.MaxSize <= 0 {
		r.MaxSize = evidenceMaxSize
	}
	if r.Keep <= 0 {
		r.Keep = evidenceKeep
	}
	if r.MaxAge <= 0 {
		r.MaxAge = evidenceMaxAge
	}
	return r
}

// cabinet is all evidence: NAME/TIMESTAMP-ID below root, as carried away.
type cabinet struct {
	root  string
	clock Clock
	// held says whether a directory belongs to a quarantine that still holds.
	held func(dir string) bool

	mu    sync.Mutex
	rules EvidenceRules
	// kept is what was there when all was looked through, at looked, and what came
	// since, oldest first, without the names: to look through a thousand plugins'
	// evidence at each quarantine would keep a processor from what is to end then.
	kept   []file
	looked time.Time
}

// lookThrough is how long what others have done to the directories may stay unknown.
const lookThrough = time.Hour

// file is one directory of evidence.
type file struct {
	plugin, id string
	time       time.Time
	size       int64
	names      []string
}

func (c *cabinet) dirOf(f file) string { return filepath.Join(c.root, f.plugin, f.id) }

// setRules changes the rules for what comes.
func (c *cabinet) setRules(r EvidenceRules) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rules = r.completed()
}

func (c *cabinet) redactions() []*regexp.Regexp {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules.Redact
}

// cores says whether evidence has a core.
func (c *cabinet) cores() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules.Core
}

// idTime is the form of the time that an id begins with.
const idTime = "20060102T150405.000Z"

// list reads what is there, of one plugin or of all, oldest first. What is not
// of our making is left out.
func (c *cabinet) list(plugin string) ([]file, error) {
	plugins := []string{plugin}
	if plugin == "" {
		entries, err := os.ReadDir(c.root)
		if err != nil {
			return nil, fmt.Errorf("cannot list evidence: %w", err)
		}
		plugins = nil
		for _, e := range entries {
			plugins = append(plugins, e.Name())
		}
	}
	var out []file
	for _, name := range plugins {
		entries, err := os.ReadDir(filepath.Join(c.root, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return nil, fmt.Errorf("cannot list evidence: %w", err)
		}
		for _, e := range entries {
			if f, ok := c.look(name, e.Name()); ok {
				out = append(out, f)
			}
		}
	}
	slices.SortStableFunc(out, file.compare)
	return out, nil
}

// look reads one directory's time and size.
func (c *cabinet) look(plugin, id string) (file, bool) {
	stamp, _, _ := strings.Cut(id, "-")
	when, err := time.Parse(idTime, stamp)
	if err != nil {
		return file{}, false
	}
	f := file{plugin: plugin, id: id, time: when}
	entries, err := os.ReadDir(c.dirOf(f))
	if err != nil {
		return file{}, false
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			f.size += info.Size()
			f.names = append(f.names, e.Name())
		}
	}
	return f, true
}

// prune removes what the rules do not keep, oldest first, once the directory came
// is complete, if any. It returns how much room is left below the bound.
func (c *cabinet) prune(came string) (room int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	if err := c.know(came, now); err != nil {
		return 0, err
	}
	total, count := int64(0), map[string]int{}
	for _, f := range c.kept {
		total += f.size
		count[f.plugin]++
	}
	var errs []error
	c.kept = slices.DeleteFunc(c.kept, func(f file) bool {
		old := now.Sub(f.time) > c.rules.MaxAge
		if !old && count[f.plugin] <= c.rules.Keep && total+evidenceSize <= c.rules.MaxSize || c.held(c.dirOf(f)) {
			return false
		}
		if err := os.RemoveAll(c.dirOf(f)); err != nil {
			errs = append(errs, err)
			return false
		}
		total -= f.size
		count[f.plugin]--
		return true
	})
	return c.rules.MaxSize - total, errors.Join(errs...)
}

// know brings kept up to date; c.mu is held.
func (c *cabinet) know(came string, now time.Time) error {
	if c.looked.IsZero() || now.Sub(c.looked) >= lookThrough {
		all, err := c.list("")
		if err != nil {
			return err
		}
		for i := range all {
			all[i].names = nil
		}
		c.kept, c.looked = all, now
		return nil
	}
	f, ok := c.look(filepath.Base(filepath.Dir(came)), filepath.Base(came))
	if !ok {
		return nil
	}
	f.names = nil
	c.kept = slices.DeleteFunc(c.kept, func(k file) bool { return k.plugin == f.plugin && k.id == f.id })
	at, _ := slices.BinarySearchFunc(c.kept, f, file.compare)
	c.kept = slices.Insert(c.kept, at, f)
	return nil
}

// compare is by age.
func (f file) compare(other file) int { return f.time.Compare(other.time) }

// show reads one file of one directory; id empty is the newest.
func (c *cabinet) show(plugin, id, name string) (control.EvidenceContent, error) {
	all, err := c.list(plugin)
	if err != nil {
		return control.EvidenceContent{}, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if id != "" && all[i].id != id {
			continue
		}
		out := control.EvidenceContent{Evidence: c.describe(all[i])}
		if name == "" {
			name = "violation.json"
		}
		if !slices.Contains(all[i].names, name) {
			return out, fmt.Errorf("there is no file %q in it", violation.Escape(name, 64))
		}
		out.File = name
		out.Text, err = readEvidence(filepath.Join(c.dirOf(all[i]), name))
		return out, err
	}
	return control.EvidenceContent{}, errNoEvidence
}

var errNoEvidence = errors.New("there is no such evidence")

func (c *cabinet) describe(f file) control.Evidence {
	dir := c.dirOf(f)
	return control.Evidence{Plugin: f.plugin, ID: f.id, Time: f.time, Dir: dir, Size: f.size, Files: f.names, Held: c.held(dir)}
}

// readEvidence reads a file as text; what is no UTF-8 is replaced.
func readEvidence(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, evidenceFile))
	return strings.ToValidUTF8(string(data), "\ufffd"), err
}
