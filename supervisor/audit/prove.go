package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

// maxProof bounds a proof in bytes.
const maxProof = 256 << 10

// Proof shows something of a log to one who has its public key and nothing
// else: that Record is in the log that Checkpoint signs (with Inclusion), or
// that the log of Old is its beginning (with Consistency).
type Proof struct {
	// Checkpoint is signed; see OpenCheckpoint. So is Old.
	Checkpoint string `json:"checkpoint"`
	// Record is the line as it stands in the log.
	Record      string      `json:"record,omitempty"`
	Inclusion   []tlog.Hash `json:"inclusion,omitempty"`
	Old         string      `json:"old,omitempty"`
	Consistency []tlog.Hash `json:"consistency,omitempty"`
}

// ErrNoRecord is returned for a record that is not, or no longer, in the log.
var ErrNoRecord = errors.New("there is no such record")

// Prove shows that the record with this number is in the log at path.
func Prove(path string, seq uint64) (Proof, error) {
	p, err := prove(path, func(p *Proof, signed tlog.Tree, t *tiles) error {
		if seq == 0 || seq > uint64(signed.N) {
			return fmt.Errorf("%w: the checkpoint signs records 1 to %d", ErrNoRecord, signed.N)
		}
		text, err := find(path, seq)
		if err != nil {
			return err
		}
		p.Record = string(text)
		p.Inclusion, err = tlog.ProveRecord(signed.N, int64(seq)-1, t)
		return err
	})
	if err != nil {
		return Proof{}, fmt.Errorf("cannot prove record %d: %w", seq, err)
	}
	return p, nil
}

// ProveGrowth shows that the log of an older signed checkpoint is the beginning
// of the log at path.
func ProveGrowth(path, old string) (Proof, error) {
	p, err := prove(path, func(p *Proof, signed tlog.Tree, t *tiles) error {
		public, err := readSmall(pathsOf(path).public, maxKey)
		if err != nil {
			return err
		}
		before, err := OpenCheckpoint([]byte(old), string(public))
		if err != nil {
			return fmt.Errorf("the older checkpoint: %w", err)
		}
		if before.N < 1 || before.N > signed.N {
			return fmt.Errorf("%w: the older checkpoint signs %d records, the log's %d", ErrBroken, before.N, signed.N)
		}
		p.Old = old
		p.Consistency, err = tlog.ProveTree(signed.N, before.N, t)
		return err
	})
	if err != nil {
		return Proof{}, fmt.Errorf("cannot prove that the log has only grown: %w", err)
	}
	return p, nil
}

// prove fills in a proof for the log's checkpoint and checks it.
func prove(path string, fill func(*Proof, tlog.Tree, *tiles) error) (Proof, error) {
	where := pathsOf(path)
	public, err := readSmall(where.public, maxKey)
	if err != nil {
		return Proof{}, err
	}
	data, err := readSmall(where.checkpoint, maxCheckpoint)
	if err != nil {
		return Proof{}, err
	}
	signed, err := OpenCheckpoint(data, string(public))
	if err != nil {
		return Proof{}, err
	}
	t := &tiles{dir: where.tiles, size: signed.N, look: true}
	defer func() { _ = t.close() }() // only read from
	p := Proof{Checkpoint: string(data)}
	if err := fill(&p, signed, t); err != nil {
		return Proof{}, err
	}
	return p, p.Check(string(public))
}

// find reads the line of a record.
func find(path string, seq uint64) (text []byte, err error) {
	files, err := asideOf(path)
	if err != nil {
		return nil, err
	}
	first, err := (&source{path: path}).align()
	if err != nil {
		return nil, err
	}
	where := path
	for _, f := range files {
		if f.first <= seq && (first == 0 || seq < first) {
			where = f.path
		}
	}
	f, err := os.Open(where)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	check := checker{prev: hashOf(nil)}
	_, err = eachLine(f, func(line []byte) error {
		ev, err := check.next(line)
		if err == nil && ev.Seq == seq {
			text = bytes.Clone(line)
			return io.EOF
		}
		return err
	})
	if text != nil {
		return text, nil
	}
	if err == nil {
		err = fmt.Errorf("%w: it is no longer kept", ErrNoRecord)
	}
	return nil, err
}

// ParseProof reads a proof from its JSON.
func ParseProof(data []byte) (Proof, error) {
	var p Proof
	if len(data) > maxProof {
		return p, fmt.Errorf("cannot read the proof: it has more than %d bytes", maxProof)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("cannot read the proof: %w", err)
	}
	return p, nil
}

// Check checks the proof against the log's public key. It needs nothing else.
func (p Proof) Check(publicKey string) error {
	signed, err := OpenCheckpoint([]byte(p.Checkpoint), publicKey)
	if err != nil {
		return err
	}
	switch {
	case p.Record != "" && p.Old == "":
		err = p.checkRecord(signed)
	case p.Old != "" && p.Record == "":
		err = p.checkGrowth(signed, publicKey)
	default:
		err = errors.New("it must be of one record or of one older checkpoint")
	}
	if err != nil {
		return fmt.Errorf("the proof does not hold: %w", err)
	}
	return nil
}

func (p Proof) checkRecord(signed tlog.Tree) error {
	check := checker{prev: hashOf(nil)}
	ev, err := check.next([]byte(p.Record))
	if err != nil {
		return err
	}
	if ev.Seq == 0 || ev.Seq > uint64(signed.N) {
		return ErrNoRecord
	}
	return tlog.CheckRecord(p.Inclusion, signed.N, signed.Hash, int64(ev.Seq)-1, tlog.RecordHash([]byte(p.Record)))
}

func (p Proof) checkGrowth(signed tlog.Tree, publicKey string) error {
	old, err := OpenCheckpoint([]byte(p.Old), publicKey)
	if err != nil {
		return err
	}
	if old.N < 1 || old.N > signed.N {
		return fmt.Errorf("%d records cannot be the beginning of %d", old.N, signed.N)
	}
	return tlog.CheckTree(p.Consistency, signed.N, signed.Hash, old.N, old.Hash)
}
