package store

import (
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"
)

// TestFlips: they are kept, and one that was changed by another hand is refused.
func TestFlips(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path, 4)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Flip(Flip{Name: "a", On: false, By: "uid 0"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Flip(Flip{Name: "b", On: true, By: "uid 0"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Unflip("b"); err != nil {
		t.Fatal(err)
	}
	if err := s.Unflip("c"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path, 4); err != nil {
		t.Fatal(err)
	}
	flips, err := s.Flips()
	if err != nil || len(flips) != 1 || flips["a"].On || flips["a"].By != "uid 0" {
		t.Errorf("kept are %+v, %v", flips, err)
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketFlags)
		v := append([]byte{}, b.Get([]byte("a"))...)
		v[len(v)-3] ^= 1
		return b.Put([]byte("a"), v)
	})
	if err != nil {
		t.Fatal(err)
	}
	if flips, err := s.Flips(); err == nil {
		t.Errorf("a damaged one was read: %+v", flips)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
