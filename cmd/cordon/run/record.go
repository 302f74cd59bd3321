package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/record"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// hostView are the parts of a host that a recorded run sees beside what --ro and
// --rw grant: programs, libraries, and the configuration that libraries read.
// All of it is read as a user who owns nothing.
var hostView = []string{
	"/usr", "/opt", "/etc/alternatives", "/etc/ca-certificates", "/etc/fonts", "/etc/java-*", "/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types",
	"/etc/python3*", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/terminfo", "/etc/timezone",
}

// Recorded is what came of a recorded run.
type Recorded struct {
	Status    int
	Recording *record.Recording
	// Program is the host's path of what was run; empty if it was not found.
	Program string
}

// Record runs the command of o and notes what it does; the profile of o is not
// looked at. The recording is nil if the command did not run; everything that
// went wrong has been printed by then.
func Record(o *Options) Recorded {
	fail := func(err error, hint string) Recorded {
		return Recorded{Status: complain(os.Stderr, fmt.Errorf("cannot record %s: %w", name(o), err), hint)}
	}
	if os.Geteuid() != 0 {
		return fail(errors.New("raising the walls needs root"), "use sudo")
	}
	h, err := loadHost(hostFile)
	if err != nil {
		return fail(err, "")
	}
	profile, err := record.Base()
	if err != nil {
		return fail(err, "")
	}
	o.ReadOnly = append(beside(o), o.ReadOnly...)
	p, err := resolveOn(o, h, profile)
	if err != nil {
		return fail(err, "")
	}
	recorder, err := record.NewRecorder(p)
	if err != nil {
		return fail(err, "")
	}
	report, err := CreateReport(o.Report)
	if err != nil {
		return fail(err, "")
	}
	s := newSession(o, p, report, os.Stderr)
	s.answer = recorder.Answer
	out := Recorded{Status: s.onHost(openEarly(h).take), Program: recorder.Program()}
	if s.result.Usage == nil {
		return out
	}
	recorder.Ended(s.result.Usage.MemoryPeak, s.limits)
	out.Recording = recorder.Recording()
	return out
}

// beside are the paths of hostView that this host has and that o does not grant
// by itself.
func beside(o *Options) []string {
	var out []string
	for _, pattern := range hostView {
		found, _ := filepath.Glob(pattern) // the patterns are right
		for _, file := range found {
			if _, err := os.Stat(file); err == nil && !inTheWay(o, file) {
				out = append(out, file)
			}
		}
	}
	return out
}

// inTheWay tells whether o grants that path by itself, or shows at a place below
// it what the host does not have there.
func inTheWay(o *Options, file string) bool {
	return slices.ContainsFunc(append(slices.Clone(o.ReadOnly), o.ReadWrite...), func(word string) bool {
		f, err := grant(word)
		if err != nil {
			return false // resolving says it better
		}
		_, missing := os.Lstat(f.Path)
		return f.Path == file || strings.HasPrefix(f.Path, file+"/") && missing != nil
	})
}

// limit notes a quota that a recorded run reached.
func (s *session) limit(v violation.Violation) {
	if v.Wall == violation.Memory || v.Wall == violation.Pids || v.Wall == violation.Time {
		s.limits = append(s.limits, v.What)
	}
}
