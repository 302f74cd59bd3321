package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

var bucketFlags = []byte("flags")

// maxFlags bounds how many flips are kept.
const maxFlags = 4096

// Flip is what an operator said of a feature flag, above its configuration.
type Flip struct {
	Name string    `json:"name"`
	On   bool      `json:"on"`
	By   string    `json:"by"`
	Time time.Time `json:"time"`
}

// Flips gives every flip by the flag's name. One that cannot be trusted is an
// error: nothing says whether it was on or off.
func (s *Store) Flips() (map[string]Flip, error) {
	out := map[string]Flip{}
	err := s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketFlags)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			f, err := decodeFlip(v)
			if err == nil && f.Name != string(k) {
				err = fmt.Errorf("it is that of %q", f.Name)
			}
			if err != nil {
				return fmt.Errorf("the file is damaged: flag %q: %w", k, err)
			}
			out[f.Name] = f
			return nil
		})
	})
	return out, err
}

// Flip keeps what an operator said of a flag. When it returns nil it is on the
// disk.
func (s *Store) Flip(f Flip) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketFlags)
		if err != nil {
			return err
		}
		if b.Get([]byte(f.Name)) == nil && b.Stats().KeyN >= maxFlags {
			return fmt.Errorf("more than %d flags were flipped", maxFlags)
		}
		body, err := json.Marshal(f)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		return b.Put([]byte(f.Name), append(append(hex.AppendEncode(nil, sum[:]), ' '), body...))
	})
	if err != nil {
		return fmt.Errorf("cannot record the flag %s: %w", f.Name, err)
	}
	return nil
}

// Unflip forgets what was said of a flag; one that was not flipped is none.
func (s *Store) Unflip(name string) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketFlags); b != nil {
			return b.Delete([]byte(name))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot forget the flag %s: %w", name, err)
	}
	return nil
}

func decodeFlip(v []byte) (f Flip, err error) {
	const prefix = 2*sha256.Size + 1
	if len(v) < prefix || len(v) > prefix+maxRecord {
		return f, fmt.Errorf("it has %d bytes", len(v))
	}
	sum := sha256.Sum256(v[prefix:])
	if hex.EncodeToString(sum[:])+" " != string(v[:prefix]) {
		return f, errors.New("its checksum is wrong")
	}
	return f, json.Unmarshal(v[prefix:], &f)
}
