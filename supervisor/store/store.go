// Package store keeps what the daemon must not forget, in one bbolt file: the
// plugins that are installed, the state of each, and every quarantine.
//
// Each Put is one transaction that has reached the disk when it returns. The
// store fails closed: a file that cannot be trusted (locked, truncated,
// checksum wrong, schema unknown) is an error of Open, and the daemon then
// starts nothing.
package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/cordonhq/cordon/manifest"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// Schema is the version of the layout that this package reads and writes. A file
// of an earlier one is brought up to it by Open; see migrations.
const Schema = 1

// MaxViolations is how many violations a record keeps, the newest.
const MaxViolations = 50

const (
	// lockWait bounds how long Open waits for another holder of the file.
	lockWait = 500 * time.Millisecond
	// maxRecord bounds one record in bytes, so that one plugin cannot fill the file.
	maxRecord = 1 << 20
)

// Errors that callers tell apart.
var (
	ErrLocked   = errors.New("another cordond runs on this state")
	ErrNotFound = errors.New("no such plugin")
	ErrExists   = errors.New("a plugin of this name is already installed")
	ErrNoSlot   = errors.New("every uid of the range is taken")
)

var (
	bucketMeta    = []byte("meta")
	bucketPlugins = []byte("plugins")
	keySchema     = []byte("schema")
	keyNextSlot   = []byte("next_slot")
)

// Record is one installed plugin.
type Record struct {
	Name     string `json:"name"`
	Version  string `json:"version"`
	Digest   string `json:"digest"`
	Protocol string `json:"protocol"`
	// Profile is what the operator named at install: a name or an absolute path.
	Profile string `json:"profile"`
	Enabled bool   `json:"enabled"`
	// Slot gives the host uids: base + 2*Slot for the plugin, one more for its
	// reaper. It belongs to the plugin until it is removed.
	Slot uint32 `json:"slot"`
	// UID is the host uid of what runs where it is not the slot's: after a swap.
	UID       uint32        `json:"uid,omitempty"`
	Installed time.Time     `json:"installed"`
	State     control.State `json:"state"`
	Since     time.Time     `json:"since"`
	Reason    string        `json:"reason,omitempty"`
	// Restarts counts the automatic restarts since an operator last started it.
	Restarts int `json:"restarts"`
	// Step is how many of them stand in a row, and Starts are the times of the
	// starts that the start limit counts, the newest 200 at most.
	Step   int         `json:"step,omitempty"`
	Starts []time.Time `json:"starts,omitempty"`
	// Boot is the kernel's id of the boot in which the state was entered.
	Boot       string                `json:"boot,omitempty"`
	Quarantine *Quarantine           `json:"quarantine,omitempty"`
	Violations []violation.Violation `json:"violations,omitempty"`
	// Probation is until when any violation quarantines, since its last release.
	Probation time.Time `json:"probation,omitzero"`
	// Decisions are the operators' grants and revocations, oldest first.
	Decisions []control.Decision `json:"decisions,omitempty"`
	// Needs are what its manifest says of other plugins. Held says that it is
	// started as soon as what it requires runs.
	Needs manifest.Needs `json:"needs,omitzero"`
	Held  bool           `json:"held,omitempty"`
	// Interpreters are the host's programs that it may be run by; nil until its
	// first start, which takes those that there are. What it points at is not
	// changed.
	Interpreters *Interpreters `json:"interpreters,omitempty"`
	// PolicyDigest and PlanDigest are of the last start.
	PolicyDigest string `json:"policy_digest,omitempty"`
	PlanDigest   string `json:"plan_digest,omitempty"`
}

// Interpreters are what one bundle is run by under one profile.
type Interpreters struct {
	Digest  string `json:"digest"` // of the bundle
	Profile string `json:"profile"`
	// Files are the digests of the host's programs by the path at which the plugin
	// asks for them.
	Files map[string]string `json:"files"`
}

// Quarantine says why a plugin may not start until it is released.
type Quarantine struct {
	Violation violation.Violation `json:"violation"`
	Time      time.Time           `json:"time"`
	// Evidence is the directory of the evidence, empty if none could be kept.
	Evidence string `json:"evidence,omitempty"`
}

// Store is the open file. It is safe for concurrent use.
type Store struct {
	db      *bbolt.DB
	slots   uint32
	reserve *reserve

	takenMu sync.Mutex
	taken   map[uint32]bool // the slots; nil until the first is wanted

	mu        sync.Mutex // one writer of records at a time
	waitingMu sync.Mutex
	waiting   []*writing
}

// Open opens or makes the file at path (mode 0600) for a range of slots uid
// slots. It checks every record, and returns ErrLocked if another process has
// the file open.
func Open(path string, slots uint32) (*Store, error) {
	db, err := openChecked(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the state %s: %w", path, err)
	}
	s := &Store{db: db, slots: slots, reserve: &reserve{path: path + ".reserve"}}
	s.reserve.fill()
	return s, nil
}

// openChecked turns the panics and faults that a damaged file causes in bbolt,
// which maps it into memory, into errors.
func openChecked(path string) (db *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the file is damaged (%v); restore it from a backup, or move it away and install the plugins anew", r)
		}
	}()
	// Opened by hand first, so that a link planted in the way is not followed.
	if err := makePrivate(path); err != nil {
		return nil, err
	}
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, ErrLocked
	case err != nil:
		return nil, fmt.Errorf("the file is damaged or no state of cordond: %w", err)
	}
	if err := prepare(db, path, migrations); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// makePrivate makes the file, or checks that what is there is a regular file
// of ours that nobody else may write.
func makePrivate(path string) error {
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = syscall.Close(fd) }()
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return fmt.Errorf("it must be a regular file of uid %d with mode 0600, but has uid %d and mode %04o", os.Geteuid(), st.Uid, st.Mode&0o7777)
	}
	return nil
}

// prepare makes the buckets of a new file, or checks those of an old one, which
// it first brings up to the schema of today. Other steps than migrations are for
// tests.
func prepare(db *bbolt.DB, path string, steps []migration) error {
	if err := db.View(func(tx *bbolt.Tx) error { return checkSize(tx, path) }); err != nil {
		return err
	}
	if err := keepBefore(db, path, steps); err != nil {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			return createBuckets(tx, schemaOf(steps))
		}
		if err := migrate(tx, steps); err != nil {
			return err
		}
		_, err := list(tx)
		return err
	})
}

// checkSize refuses a file that is shorter than its own table of pages says:
// reading what is missing would be a bus error later.
func checkSize(tx *bbolt.Tx, path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st.Size() < tx.Size() {
		return fmt.Errorf("the file is damaged: it has %d bytes and should have at least %d", st.Size(), tx.Size())
	}
	return nil
}

func createBuckets(tx *bbolt.Tx, schema uint64) error {
	meta, err := tx.CreateBucket(bucketMeta)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(bucketPlugins); err != nil {
		return err
	}
	return meta.Put(keySchema, binary.BigEndian.AppendUint64(nil, schema))
}

// Close closes the file. The store must not be used afterwards.
func (s *Store) Close() error { return s.db.Close() }

// Create records a new plugin and gives it a uid slot, which it returns.
func (s *Store) Create(r Record) (Record, error) {
	took := false
	err := s.db.Update(func(tx *bbolt.Tx) (err error) {
		if tx.Bucket(bucketPlugins).Get([]byte(r.Name)) != nil {
			return ErrExists
		}
		if r.Slot, err = s.takeSlot(tx); err != nil {
			return err
		}
		took = true
		return put(tx, r)
	})
	if err != nil {
		if took {
			s.giveSlot(r.Slot)
		}
		return Record{}, fmt.Errorf("cannot record plugin %s: %w", r.Name, err)
	}
	return r, nil
}

// Put replaces the record of a plugin that exists. When it returns nil the
// record is on the disk. A quarantine gets there on a full disk, too: see
// reserve.
func (s *Store) Put(r Record) error {
	err := s.replace(r)
	if errors.Is(err, syscall.ENOSPC) && r.Quarantine != nil {
		err = s.replaceFromReserve(r)
	}
	if err != nil {
		return fmt.Errorf("cannot record plugin %s: %w", r.Name, err)
	}
	s.reserve.fill()
	return nil
}

// writing is one record on its way. Who brings it writes it, unless someone else
// who waited for the file did: then one transaction has both.
type writing struct {
	record Record
	err    error
	over   bool // guarded by Store.mu, as is err
}

func (s *Store) replace(r Record) error {
	w := &writing{record: r}
	s.waitingMu.Lock()
	s.waiting = append(s.waiting, w)
	s.waitingMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !w.over {
		s.writeWaiting()
	}
	return w.err
}

// replaceFromReserve writes a record alone in the room that was kept for it: no
// other record gets in between, and nobody tries to reserve that room again.
func (s *Store) replaceFromReserve(r Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reserve.spend(func() error { return s.update([]*writing{{record: r}}) })
}

// writeWaiting writes all records that wait; s.mu is held. One that cannot be
// written keeps no other from it.
func (s *Store) writeWaiting() {
	s.waitingMu.Lock()
	all := s.waiting
	s.waiting = nil
	s.waitingMu.Unlock()
	together := s.update(all)
	for _, w := range all {
		w.over, w.err = true, together
		if together != nil && len(all) > 1 {
			w.err = s.update([]*writing{w})
		}
	}
}

func (s *Store) update(all []*writing) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, w := range all {
			if tx.Bucket(bucketPlugins).Get([]byte(w.record.Name)) == nil {
				return ErrNotFound
			}
			if err := put(tx, w.record); err != nil {
				return err
			}
		}
		return nil
	})
}

// Delete forgets a plugin; its slot may be given to another.
func (s *Store) Delete(name string) error {
	var r Record
	err := s.db.Update(func(tx *bbolt.Tx) (err error) {
		b := tx.Bucket(bucketPlugins)
		v := b.Get([]byte(name))
		if v == nil {
			return ErrNotFound
		}
		if r, err = decode(v); err != nil {
			return err
		}
		return b.Delete([]byte(name))
	})
	if err != nil {
		return fmt.Errorf("cannot forget plugin %s: %w", name, err)
	}
	s.giveSlot(r.Slot)
	return nil
}

// List returns every record, by name.
func (s *Store) List() ([]Record, error) {
	var out []Record
	err := s.db.View(func(tx *bbolt.Tx) error {
		var err error
		out, err = list(tx)
		return err
	})
	return out, err
}

func list(tx *bbolt.Tx) ([]Record, error) {
	b := tx.Bucket(bucketPlugins)
	if b == nil {
		return nil, errors.New("the file is damaged: it has no plugins")
	}
	var out []Record
	slots := map[uint32]string{}
	err := b.ForEach(func(k, v []byte) error {
		r, err := decode(v)
		if err == nil && r.Name != string(k) {
			err = fmt.Errorf("it is the record of %q", r.Name)
		}
		if err != nil {
			return fmt.Errorf("the file is damaged: record %q: %w", k, err)
		}
		if other, taken := slots[r.Slot]; taken {
			return fmt.Errorf("the file is damaged: %s and %s have the same uid slot %d", other, r.Name, r.Slot)
		}
		slots[r.Slot] = r.Name
		out = append(out, r)
		return nil
	})
	return out, err
}

// takeSlot finds the next free slot after the one given last, so that the uid
// of a removed plugin rests as long as possible. The records are read for it
// once: nobody else writes the file.
func (s *Store) takeSlot(tx *bbolt.Tx) (uint32, error) {
	s.takenMu.Lock()
	defer s.takenMu.Unlock()
	if s.taken == nil {
		records, err := list(tx)
		if err != nil {
			return 0, err
		}
		s.taken = make(map[uint32]bool, len(records))
		for _, r := range records {
			s.taken[r.Slot] = true
		}
	}
	meta := tx.Bucket(bucketMeta)
	next := uint32(0)
	if v := meta.Get(keyNextSlot); len(v) == 4 {
		next = binary.BigEndian.Uint32(v)
	}
	for i := range s.slots {
		slot := (next%s.slots + i) % s.slots
		if s.taken[slot] {
			continue
		}
		if err := meta.Put(keyNextSlot, binary.BigEndian.AppendUint32(nil, slot+1)); err != nil {
			return 0, err
		}
		s.taken[slot] = true
		return slot, nil
	}
	return 0, fmt.Errorf("%w: %d plugins are installed", ErrNoSlot, len(s.taken))
}

// giveSlot has a slot be free again: its record is gone, or never came.
func (s *Store) giveSlot(slot uint32) {
	s.takenMu.Lock()
	defer s.takenMu.Unlock()
	delete(s.taken, slot)
}

// put writes a record as its sha256 in hexadecimal, a space and its JSON.
func put(tx *bbolt.Tx, r Record) error {
	if n := len(r.Violations) - MaxViolations; n > 0 {
		r.Violations = r.Violations[n:]
	}
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(body) > maxRecord {
		return fmt.Errorf("its record has %d bytes, more than %d", len(body), maxRecord)
	}
	sum := sha256.Sum256(body)
	value := append(hex.AppendEncode(nil, sum[:]), ' ')
	return tx.Bucket(bucketPlugins).Put([]byte(r.Name), append(value, body...))
}

func decode(v []byte) (Record, error) {
	const prefix = 2*sha256.Size + 1
	if len(v) < prefix || len(v) > prefix+maxRecord {
		return Record{}, fmt.Errorf("it has %d bytes", len(v))
	}
	sum := sha256.Sum256(v[prefix:])
	if hex.EncodeToString(sum[:])+" " != string(v[:prefix]) {
		return Record{}, errors.New("its checksum is wrong")
	}
	var r Record
	if err := json.Unmarshal(v[prefix:], &r); err != nil {
		return Record{}, err
	}
	return r, nil
}
