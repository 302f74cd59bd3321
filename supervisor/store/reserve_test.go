package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// onSmallDisk runs fn with a file system of so many bytes at dir, in a mount
// namespace of its own thread: nothing of it is left, however the test ends.
func onSmallDisk(t *testing.T, size int, fn func(dir string) error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: to mount a small file system")
	}
	dir := t.TempDir()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if err := syscall.Unshare(syscall.CLONE_NEWNS | syscall.CLONE_FS); err != nil {
			done <- err
			return
		}
		err := errors.Join(
			syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
			syscall.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)),
		)
		if err == nil {
			err = fn(dir)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// fillUp writes until the disk is full.
func fillUp(dir string) error {
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		return err
	}
	chunk := []byte(strings.Repeat("x", 4096))
	for err == nil {
		_, err = f.Write(chunk)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk does not fill up: %w", err)
	}
	return f.Close()
}

// fat is a record of a size that needs new pages.
func fat(name string, state control.State) Record {
	r := Record{Name: name, State: state}
	for range MaxViolations {
		r.Violations = append(r.Violations, violation.Violation{What: strings.Repeat("w", 4000)})
	}
	return r
}

// TestQuarantineOnAFullDisk: what is only news may fail, a quarantine may not.
func TestQuarantineOnAFullDisk(t *testing.T) {
	onSmallDisk(t, 24<<20, func(dir string) error {
		path := filepath.Join(dir, "state.db")
		s, err := Open(path, 8)
		if err != nil {
			return err
		}
		if _, err := s.Create(Record{Name: "p", State: control.Running}); err != nil {
			return err
		}
		if err := fillUp(dir); err != nil {
			return err
		}
		r := fat("p", control.Running)
		if err := s.Put(r); !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("the disk is not full enough for this test: %w", err)
		}
		r.State, r.Quarantine = control.Quarantined, &Quarantine{}
		if err := s.Put(r); err != nil {
			return fmt.Errorf("the quarantine was lost: %w", err)
		}
		if err := s.Close(); err != nil {
			return err
		}
		again, err := Open(path, 8)
		if err != nil {
			return err
		}
		list, err := again.List()
		if err != nil || len(list) != 1 || list[0].State != control.Quarantined {
			return fmt.Errorf("after opening anew: %d records, %w", len(list), err)
		}
		if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
			return err
		}
		if err := again.Put(list[0]); err != nil {
			return err
		}
		if st, err := os.Stat(path + ".reserve"); err != nil || st.Size() != reserveSize {
			return fmt.Errorf("the room was not reserved again: %w", err)
		}
		return again.Close()
	})
}

// TestQuarantinesAtOnceOnAFullDisk: the room is for quarantines, and neither what
// is only news nor the try to reserve it again stands in the way of one.
func TestQuarantinesAtOnceOnAFullDisk(t *testing.T) {
	onSmallDisk(t, 24<<20, func(dir string) error {
		dir = fmt.Sprintf("/proc/self/task/%d/root%s", syscall.Gettid(), dir) // as other threads see it
		for range 8 {
			if err := quarantinesAtOnce(dir); err != nil {
				return err
			}
		}
		return nil
	})
}

// quarantinesAtOnce has two plugins quarantined on a full disk while there is news
// of others.
func quarantinesAtOnce(dir string) error {
	path := filepath.Join(dir, "state.db")
	s, err := Open(path, 8)
	if err != nil {
		return err
	}
	names := []string{"a", "b", "c", "d"}
	for _, name := range names {
		if _, err := s.Create(Record{Name: name, State: control.Running}); err != nil {
			return err
		}
	}
	if err := fillUp(dir); err != nil {
		return err
	}
	results := make(chan error, len(names))
	for i, name := range names {
		go func() {
			if i < 2 {
				r := fat(name, control.Quarantined)
				r.Quarantine = &Quarantine{}
				results <- s.Put(r)
				return
			}
			for range 20 {
				_ = s.Put(fat(name, control.Running)) // there may be room for news, and mostly is none
			}
			results <- nil
		}()
	}
	for range names {
		err = errors.Join(err, <-results)
	}
	if err != nil {
		return fmt.Errorf("a quarantine was lost: %w", err)
	}
	return errors.Join(s.Close(), os.Remove(filepath.Join(dir, "ballast")), os.Remove(path))
}
