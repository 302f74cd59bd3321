package run

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/violation"
)

// maxShown bounds what is printed; the report has the rest.
const maxShown = 20

// tell explains v, writes it to the report and says it on standard error.
func (s *session) tell(v violation.Violation) {
	v.Kind = "violation"
	if s.answer != nil {
		s.limit(v)
	}
	if ends(v.Action) {
		v.Action = violation.Kill // there is nothing that could be kept in quarantine
	}
	violation.Explain(&v, s.plan)
	s.report.write(&v)
	s.shown++
	switch {
	case s.shown <= maxShown:
		fmt.Fprint(s.stderr, s.words(v))
	case s.shown == maxShown+1:
		fmt.Fprintln(s.stderr, "cordon: more violations are not printed; --report FILE has them")
	}
}

// words are a sentence with where to read on, or the whole explanation.
func (s *session) words(v violation.Violation) string {
	if s.opts.Explain {
		return "cordon: " + violation.Paragraph(v)
	}
	text := "cordon: " + violation.Sentence(v) + "\n"
	if s.shown > 1 {
		return text
	}
	if s.opts.Report == "" {
		return text + "hint: run it again with --explain, or with --report FILE and then cordon why FILE\n"
	}
	return text + fmt.Sprintf("hint: cordon why %s\n", violation.Escape(s.opts.Report, 256))
}

// signalName is such as SIGTERM; real-time signals have none.
func signalName(sig syscall.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", int(sig))
}
