package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// The bounds of one evidence directory. A plugin stays frozen no longer than
// evidenceTime for the sake of it.
const (
	evidenceTime  = 250 * time.Millisecond
	evidenceSize  = 8 << 20
	evidenceFile  = 1 << 20
	evidenceProcs = 64
	evidenceLines = 200
)

// evidence is what is kept of a plugin at the moment of its quarantine.
type evidence struct {
	plan      *plan.Plan
	violation violation.Violation
	log       []control.LogLine
	proc      Process // nil when there is none any more
	calls     []callRecord
	redact    redactor
	room      int64 // bytes; 0 is evidenceSize
	core      bool  // with a core of the process that hit the wall
}

// evidenceDir makes the directory of one quarantine below root and returns its
// path: NAME/TIMESTAMP-ID, mode 0700.
func evidenceDir(root, name string, v violation.Violation) (string, error) {
	dir := filepath.Join(root, name, v.Time.UTC().Format(idTime)+"-"+safeID(v.ID))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot keep evidence: %w", err)
	}
	return dir, nil
}

// safeID keeps what may stand in a file name of an id.
func safeID(id string) string {
	out := []byte{}
	for _, c := range []byte(id) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return "x"
	}
	return string(out[:min(len(out), 40)])
}

// collect writes the evidence into dir and returns when it is complete or the
// context ends, whichever is first: reading a process can wait for a lock that
// the frozen process holds. What is late is left out: no file is begun after
// collect has returned.
func (e evidence) collect(ctx context.Context, dir string) error {
	w := &evidenceWriter{dir: dir, left: evidenceSize, redact: e.redact}
	if e.room > 0 {
		w.left = int(min(e.room, evidenceSize))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.write(w)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		w.fail(fmt.Errorf("cannot keep all evidence within %v", evidenceTime))
	}
	return w.close()
}

// write goes from what says most to what says least.
func (e evidence) write(w *evidenceWriter) {
	w.json("violation.json", e.violation)
	w.json("plan.json", withoutEnv(e.plan))
	w.json("calls.json", e.calls)
	w.json("log.json", e.log)
	if e.proc == nil {
		return
	}
	if usage, err := e.proc.Usage(); err == nil {
		w.json("usage.json", usage)
	}
	pids, err := e.proc.Procs()
	if err != nil {
		w.fail(err)
		return
	}
	for _, pid := range pids[:min(len(pids), evidenceProcs)] {
		for _, name := range []string{"status", "cmdline", "maps"} {
			w.copy(fmt.Sprintf("proc-%d-%s", pid, name), fmt.Sprintf("/proc/%d/%s", pid, name))
		}
	}
	if e.core && len(pids) > 0 {
		if by := e.violation.Where.PID; slices.Contains(pids, by) {
			w.core(by)
		} else {
			w.core(e.proc.PID())
		}
	}
}

// evidenceWriter writes files into one directory, within a budget, until it
// is closed.
type evidenceWriter struct {
	dir    string
	redact redactor
	left   int         // the writing goroutine's own
	closed atomic.Bool // not under mu: a disk that hangs must not hold up the end
	mu     sync.Mutex
	errs   []error
}

func (w *evidenceWriter) json(name string, v any) {
	data, err := w.redact.json(v)
	if err != nil {
		w.fail(err)
		return
	}
	w.put(name, data)
}

// copy keeps the start of one file of /proc. A process that has gone meanwhile
// is no error.
func (w *evidenceWriter) copy(name, from string) {
	data, err := readSome(from)
	if err != nil {
		return
	}
	if strings.HasSuffix(name, "-cmdline") {
		data = []byte(w.redact.text(string(data)))
	} else {
		data = []byte(w.redact.known(string(data)))
	}
	w.put(name, data)
}

// readSome reads the start of a file of /proc.
func readSome(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	return io.ReadAll(io.LimitReader(f, evidenceFile))
}

func (w *evidenceWriter) put(name string, data []byte) {
	if w.closed.Load() {
		return
	}
	if len(data) > w.left {
		w.fail(fmt.Errorf("cannot keep %s: no room for its %d bytes", name, len(data)))
		return
	}
	w.left -= len(data)
	if err := os.WriteFile(filepath.Join(w.dir, name), data, 0o600); err != nil {
		w.fail(fmt.Errorf("cannot keep evidence: %w", err))
	}
}

func (w *evidenceWriter) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

func (w *evidenceWriter) close() error {
	w.closed.Store(true)
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.errs...)
}
