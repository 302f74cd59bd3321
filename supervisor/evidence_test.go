package supervisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// stuckProcess holds the lock that reading it needs, until released.
type stuckProcess struct {
	fakeProcess
	asked, release chan struct{}
}

func (p *stuckProcess) Procs() ([]int, error) {
	close(p.asked)
	<-p.release
	return []int{os.Getpid()}, nil
}

func TestEvidenceOfAStuckProcessIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	p := &stuckProcess{asked: make(chan struct{}), release: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-p.asked
		cancel()
	}()
	err := evidence{proc: p}.collect(ctx, dir)
	if err == nil || !strings.Contains(err.Error(), "all evidence") {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "violation.json")); err != nil {
		t.Errorf("what could be had is not there: %v", err)
	}
	close(p.release)
}

func TestEvidenceIsBounded(t *testing.T) {
	dir := t.TempDir()
	e := evidence{log: []control.LogLine{{Text: strings.Repeat("x", evidenceSize)}}}
	if err := e.collect(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "log.json")); !errors.Is(err, os.ErrNotExist) {
		t.Error("more than the bound was kept")
	}
}

func TestEvidenceStaysInItsDirectory(t *testing.T) {
	root := t.TempDir()
	dir, err := evidenceDir(root, "p", violation.Violation{ID: "../../../etc/x", Time: epoch})
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(dir) != filepath.Join(root, "p") || strings.Contains(filepath.Base(dir), "/") {
		t.Errorf("the directory is %s", dir)
	}
}
