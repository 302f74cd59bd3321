package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// Continuity is for a launcher whose plugins shall outlive it.
type Continuity struct {
	// Grace is how long the keeper keeps the plugins when this process goes; 0
	// ends them at once.
	Grace time.Duration
	// Socket is where a successor finds the keeper, in a directory of the
	// daemon's own.
	Socket string
}

// Keep is what goes to a successor with one plugin.
type Keep struct {
	Book *Book
	// Files are our ends of what leads to the plugin, in an order that the caller
	// knows. The caller keeps and closes its own.
	Files []*os.File
}

// Left is a plugin that an earlier daemon left running. Adopt it or Discard it.
type Left struct {
	// Name is the plugin's; empty if that is not known.
	Name string
	// Files are those of Keep; they belong to whoever adopts.
	Files []*os.File
	Book  *Book // nil if there is none
	// Frozen says that it was contained, and Hit by what; nil if that was not
	// written down.
	Frozen bool
	Hit    *violation.Violation
	// Err says why it cannot be adopted.
	Err error

	l      *Launcher
	child  *namespaces.Child
	lease  *os.File
	claim  *os.File
	launch launched
}

// heldFirst is what every launch has held: the uid's lock and the group's claim.
const heldFirst = 2

// takeOver finds what an earlier daemon left with its keeper.
func (l *Launcher) takeOver() error {
	if l.cfg.Continuity.Socket == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(l.cfg.Continuity.Socket), 0o750); err != nil {
		return fmt.Errorf("cannot make the runtime directory: %w", err)
	}
	keeper, kept, err := namespaces.TakeOver(l.cfg.Continuity.Socket)
	if errors.Is(err, namespaces.ErrNoKeeper) {
		return nil
	}
	if errors.Is(err, namespaces.ErrOtherKeeper) { // it has ended, and what it kept is started anew
		l.tookOver = true
		return nil
	}
	if err != nil {
		return err
	}
	l.keeper, l.tookOver = keeper, true
	for _, k := range kept {
		l.left = append(l.left, l.leftOf(k))
	}
	return keeper.KeepFor(l.cfg.Continuity.Grace, "")
}

// leftOf reads what is known of one.
func (l *Launcher) leftOf(k *namespaces.Kept) *Left {
	left := &Left{l: l, child: k.Child}
	if len(k.Held) < heldFirst {
		for _, f := range k.Held {
			_ = f.Close()
		}
		left.Err = errors.New("its locks are not among what was held")
		return left
	}
	left.lease, left.claim = k.Held[0], k.Held[1]
	if len(k.Held) == heldFirst {
		left.Err = errors.New("it was not to outlive its daemon")
		return left
	}
	left.Files = k.Held[heldFirst+1:]
	book, err := openBook(k.Held[heldFirst])
	if err != nil {
		left.Err = err
		return left
	}
	left.Book = book
	if err := book.read(bookLaunch, bookSession-bookLaunch, &left.launch); err != nil {
		left.Err = err
		return left
	}
	left.Name, left.child.Started = left.launch.Name, left.launch.Started
	var hit violation.Violation
	if book.read(bookHit, bookSize-bookHit, &hit) == nil {
		left.Hit = &hit
	}
	return left
}

// Left are the plugins that an earlier daemon left; each is to be adopted or
// discarded, once.
func (l *Launcher) Left() []*Left { return l.left }

// TookOver says that an earlier daemon's keeper was found: it went without a stop.
func (l *Launcher) TookOver() bool { return l.tookOver }

// PID is of its first process.
func (k *Left) PID() int { return k.child.PID }

// Started is when it was launched.
func (k *Left) Started() time.Time { return k.child.Started }

// UID is the host uid that it was launched as.
func (k *Left) UID() uint32 { return k.launch.UID }

// Data is the host's directory that is its /data.
func (k *Left) Data() string { return k.launch.Data }

// Keeps says whether plugins outlive this process.
func (l *Launcher) Keeps() bool { return l.cfg.Continuity.Grace > 0 }

// Adopt goes on with a plugin as if it had been started by r, of which Plan,
// OnViolation, OnPressure and Past matter, and Network, which is called again: the
// plan must be the one that it was started by. The caller has taken Files. On an
// error the plugin has been discarded.
func (l *Launcher) Adopt(k *Left, r Request) (_ *Process, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("cannot adopt process %d: %w", k.child.PID, err), k.end())
		}
	}()
	if k.Err != nil {
		return nil, k.Err
	}
	at := k.launch
	r.Name, r.Bundle, r.Data, r.UID = at.Name, at.Bundle, at.Data, at.UID
	r.Keep = &Keep{Book: k.Book}
	s := &start{l: l, r: r, keeper: l.keeper, view: at.View, host: at.Host, doors: at.Doors, runBy: at.RunBy}
	if err := s.filter(context.Background()); err != nil {
		return nil, err
	}
	if s.lease, err = takeLease(k.lease, l.cfg, at.UID); err != nil {
		return nil, err
	}
	if s.group, err = l.tree.Adopt(at.Group, k.claim); err != nil {
		return nil, err
	}
	k.claim = nil // the group's
	give := func(err error) error { return errors.Join(err, s.group.Abandon()) }
	if k.Frozen, err = s.group.Frozen(); err != nil {
		return nil, give(err)
	}
	p, err := s.process()
	if err != nil {
		return nil, give(err)
	}
	if r.Network != nil {
		if err := r.Network(k.child.PID); err != nil {
			return nil, give(err)
		}
	}
	k.lease = nil // the process's
	if err := p.adopt(k.child); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), killTime)
		defer cancel()
		return nil, errors.Join(err, p.group.Kill(ctx), p.group.Remove(), p.lease.release())
	}
	return p, nil
}

// takeLease proves that a descriptor is what locks the uid.
func takeLease(f *os.File, cfg Config, uid uint32) (*lease, error) {
	var is, want unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &is), unix.Lstat(lockPath(cfg.RuntimeDir, uid), &want)); err != nil {
		return nil, fmt.Errorf("cannot find the lock of uid %d: %w", uid, err)
	}
	if is.Dev != want.Dev || is.Ino != want.Ino || uid < cfg.UIDBase || uid-cfg.UIDBase >= cfg.UIDCount {
		return nil, fmt.Errorf("cannot find the lock of uid %d: what was held is something else", uid)
	}
	if err := lockUID(f, uid, unix.F_WRLCK); err != nil {
		return nil, fmt.Errorf("cannot hold the lock of uid %d: %w", uid, err)
	}
	return &lease{uid: uid, file: f}, nil
}

// discardTime bounds the end of what nobody goes on with.
const discardTime = 10 * time.Second

// Discard ends a plugin that nobody goes on with, and takes away what is left
// of it.
func (k *Left) Discard() error {
	for _, f := range k.Files {
		_ = f.Close() // our ends; nothing is written any more
	}
	return k.end()
}

func (k *Left) end() error {
	err := k.child.Abandon()
	select {
	case <-k.child.Done():
	case <-time.After(discardTime):
		err = errors.Join(err, fmt.Errorf("cannot end process %d within %v", k.child.PID, discardTime))
	}
	if k.Book != nil {
		err = errors.Join(err, k.Book.Close())
	}
	if k.child.Listener != nil {
		_ = k.child.Listener.Close()
	}
	for _, f := range []*os.File{k.lease, k.claim} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	k.lease, k.claim = nil, nil
	err = errors.Join(err, k.child.Forget())
	if _, swept := k.l.tree.Sweep(); swept != nil { // its group is nobody's now
		err = errors.Join(err, swept)
	}
	return err
}

// Loosen says that p is not to outlive this daemon any more: from now on what
// is closed here is closed for the plugin.
func (p *Process) Loosen() error {
	if p.book == nil {
		return nil
	}
	return p.child.Loosen()
}

// Book is what a successor is told of p; nil if it is not to have one.
func (p *Process) Book() *Book { return p.book }
