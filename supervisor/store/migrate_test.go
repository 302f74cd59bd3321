package store

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/cordonhq/cordon/supervisor/control"
)

// prepareWith opens a file that other steps lead to.
func prepareWith(t *testing.T, path string, steps []migration) (*bbolt.DB, error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := prepare(db, path, steps); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

var bucketOfTests = []byte("of tests")

// twoSteps make a bucket, and then write to it.
func twoSteps() []migration {
	return []migration{
		func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(bucketOfTests); return err },
		func(tx *bbolt.Tx) error { return tx.Bucket(bucketOfTests).Put([]byte("step"), []byte("two")) },
	}
}

// oldState is a file of schema 1 with one plugin.
func oldState(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	if _, err := s.Create(Record{Name: "old", State: control.Stopped}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStepsLeadToTheSchema(t *testing.T) {
	if schemaOf(migrations) != Schema {
		t.Errorf("%d steps lead to schema %d, not %d", len(migrations), schemaOf(migrations), Schema)
	}
}

func TestMigration(t *testing.T) {
	path := oldState(t)
	for _, when := range []string{"first", "again"} { // the second time nothing is to be done
		db, err := prepareWith(t, path, twoSteps())
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		err = db.View(func(tx *bbolt.Tx) error {
			records, err := list(tx)
			if err != nil || len(records) != 1 || records[0].Name != "old" {
				t.Errorf("%s: %v, %v", when, records, err)
			}
			if got := string(tx.Bucket(bucketOfTests).Get([]byte("step"))); got != "two" {
				t.Errorf("%s: the last step wrote %q", when, got)
			}
			return nil
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(path, 8); err == nil || !strings.Contains(err.Error(), "schema is version 3") {
		t.Errorf("the cordond of before opened what it does not know: %v", err)
	}
	before := open(t, path+".v1") // which it can go back to
	if records, err := before.List(); err != nil || len(records) != 1 {
		t.Errorf("the copy of before has %v, %v", records, err)
	}
	if info, err := os.Stat(path + ".v1"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy of before: %v, %v", info, err)
	}
}

func TestMigrationIsAllOrNothing(t *testing.T) {
	path := oldState(t)
	broken := errors.New("broken")
	steps := twoSteps()
	steps[1] = func(*bbolt.Tx) error { return broken }
	if _, err := prepareWith(t, path, steps); !errors.Is(err, broken) || !strings.Contains(err.Error(), "from version 2 to 3") {
		t.Fatalf("got %v", err)
	}
	s := open(t, path) // as if nothing had been tried
	if records, err := s.List(); err != nil || len(records) != 1 {
		t.Errorf("%v, %v", records, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := prepareWith(t, path, twoSteps())
	if err != nil {
		t.Fatalf("the next try: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMigrationStartsOnNewFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := prepareWith(t, path, twoSteps())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = prepareWith(t, path, twoSteps()); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(path + ".v*"); len(left) > 0 {
		t.Errorf("a copy of a new file: %v", left)
	}
}
