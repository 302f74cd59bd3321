package supervisor

import (
	"context"
	"fmt"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/control"
)

// Functions takes what applications of the host serve to plugins.
type Functions interface {
	Serve(list []control.Function, call control.FunctionCaller) (withdraw func(), err error)
}

// Serve implements control.Service.
func (s *Supervisor) Serve(_ context.Context, by control.Caller, p control.ServeParams, call control.FunctionCaller) (func(), error) {
	if s.functions == nil {
		return nil, control.Errorf(ipc.CodeUnsupported, "", "this daemon serves no functions of applications")
	}
	withdraw, err := s.functions.Serve(p.Functions, call)
	if err != nil {
		return nil, control.Errorf(ipc.CodeInvalidParams, "", "cannot serve: %w", err)
	}
	what := fmt.Sprintf("%d functions of an application", len(p.Functions))
	s.said("serving", by, what+" are served")
	return func() {
		withdraw()
		s.said("withdrawn", by, what+" are no longer served")
	}, nil
}

// said records what is about no plugin.
func (s *Supervisor) said(kind string, by control.Caller, text string) {
	s.audit.Queue(control.Event{Kind: kind, Actor: by.String(), Text: text})
}
