package namespaces

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Op is a kind of step; the generated constants say what each does.
type Op uint32

// String names the op as steps are listed.
func (o Op) String() string {
	if name, ok := opNames[o]; ok {
		return name
	}
	return fmt.Sprintf("op %d", uint32(o))
}

// Phase is the part of a launch in which steps of this kind run: keep, join,
// mount, identity, lock, exec, in this order.
func Phase(o Op) string { return phaseNames[opPhases[o]] }

// NoFile marks a step that takes no descriptor.
const NoFile = -1

// Step is one thing that a new plugin does before its exec, or that the keeper
// remembers for it. Steps are plain data and pure to compile; descriptors are
// indexes into the files that go with the launch.
type Step struct {
	Op      Op
	Wall    string // the wall that it belongs to, such as "mount" or "landlock"
	File    int    // index, or NoFile
	A, B, C uint64
	S, T    string
	Bytes   []byte   // instead of T
	Paths   []string // of OpExec: candidates, tried in order
	Args    []string // of OpExec
	Env     []string // of OpExec
	Text    string   // what it does, for people: "mount /proc read-only"
	// Prepared steps make what all starts of a plan have alike; see Part.
	Prepared bool
	// Number is the step's place in the plan that it was parted from, from 1; 0 if
	// it was not.
	Number int
}

// Part takes the prepared steps out of those of a start: a mount namespace made
// by them once (Keeper.Template) serves every start, which enters a copy of it
// by an OpTemplate whose File the caller fills in. Without prepared steps, or
// without a mount namespace, template is nil and start is steps.
func Part(steps []Step) (template, start []Step) {
	enters := slices.ContainsFunc(steps, func(s Step) bool { return s.Op == OpNamespace && s.A == unix.CLONE_NEWNS })
	if !enters || !slices.ContainsFunc(steps, func(s Step) bool { return s.Prepared }) {
		return nil, steps
	}
	start = make([]Step, 0, len(steps))
	for i, s := range steps {
		s.Number = i + 1
		switch {
		case s.Prepared:
			template = append(template, s)
			continue
		case s.Op == OpNamespace && s.A == unix.CLONE_NEWNS:
			s.Op, s.A = OpTemplate, 0
		}
		start = append(start, s)
	}
	return template, start
}

// String is the line that cordon profile plan prints and errors quote.
func (s Step) String() string {
	if s.Text != "" {
		return s.Text
	}
	return strings.TrimSpace(s.Op.String() + " " + s.S)
}

// blob collects the strings of a request.
type blob struct{ data []byte }

func (b *blob) str(s string) uint32 {
	at := len(b.data)
	b.data = append(append(b.data, s...), 0)
	return uint32(at)
}

func (b *blob) strs(list ...[]string) uint32 {
	at := len(b.data)
	for _, l := range list {
		for _, s := range l {
			b.str(s)
		}
	}
	return uint32(at)
}

// bytes are aligned for the kernel, which takes filters from where they lie.
func (b *blob) bytes(data []byte) uint32 {
	for len(b.data)%8 != 0 {
		b.data = append(b.data, 0)
	}
	at := len(b.data)
	b.data = append(b.data, data...)
	return uint32(at)
}

func (s Step) wire(b *blob) wireStep {
	w := wireStep{Op: uint32(s.Op), FD: wireNoString, A: s.A, B: s.B, C: s.C, S: wireNoString, T: wireNoString}
	if s.File >= 0 {
		w.FD = uint32(s.File)
	}
	switch {
	case s.Op == OpExec:
		w.A, w.B, w.C = uint64(len(s.Paths)), uint64(len(s.Args)), uint64(len(s.Env))
		w.S = b.strs(s.Paths)
		w.T = b.strs(s.Args, s.Env)
		return w
	case s.Bytes != nil || s.Op == OpMkfile || s.Op == OpSeccomp:
		w.T, w.B = b.bytes(s.Bytes), uint64(len(s.Bytes))
	default:
		w.T = b.str(s.T)
	}
	w.S = b.str(s.S)
	return w
}

// encode turns steps into their wire form and the blob that they point into. A
// NUL in a string would cut it short on the other side, so it is refused.
func encode(steps []Step) ([]wireStep, []byte, error) {
	var b blob
	wires := make([]wireStep, len(steps))
	for i, s := range steps {
		for _, list := range [][]string{{s.S, s.T}, s.Paths, s.Args, s.Env} {
			for _, str := range list {
				if strings.IndexByte(str, 0) >= 0 {
					return nil, nil, fmt.Errorf("cannot %s (step %d): a NUL byte in %q", s, i+1, str)
				}
			}
		}
		wires[i] = s.wire(&b)
	}
	return wires, b.data, nil
}

// append is binary.Append without reflection, which takes longer than all else
// of a request.
func (w *wireStep) append(out []byte) []byte {
	out = binary.LittleEndian.AppendUint32(out, w.Op)
	out = binary.LittleEndian.AppendUint32(out, w.FD)
	out = binary.LittleEndian.AppendUint64(out, w.A)
	out = binary.LittleEndian.AppendUint64(out, w.B)
	out = binary.LittleEndian.AppendUint64(out, w.C)
	out = binary.LittleEndian.AppendUint32(out, w.S)
	return binary.LittleEndian.AppendUint32(out, w.T)
}

// pack lays a request out: header, steps, blob.
func pack(h wireRequest, steps []wireStep, data []byte) ([]byte, error) {
	size := wireRequestSize + len(steps)*wireStepSize + len(data)
	if size > wireMaxMessage || len(steps) > wireMaxSteps {
		return nil, fmt.Errorf("cannot send a plan of %d steps and %d bytes: at most %d steps and %d bytes (arguments, environment, files and filter together)",
			len(steps), size, wireMaxSteps, wireMaxMessage)
	}
	h.Magic, h.Version = wireMagic, wireVersion
	h.Nsteps, h.Nblob = uint32(len(steps)), uint32(len(data))
	out, err := binary.Append(make([]byte, 0, size), binary.LittleEndian, h)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a plan: %w", err)
	}
	for i := range steps {
		out = steps[i].append(out)
	}
	return append(out, data...), nil
}
