package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/namespaces"
)

// maxUserNS bounds the user namespaces that are kept; each is a descriptor.
const maxUserNS = 1024

// userNamespaces keeps one user namespace for each uid of a keeper's plugins.
// It holds nothing but a map of ids, so the next plugin of that uid has it
// again.
type userNamespaces struct {
	mu   sync.Mutex
	held map[string]*os.File // by maps
}

// get gives the namespace in which the plugin's ids mean something: uid 0 is not
// mapped. With kept false the caller closes it.
func (u *userNamespaces) get(ctx context.Context, k *namespaces.Keeper, uidMap, gidMap string) (ns *os.File, kept bool, err error) {
	key := uidMap + gidMap
	u.mu.Lock()
	ns = u.held[key]
	u.mu.Unlock()
	if ns != nil {
		return ns, true, nil
	}
	if ns, err = k.UserNS(ctx, uidMap, gidMap); err != nil {
		return nil, false, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.held == nil {
		u.held = map[string]*os.File{}
	}
	if u.held[key] != nil || len(u.held) >= maxUserNS {
		return ns, false, nil
	}
	u.held[key] = ns
	return ns, true, nil
}

func (u *userNamespaces) close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var errs []error
	for key, ns := range u.held {
		errs = append(errs, ns.Close())
		delete(u.held, key)
	}
	return errors.Join(errs...)
}

// pool makes network namespaces and groups ahead of starts, while none is under
// way. What is taken is the taker's, and never comes back.
type pool struct {
	tree *cgroups.Tree
	size int // network namespaces, and groups of one kind

	mu       sync.Mutex
	changed  *sync.Cond // filling, inFlight or closed
	nets     []*os.File
	kinds    []*kind // the last used first, at most maxKinds
	inFlight int
	made     int // groups ever, for their names
	closed   bool
	broken   error // why what was tried last was not made; starts make their own
	closing  chan struct{}
	done     chan struct{}

	networks *networks
	tell     func(error) // of failing, and with nil of its end; may be nil
	after    func(time.Duration) <-chan time.Time
}

// maxKinds bounds the sets of limits that groups are made ahead for.
const maxKinds = 8

// kind is the groups of one set of limits.
type kind struct {
	limits cgroups.Limits
	groups []*cgroups.Group
}

// newPool fills a pool in the background until close. A size of 0 is no pool.
func newPool(tree *cgroups.Tree, networks *networks, size int, tell func(error)) *pool {
	if size <= 0 {
		return nil
	}
	p := &pool{
		tree: tree, size: size, closing: make(chan struct{}), done: make(chan struct{}),
		networks: networks, tell: tell, after: time.After,
	}
	p.changed = newCond(p)
	go p.fill()
	return p
}

func newCond(p *pool) *sync.Cond { return sync.NewCond(&p.mu) }

// begin says that a start is under way, and end that it is over: until then
// nothing is made, which would only take the start's time.
func (p *pool) begin() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight++
}

func (p *pool) end() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight--
	p.changed.Broadcast()
}

// net takes a network namespace, nil if there is none. The caller closes it.
func (p *pool) net() *os.File {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.nets) == 0 {
		return nil
	}
	ns := p.nets[len(p.nets)-1]
	p.nets = p.nets[:len(p.nets)-1]
	return ns
}

// group takes a group with these limits, nil if there is none; some will be made
// for the next who asks. It is the caller's.
func (p *pool) group(limits cgroups.Limits) *cgroups.Group {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.use(limits)
	if len(k.groups) == 0 {
		return nil
	}
	g := k.groups[len(k.groups)-1]
	k.groups = k.groups[:len(k.groups)-1]
	return g
}

// use finds or makes the kind of these limits and puts it first.
func (p *pool) use(limits cgroups.Limits) *kind {
	i := slices.IndexFunc(p.kinds, func(k *kind) bool { return equalLimits(k.limits, limits) })
	k := &kind{limits: limits}
	if i >= 0 {
		k = p.kinds[i]
		p.kinds = slices.Delete(p.kinds, i, i+1)
	}
	p.kinds = slices.Insert(p.kinds, 0, k)
	return k
}

// equalLimits compares what is asked for, not where it stands; every field, or a
// limit that is added later would be lost.
func equalLimits(a, b cgroups.Limits) bool { return reflect.DeepEqual(a, b) }

// fill makes what is missing until close. What fails is told once and tried
// again, later each time: starts make their own meanwhile.
func (p *pool) fill() {
	defer close(p.done)
	pause := firstPause
	for {
		job := p.next()
		if job == nil {
			return
		}
		err := job()
		p.went(err)
		if err == nil {
			pause = firstPause
			continue
		}
		select {
		case <-p.after(pause):
			pause = min(2*pause, lastPause)
		case <-p.closing:
			return
		}
	}
}

// Pauses before what failed is tried again.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// went tells of the first failure of a row, and of its end.
func (p *pool) went(err error) {
	p.mu.Lock()
	before := p.broken
	p.broken = err
	p.changed.Broadcast()
	p.mu.Unlock()
	if p.tell != nil && (before == nil) != (err == nil) {
		p.tell(err)
	}
}

// next waits for something to make, one thing at a time; nil at the end.
func (p *pool) next() func() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.closed {
			return nil
		}
		if p.inFlight == 0 {
			if job := p.missing(); job != nil {
				return job
			}
		}
		p.changed.Wait()
	}
}

// missing is what to make, or to take away, next; nil if nothing.
func (p *pool) missing() func() error {
	if len(p.kinds) > maxKinds {
		last := p.kinds[len(p.kinds)-1]
		p.kinds = p.kinds[:len(p.kinds)-1]
		return func() error { return removeAll(last.groups) }
	}
	if len(p.kinds) == 0 {
		return nil // nobody has started anything yet
	}
	if len(p.nets) < p.size {
		return p.makeNet
	}
	for _, k := range p.kinds {
		if len(k.groups) < p.size {
			p.made++
			name := fmt.Sprintf("ready-%d-%d", os.Getpid(), p.made)
			return func() error { return p.makeGroup(k, name) }
		}
	}
	return nil
}

func (p *pool) makeNet() error {
	ns, err := p.networks.make()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ns.Close()
	}
	p.nets = append(p.nets, ns)
	p.changed.Broadcast()
	return nil
}

func (p *pool) makeGroup(k *kind, name string) error {
	g, err := p.tree.New(name, k.limits)
	if err != nil {
		return err
	}
	p.mu.Lock()
	kept := !p.closed && slices.Contains(p.kinds, k)
	if kept {
		k.groups = append(k.groups, g)
		p.changed.Broadcast()
	}
	p.mu.Unlock()
	if !kept {
		return g.Remove()
	}
	return nil
}

func removeAll(groups []*cgroups.Group) error {
	var errs []error
	for _, g := range groups {
		errs = append(errs, g.Remove())
	}
	return errors.Join(errs...)
}

// close ends the filling and takes away what is left. Starts that are still
// under way find nothing ready.
func (p *pool) close() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	p.closed = true
	close(p.closing)
	nets, kinds := p.nets, p.kinds
	p.nets, p.kinds = nil, nil
	p.changed.Broadcast()
	p.mu.Unlock()
	<-p.done
	var errs []error
	for _, ns := range nets {
		errs = append(errs, ns.Close())
	}
	for _, k := range kinds {
		errs = append(errs, removeAll(k.groups))
	}
	return errors.Join(errs...)
}

// AwaitReady waits until everything that shall be ready is (see Config.Ready),
// and says if the last try failed or ctx has ended; without a pool, or before
// the first start, it returns at once.
func (l *Launcher) AwaitReady(ctx context.Context) error {
	p := l.ready
	if p == nil {
		return nil
	}
	stop := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changed.Broadcast()
	})
	defer stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.broken == nil && !p.closed && p.lacks() {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.changed.Wait()
	}
	return p.broken
}

// lacks says whether something is still to be made.
func (p *pool) lacks() bool {
	return len(p.kinds) > 0 && (len(p.nets) < p.size || slices.ContainsFunc(p.kinds, func(k *kind) bool { return len(k.groups) < p.size }))
}
