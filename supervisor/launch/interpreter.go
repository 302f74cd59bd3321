package launch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
)

// Interpreter is a program of the host that a plugin's command is run by: the
// command itself where it is the host's, what the first line of a script names,
// and what env(1) is asked for there. The files of the bundle are none: their
// digest is the bundle's. What directories of the host hold beside it, shared
// libraries say, is not looked at.
type Interpreter struct {
	// Path is where it is asked for inside, File where that leads on the host.
	Path string `json:"path"`
	File string `json:"file"`
	// Digest is "sha256:" and 64 hexadecimal digits.
	Digest string `json:"digest"`
}

// Pins hold a start to interpreters.
type Pins struct {
	// Files are the digests that they must have, by Interpreter.Path, and no other
	// may be among them; nil takes those that there are.
	Files map[string]string
}

// PinError refuses an interpreter that is not what was pinned.
type PinError struct {
	Interpreter
	// Pinned is the digest that it must have; empty if that path is not pinned.
	Pinned string
}

func (e *PinError) Error() string {
	file := e.Path
	if e.File != e.Path {
		file += " (" + e.File + ")"
	}
	if e.Pinned == "" {
		return fmt.Sprintf("cannot run it by %s: its digest is %s, and other interpreters were pinned, not this one", file, e.Digest)
	}
	return fmt.Sprintf("cannot run it by %s: the file was changed: its digest is %s, and %s was pinned", file, e.Digest, e.Pinned)
}

// The bounds of looking for interpreters: how many follow one another (the
// kernel takes four scripts, each of which env may be between), how long a first
// line is (execve(2)), how many links a path may have, and how large a file.
const (
	maxInterpreters = 12
	maxFirstLine    = 256
	maxLinks        = 40
	maxInterpreter  = 1 << 30 // bytes
)

// interpreters finds what the command is run by, holds it to the pins, and has
// the very files that were looked at be what stands there inside.
func (s *start) interpreters() error {
	if s.r.Pins == nil {
		return nil
	}
	process := s.view.Process
	names, args := namespaces.Candidates(process), process.Argv[1:]
	for range maxInterpreters {
		name, at, ok := s.firstOf(names)
		if !ok || slices.ContainsFunc(s.runBy, func(i Interpreter) bool { return i.Path == name }) {
			return nil // what is not there, and what goes in a circle, the kernel tells of
		}
		line, err := s.look(name, at)
		switch {
		case err != nil:
			return err
		case len(line) > 0: // a script
			names, args = []string{path.Join("/", process.Cwd, line[0])}, line[1:]
			if path.IsAbs(line[0]) {
				names = line[:1]
			}
		case path.Base(name) == "env":
			asked := process
			if asked.Argv = envProgram(args); len(asked.Argv) == 0 {
				return nil
			}
			names, args = namespaces.Candidates(asked), asked.Argv[1:]
		default:
			return nil
		}
	}
	return nil
}

// envProgram is the command in the arguments of env(1).
func envProgram(args []string) []string {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-u" || arg == "-C" || arg == "--unset" || arg == "--chdir":
			i++ // it takes the next
		case !strings.HasPrefix(arg, "-") && !strings.Contains(arg, "="):
			return args[i:]
		}
	}
	return nil
}

// place is what a path inside is.
type place struct {
	inside string // without links
	host   string // the same on the host
	mount  int    // the view's that shows it
}

// firstOf is the first of names that is a file which can be executed.
func (s *start) firstOf(names []string) (string, place, bool) {
	for _, name := range names {
		at, ok := s.find(name)
		if !ok || !s.view.Mounts[at.mount].Exec {
			continue
		}
		if info, err := os.Lstat(at.host); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return name, at, true
		}
	}
	return "", place{}, false
}

// find follows a path inside, and its links, as the plugin would. ok is false
// for what no tree of the host shows.
func (s *start) find(name string) (_ place, ok bool) {
	at, rest := "/", parts(name)
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		target, is := s.linkAt(next)
		if !is {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return place{}, false
		}
		if !path.IsAbs(target) {
			target = path.Join(at, target)
		}
		at, rest = "/", append(parts(target), rest...)
	}
	i, host := s.behind(at)
	return place{inside: at, host: host, mount: i}, i >= 0 && host != ""
}

func parts(name string) []string {
	return strings.FieldsFunc(path.Clean(name), func(r rune) bool { return r == '/' })
}

// linkAt is where a link at a path inside leads. What a mount stands at is none.
func (s *start) linkAt(at string) (target string, is bool) {
	i, host := s.behind(at)
	switch {
	case i < 0:
		for _, l := range s.view.Symlinks {
			if l.Path == at {
				return l.Target, true
			}
		}
		return "", false
	case host == "" || s.view.Mounts[i].Path == at:
		return "", false
	}
	target, err := os.Readlink(host)
	return target, err == nil
}

// behind is the mount that shows a path inside, -1 if none does, and what that
// is on the host; empty where it is no tree of the host.
func (s *start) behind(at string) (mount int, host string) {
	mount = -1
	for i := range s.view.Mounts {
		m := &s.view.Mounts[i]
		if s.host.Sources[i].Missing || !within(at, m.Path) || mount >= 0 && len(m.Path) < len(s.view.Mounts[mount].Path) {
			continue
		}
		mount, host = i, ""
		if m.From != "" {
			host = path.Join(s.reals[i], strings.TrimPrefix(at, m.Path))
		}
	}
	return mount, host
}

// look takes the digest of the host's file that is asked for at name, and gives
// the words of its first line if it is a script.
func (s *start) look(name string, at place) (line []string, err error) {
	o, err := s.openAt(at)
	if err != nil {
		return nil, err
	}
	if s.view.Mounts[at.mount].From != s.r.Bundle {
		if err := s.hold(name, at, o); err != nil {
			return nil, err
		}
	}
	return firstLine(o)
}

// openAt gives what stands at a place: what is mounted there by itself, or a
// file of a tree, which is mounted by itself from now on: what is looked at is
// what is executed, whatever becomes of its name meanwhile.
func (s *start) openAt(at place) (*namespaces.OpenedSource, error) {
	if s.view.Mounts[at.mount].Path == at.inside {
		return s.opened[s.host.Sources[at.mount].File].OpenedSource, nil
	}
	m := namespaces.Mount{Path: at.inside, From: at.host, Exec: true}
	o, err := namespaces.OpenSource(m)
	if err != nil {
		return nil, err
	}
	s.back.add(o.Close)
	if s.view.Mounts[at.mount].From == s.r.Bundle {
		return o, nil
	}
	s.opened = append(s.opened, opened{o, m})
	s.view.Mounts = append(s.view.Mounts, m)
	s.host.Sources = append(s.host.Sources, namespaces.Source{File: len(s.opened) - 1})
	s.reals = append(s.reals, o.Real)
	return o, nil
}

// hold refuses an interpreter that is not as it was pinned, and one that others
// than root could change while it runs.
func (s *start) hold(name string, at place, o *namespaces.OpenedSource) error {
	if o.UID != 0 || o.Mode&0o022 != 0 {
		return &namespaces.SourceError{Path: at.host, Why: fmt.Sprintf("the plugin would be run by it, and others than root can change it (it belongs to uid %d, with mode %04o): chown root and chmod go-w it", o.UID, o.Mode)}
	}
	digest, err := s.l.digests.of(o)
	if err != nil {
		return fmt.Errorf("cannot read %s, which the plugin is run by: %w", at.host, err)
	}
	i := Interpreter{Path: name, File: at.host, Digest: digest}
	if pins := s.r.Pins.Files; pins != nil && pins[name] != digest {
		return &PinError{Interpreter: i, Pinned: pins[name]}
	}
	s.runBy = append(s.runBy, i)
	return nil
}

// firstLine gives the words after #! of a script; nil for what is none.
func firstLine(o *namespaces.OpenedSource) ([]string, error) {
	f, err := o.Reopen()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var head [maxFirstLine]byte
	n, err := io.ReadFull(f, head[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	rest, is := bytes.CutPrefix(head[:n], []byte("#!"))
	if !is {
		return nil, nil
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return strings.Fields(string(line)), nil
}

// Interpreters are those that a start of p would be held to now. bundle is as of
// Request.
func (l *Launcher) Interpreters(p *plan.Plan, bundle string) (_ []Interpreter, err error) {
	s := &start{l: l, r: Request{Plan: p, Bundle: bundle, Pins: &Pins{}}}
	defer func() { err = errors.Join(err, s.back.run()) }()
	s.view = buildView(s.r)
	for i := range s.view.Mounts {
		if err := s.source(i); err != nil {
			return nil, err
		}
	}
	s.reals = showLinks(&s.view, &s.host, s.reals)
	err = s.interpreters()
	return s.runBy, err
}

// fileDigests are those of files that were read. A file is taken for what it was
// as long as its inode has the size and the times that it had: the kernel sets
// the change time with every write, and offers no call to set it back, so that
// only root could deceive this, by turning the clock back or writing to the
// disk's blocks.
type fileDigests struct {
	mu sync.Mutex
	by map[namespaces.SourceStamp]*fileDigest
}

// fileDigest is read by the first who asks; the others wait.
type fileDigest struct {
	once sync.Once
	text string
	err  error
}

// maxDigests bounds what is remembered; then all is forgotten. young is how long
// a change time proves nothing: the clock behind it is coarse.
const (
	maxDigests = 256
	young      = 2 * time.Second
)

func (d *fileDigests) of(o *namespaces.OpenedSource) (string, error) {
	if time.Since(time.Unix(0, o.Stamp.Changed)) < young { // or it lies in the future
		return readDigest(o)
	}
	one := d.get(o.Stamp)
	one.once.Do(func() { one.text, one.err = readDigest(o) })
	if one.err != nil {
		d.forget(o.Stamp, one)
	}
	return one.text, one.err
}

func (d *fileDigests) get(at namespaces.SourceStamp) *fileDigest {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.by[at]
	if one != nil {
		return one
	}
	if d.by == nil || len(d.by) >= maxDigests {
		d.by = map[namespaces.SourceStamp]*fileDigest{}
	}
	one = &fileDigest{}
	d.by[at] = one
	return one
}

func (d *fileDigests) forget(at namespaces.SourceStamp, one *fileDigest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by[at] == one {
		delete(d.by, at)
	}
}

// readDigest reads the whole file, which must not change meanwhile.
func readDigest(o *namespaces.OpenedSource) (string, error) {
	f, err := o.Reopen()
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(f, maxInterpreter+1))
	if err == nil && n > maxInterpreter {
		err = fmt.Errorf("it is larger than %d bytes", maxInterpreter)
	}
	if err != nil {
		return "", err
	}
	now, err := o.Restat()
	if err == nil && now != o.Stamp {
		err = errors.New("it changed while it was read")
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), err
}
