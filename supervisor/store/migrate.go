package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"

	"go.etcd.io/bbolt"
)

// migration brings a file from one schema to the next, within the transaction
// that it is given. It must not depend on today's Record, which may change later.
type migration func(tx *bbolt.Tx) error

// migrations lead from schema 1 to Schema, one step each. What was released is
// never changed, only added to. All steps that a file needs are one transaction:
// a crash leaves the old schema, whole.
var migrations = []migration{}

// schemaOf is the schema that steps lead to.
func schemaOf(steps []migration) uint64 { return 1 + uint64(len(steps)) }

// readSchema is the schema of a file, which must be one that steps know.
func readSchema(tx *bbolt.Tx, steps []migration) (uint64, error) {
	v := tx.Bucket(bucketMeta).Get(keySchema)
	if len(v) != 8 {
		return 0, errors.New("the file is damaged: it has no schema version")
	}
	got := binary.BigEndian.Uint64(v)
	if got < 1 || got > schemaOf(steps) {
		return 0, fmt.Errorf("its schema is version %d, and this cordond reads version %d: run the cordond that wrote it", got, schemaOf(steps))
	}
	return got, nil
}

// migrate takes the steps that the file has not had.
func migrate(tx *bbolt.Tx, steps []migration) error {
	from, err := readSchema(tx, steps)
	if err != nil || from == schemaOf(steps) {
		return err
	}
	for i, step := range steps[from-1:] {
		if err := step(tx); err != nil {
			return fmt.Errorf("cannot bring its schema from version %d to %d: %w", from+uint64(i), from+uint64(i)+1, err)
		}
	}
	return tx.Bucket(bucketMeta).Put(keySchema, binary.BigEndian.AppendUint64(nil, schemaOf(steps)))
}

// keepBefore keeps a copy of a file that is about to be migrated, as PATH.vN with
// the schema that it has: the cordond that wrote it reads no later one.
func keepBefore(db *bbolt.DB, path string, steps []migration) error {
	return db.View(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketMeta) == nil {
			return nil
		}
		from, err := readSchema(tx, steps)
		if err != nil || from == schemaOf(steps) {
			return err
		}
		return copyTo(tx, fmt.Sprintf("%s.v%d", path, from))
	})
}

// copyTo writes the whole file anew, synced, and gives it its name only then. One
// of an earlier try, which an older cordond may have written to since, is replaced.
func copyTo(tx *bbolt.Tx, path string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("cannot keep a copy of the state: %w", err)
	}
	_, err = tx.WriteTo(f)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("cannot keep a copy of the state: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
