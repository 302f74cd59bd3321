package run

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// Result is the last line of a report.
type Result struct {
	Kind string `json:"kind"` // always "result"
	// Command is what was run, Profile behind which walls.
	Command      []string `json:"command"`
	Profile      string   `json:"profile"`
	PolicyDigest string   `json:"policy_digest,omitempty"`
	PlanDigest   string   `json:"plan_digest,omitempty"`
	// Status is the exit status of cordon run itself. Of ExitCode and Signal
	// one is set when the command ran: how its first process ended.
	Status   int    `json:"status"`
	ExitCode *int   `json:"exit_code,omitempty"`
	Signal   string `json:"signal,omitempty"`
	TimedOut bool   `json:"timed_out,omitempty"`
	// Error is why the command did not run, or why the report is not whole.
	Error    string         `json:"error,omitempty"`
	Duration time.Duration  `json:"duration_ns"`
	Usage    *cgroups.Usage `json:"usage,omitempty"`
	// Violations counts all, Unreported those that came too fast to be written.
	Violations int `json:"violations"`
	Unreported int `json:"unreported,omitempty"`
	// Walls are what was enforced, as read back from the kernel after the start.
	Walls []launch.Wall `json:"walls"`
}

// Report writes JSON lines. A nil Report swallows them.
type Report struct {
	file *os.File
	enc  *json.Encoder
	err  error
}

// CreateReport makes or empties the file name, for its owner's eyes only. An
// empty name is no report. The caller closes it.
func CreateReport(name string) (*Report, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot write the report: %w", bare(err))
	}
	enc := json.NewEncoder(f)
	enc.SetEscapeHTML(false)
	return &Report{file: f, enc: enc}, nil
}

// write adds one line. The first error is kept, and given by Close.
func (r *Report) write(line any) {
	if r != nil && r.err == nil {
		r.err = r.enc.Encode(line)
	}
}

// Close closes the file and says whether everything is in it.
func (r *Report) Close() error {
	if r == nil {
		return nil
	}
	if err := errors.Join(r.err, r.file.Close()); err != nil {
		return fmt.Errorf("cannot write the report: %w", err)
	}
	return nil
}

// The bounds of a report that is read.
const (
	maxLine  = 1 << 20
	maxLines = 100_000
)

// ReadReport reads what a Report wrote. The result is nil if the run was cut
// off before its last line. Lines of a kind that it does not know are skipped,
// so that a newer report can be read.
func ReadReport(in io.Reader) ([]violation.Violation, *Result, error) {
	var violations []violation.Violation
	var result *Result
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	for n := 1; lines.Scan(); n++ {
		if n > maxLines {
			return nil, nil, fmt.Errorf("line %d: a report has at most %d lines", n, maxLines)
		}
		v, r, err := readLine(lines.Bytes())
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("line %d: %w", n, err)
		case v != nil:
			violations = append(violations, *v)
		case r != nil:
			result = r
		}
	}
	if err := lines.Err(); err != nil {
		return nil, nil, fmt.Errorf("cannot read the report: %w", err)
	}
	return violations, result, nil
}

// readLine reads one line; both are nil for a kind that is not known.
func readLine(line []byte) (*violation.Violation, *Result, error) {
	var head struct {
		Kind string `json:"kind"`
	}
	if err := json.Unmarshal(line, &head); err != nil || head.Kind == "" {
		return nil, nil, errors.New(`expected a JSON object with "kind", as cordon run --report writes`)
	}
	switch head.Kind {
	case "violation":
		v := &violation.Violation{}
		return v, nil, unmarshal(line, v)
	case "result":
		r := &Result{}
		return nil, r, unmarshal(line, r)
	}
	return nil, nil, nil
}

func unmarshal(line []byte, into any) error {
	if err := json.Unmarshal(line, into); err != nil {
		return fmt.Errorf("not what cordon run --report writes: %w", err)
	}
	return nil
}
