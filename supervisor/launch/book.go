package launch

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// BookVersion changes with every change of what a book holds or where.
const BookVersion = 3

// Book is what a successor of this daemon must know of one plugin. It lies in a
// memfd that the keeper holds: memory for what changes with every call and
// message, and three notes, each written whole before its length.
type Book struct {
	file   *os.File
	memory []byte // the mapped part: words, calls
}

// The layout of a book, in bytes.
const (
	bookJournal = 0
	bookCalls   = bookJournal + ipc.JournalSize
	bookMapped  = bookCalls + seccomp.KeptSize
	bookLaunch  = bookMapped           // how it was launched, by this package
	bookSession = bookLaunch + 512<<10 // what its daemon says
	bookHit     = bookSession + 128<<10
	bookSize    = bookHit + 64<<10
	noteHeader  = 16 // version and length
)

// NewBook makes an empty one. It is unmapped when nobody uses it any more.
func NewBook() (*Book, error) {
	fd, err := unix.MemfdCreate("cordon-plugin", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("cordon-plugin", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a plugin's book: %w", err)
	}
	f := os.NewFile(uintptr(fd), "book")
	if err := f.Truncate(bookSize); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make a plugin's book: %w", err), f.Close())
	}
	return openBook(f)
}

// openBook takes the file over, also when it fails.
func openBook(f *os.File) (*Book, error) {
	st, err := f.Stat()
	if err == nil && st.Size() != bookSize {
		err = fmt.Errorf("it has %d bytes, not %d", st.Size(), bookSize)
	}
	var memory []byte
	if err == nil {
		memory, err = unix.Mmap(int(f.Fd()), 0, bookMapped, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open a plugin's book: %w", err), f.Close())
	}
	b := &Book{file: f, memory: memory}
	runtime.AddCleanup(b, func(memory []byte) { _ = unix.Munmap(memory) }, memory)
	return b, nil
}

// Journal is the part that the plugin's connection keeps. The book must be held
// as long as it is used.
func (b *Book) Journal() (*ipc.Journal, error) {
	return ipc.NewJournal(b.memory[bookJournal : bookJournal+ipc.JournalSize])
}

// calls is the part that the listener keeps.
func (b *Book) calls() []byte {
	if b == nil {
		return nil
	}
	return b.memory[bookCalls : bookCalls+seccomp.KeptSize]
}

// Close closes the descriptor; what is mapped stays until nobody uses the book.
func (b *Book) Close() error { return b.file.Close() }

// write writes a note. One that is being written is none.
func (b *Book) write(at, room int64, v any) error {
	data, err := json.Marshal(v)
	if err == nil && int64(len(data)) > room-noteHeader {
		err = fmt.Errorf("it takes %d bytes, and there is room for %d", len(data), room-noteHeader)
	}
	var none [noteHeader]byte
	if err == nil {
		_, err = b.file.WriteAt(none[:], at)
	}
	if err == nil {
		_, err = b.file.WriteAt(data, at+noteHeader)
	}
	head := binary.LittleEndian.AppendUint64(nil, BookVersion)
	head = binary.LittleEndian.AppendUint64(head, uint64(len(data)))
	if err == nil {
		_, err = b.file.WriteAt(head, at)
	}
	if err != nil {
		return fmt.Errorf("cannot write a plugin's book: %w", err)
	}
	return nil
}

// errNoNote says that a note was never written, or not to its end.
var errNoNote = errors.New("nothing was written down")

func (b *Book) read(at, room int64, v any) error {
	var head [noteHeader]byte
	if _, err := b.file.ReadAt(head[:], at); err != nil {
		return fmt.Errorf("cannot read a plugin's book: %w", err)
	}
	version, n := binary.LittleEndian.Uint64(head[:]), binary.LittleEndian.Uint64(head[8:])
	switch {
	case version == 0:
		return errNoNote
	case version != BookVersion:
		return fmt.Errorf("cannot read a plugin's book: it is of version %d, and this daemon's is %d", version, BookVersion)
	case n > uint64(room-noteHeader): // #nosec G115 -- a constant above 0
		return fmt.Errorf("cannot read a plugin's book: a note of %d bytes", n)
	}
	data := make([]byte, n)
	if _, err := b.file.ReadAt(data, at+noteHeader); err != nil {
		return fmt.Errorf("cannot read a plugin's book: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("cannot read a plugin's book: %w", err)
	}
	return nil
}

// Say writes what the daemon has to say of the plugin, at most 128 KiB as JSON.
func (b *Book) Say(v any) error { return b.write(bookSession, bookHit-bookSession, v) }

// Said reads it.
func (b *Book) Said(v any) error { return b.read(bookSession, bookHit-bookSession, v) }

// hit notes a violation that contains the plugin, before anyone is told.
func (b *Book) hit(v violation.Violation) {
	if b != nil {
		_ = b.write(bookHit, bookSize-bookHit, v) // a plugin that stands still without is one that was contained, too
	}
}

// launched is what a Process is made of again.
type launched struct {
	Name, Group  string
	Bundle, Data string
	UID          uint32
	Started      time.Time
	View         namespaces.View
	Host         namespaces.Host // without the filter, which the plan gives
	Doors        []string
	RunBy        []Interpreter
}

// write notes how p was launched.
func (p *Process) note() error {
	if p.book == nil {
		return nil
	}
	host := p.host
	host.Filter = nil
	return p.book.write(bookLaunch, bookSession-bookLaunch, launched{
		Name: p.r.Name, Group: p.group.Name(), Bundle: p.r.Bundle, Data: p.r.Data, UID: p.lease.uid, Started: p.child.Started,
		View: p.view, Host: host, Doors: p.doors, RunBy: p.runBy,
	})
}
