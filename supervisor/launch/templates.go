package launch

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"sync"

	"github.com/cordonhq/cordon/namespaces"
)

// templates keeps prepared mount namespaces: what all starts of a plan have
// alike, and none can write. A start enters a copy (namespaces.Part).
type templates struct {
	max int // 0: none is kept, and none made

	mu   sync.Mutex
	held map[string]*template
	uses uint64 // counts, for what was used last
}

// template is one of them. Its ns is closed when nobody holds it.
type template struct {
	ns *os.File
	// mapped is, for each of its trees in the order of their steps, whether the
	// mount has the map of ids that was asked for.
	mapped  []bool
	holders int // the cache is one
	used    uint64
}

// find gives the template of that key, nil if there is none. Release it.
func (c *templates) find(key string) *template {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.held[key]
	if t != nil {
		c.uses++
		t.used = c.uses
		t.holders++
	}
	return t
}

// keep puts a new one in, and the one longest unused out. The caller still
// holds it.
func (c *templates) keep(key string, t *template) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[key] != nil { // of a start beside this one
		return nil
	}
	if c.held == nil {
		c.held = map[string]*template{}
	}
	c.uses++
	t.used = c.uses
	t.holders++
	c.held[key] = t
	if len(c.held) <= c.max {
		return nil
	}
	oldest := key
	for k, other := range c.held {
		if other.used < c.held[oldest].used {
			oldest = k
		}
	}
	return c.drop(oldest)
}

// drop takes one out; the lock is held.
func (c *templates) drop(key string) error {
	t := c.held[key]
	delete(c.held, key)
	return t.release()
}

// release is under the lock of the cache.
func (t *template) release() error {
	if t.holders--; t.holders > 0 {
		return nil
	}
	return t.ns.Close()
}

func (c *templates) letGo(t *template) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return t.release()
}

func (c *templates) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for key := range c.held {
		errs = append(errs, c.drop(key))
	}
	return errors.Join(errs...)
}

// prepared finds or makes what the steps of a template make. What it shows is
// told by the mount, device and inode of every source, so that another tree at
// the same path is another template.
func (s *start) prepared(ctx context.Context, steps []namespaces.Step) (*template, error) {
	key := s.templateKey(steps)
	t := s.l.templates.find(key)
	if t == nil {
		var err error
		if t, err = s.prepare(ctx, steps); err != nil {
			return nil, err
		}
		if err = s.l.templates.keep(key, t); err != nil {
			return nil, errors.Join(err, s.l.templates.letGo(t))
		}
	}
	s.back.add(func() error { return s.l.templates.letGo(t) })
	return t, nil
}

// prepare makes a template, held by the caller alone.
func (s *start) prepare(ctx context.Context, steps []namespaces.Step) (*template, error) {
	t := &template{holders: 1}
	files := make([]*os.File, 0, len(s.opened))
	var back undo
	defer func() { _ = back.run() }() // closes descriptors that the namespace has now
	steps = slices.Clone(steps)
	for i := range steps {
		if steps[i].Op != namespaces.OpAttach {
			continue
		}
		tree, err := s.tree(ctx, steps[i].File)
		if err != nil {
			return nil, err
		}
		back.add(tree.File.Close)
		t.mapped = append(t.mapped, tree.Mapped)
		files = append(files, tree.File)
		steps[i].File = len(files) - 1
	}
	ns, err := s.keeper.Template(ctx, namespaces.Launch{Steps: steps, Files: files, Describe: func() []namespaces.Step {
		steps, _ := namespaces.Part(s.described())
		return steps
	}})
	t.ns = ns
	return t, err
}

// templateKey is everything that makes one template differ from another.
func (s *start) templateKey(steps []namespaces.Step) string {
	key := make([]byte, 0, 4096)
	text := func(t string) {
		key = binary.AppendUvarint(key, uint64(len(t)))
		key = append(key, t...)
	}
	numbers := func(list ...uint64) {
		for _, n := range list {
			key = binary.LittleEndian.AppendUint64(key, n)
		}
	}
	for _, step := range steps {
		numbers(uint64(step.Op), step.A, step.B, step.C)
		text(step.S)
		text(step.T)
		text(string(step.Bytes))
		if step.Op != namespaces.OpAttach {
			continue
		}
		o := s.opened[step.File]
		attributes, propagation := namespaces.Restriction(o.mount)
		numbers(o.ID.Mount, o.ID.Inode, uint64(o.ID.Major)<<32|uint64(o.ID.Minor), attributes, propagation)
	}
	return string(key)
}
