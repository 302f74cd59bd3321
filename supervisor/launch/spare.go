package launch

import (
	"errors"
	"os"
	"sync"
	"syscall"
)

// spares are descriptors held for nothing but to be let go: what a start made
// before this process had no more cannot be taken back without some.
type spares struct {
	mu    sync.Mutex
	files []*os.File
}

// spareFiles is how many taking a start back has open at a time, and more.
const spareFiles = 6

// keep opens what is missing. There may be none left, which the next start says.
func (s *spares) keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.files) < spareFiles {
		f, err := os.Open(os.DevNull)
		if err != nil {
			return
		}
		s.files = append(s.files, f)
	}
}

func (s *spares) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	s.files = nil
	return errors.Join(errs...)
}

// takeBack runs what takes a start back that failed with err.
func (l *Launcher) takeBack(err error, run func() error) error {
	if !outOfDescriptors(err) {
		return run()
	}
	_ = l.spares.close() // they were open on nothing
	defer l.spares.keep()
	return run()
}

func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}
