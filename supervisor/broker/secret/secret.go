// Package secret is the capability secret.read: what the host keeps under a
// name. A secret is never in an environment, an argument or a file of the
// plugin's view, and is taken out of everything that is written down.
package secret

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// The bounds of one secret.
const (
	maxSecret   = 64 << 10 // bytes
	commandTime = 5 * time.Second
)

const params = `{"type": "object", "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 128}, "_meta": {"type": "object"}}, "required": ["name"], "additionalProperties": false}`

// Source is where one secret comes from: exactly one of its fields is set. It
// is read anew each time, so that a secret can be changed while plugins run.
type Source struct {
	// File is an absolute path; the file is root's, and nobody else reads it.
	File string
	// Credential is a systemd credential of the daemon's unit.
	Credential string
	// Command is run as root with an empty environment; what it prints, without
	// its last line end, is the secret.
	Command []string
}

// New makes the capability over the sources that find gives.
func New(find func(name string) (Source, bool)) capability.Capability {
	return capability.Capability{
		Name: "secret.read",
		Text: "A secret that the host keeps under a name: [[secret]] in cordond.toml says where. Each time it is read anew, recorded by name, and taken out of the plugin's log and of evidence.",
		Cost: capability.Disk, Phases: capability.Always(),
		Methods: []capability.Method{
			{
				Name: "secret.open", Text: "hands a secret over in memory that nobody can change any more (a sealed memfd)", Params: params, Result: `{"type": "object"}`, Target: named,
				Serve: func(ctx context.Context, c *capability.Call) (any, error) { return pass(ctx, c, find) },
			},
			{
				Name: "secret.read", Text: "gives a secret, as base64", Params: params, Result: `{"type": "object"}`, Target: named,
				Serve: func(ctx context.Context, c *capability.Call) (any, error) { return serve(ctx, c, find) },
			},
		},
	}
}

func named(params json.RawMessage) (string, error) {
	var p struct {
		Name string `json:"name"`
	}
	err := json.Unmarshal(params, &p)
	return p.Name, err
}

func serve(ctx context.Context, c *capability.Call, find func(string) (Source, bool)) (any, error) {
	value, err := take(ctx, c, find)
	if err != nil {
		return nil, err
	}
	return struct {
		Data []byte `json:"data"`
	}{value}, nil
}

// pass is the descriptor form.
func pass(ctx context.Context, c *capability.Call, find func(string) (Source, bool)) (any, error) {
	if err := c.Needs(ipc.KindMemfd, "secret.read"); err != nil {
		return nil, err
	}
	value, err := take(ctx, c, find)
	if err != nil {
		return nil, err
	}
	f, err := sealed(value)
	if err != nil {
		return nil, fmt.Errorf("cannot hand over secret %s: %w", c.Target, err)
	}
	return ipc.WithFiles{Result: struct {
		Size int `json:"size"`
	}{len(value)}, Files: []*os.File{f}}, nil
}

// sealed is memory with a value in it that nobody can change, make longer or
// execute; memfd_create(2).
func sealed(value []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("secret", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("secret", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "secret") // #nosec G115 -- a descriptor
	if _, err = f.Write(value); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// take reads a secret, and has it redacted from now on.
func take(ctx context.Context, c *capability.Call, find func(string) (Source, bool)) ([]byte, error) {
	source, ok := find(c.Target)
	if !ok {
		return nil, ipc.Errorf(ipc.CodeNotFound, "cannot read secret %.128q: the host has none of that name", c.Target)
	}
	value, err := source.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read secret %s: %w", c.Target, err)
	}
	if err := c.Spend(int64(len(value))); err != nil {
		return nil, err
	}
	c.Env.Redact(string(bytes.TrimSpace(value)))
	return value, nil
}

// Check says what is wrong with a source.
func (s Source) Check() error {
	n := 0
	for _, set := range []bool{s.File != "", s.Credential != "", len(s.Command) > 0} {
		if set {
			n++
		}
	}
	switch {
	case n != 1:
		return errors.New("expected one of file, credential and command")
	case s.File != "" && (!filepath.IsAbs(s.File) || filepath.Clean(s.File) != s.File):
		return errors.New("expected an absolute path without '..' as file")
	case s.Credential != "" && (s.Credential != filepath.Base(s.Credential) || s.Credential[0] == '.'):
		return errors.New("expected a name without '/' as credential")
	case len(s.Command) > 0 && !filepath.IsAbs(s.Command[0]):
		return errors.New("expected an absolute path of the program as the first word of command")
	}
	return nil
}

// Read gives the secret.
func (s Source) Read(ctx context.Context) ([]byte, error) {
	switch {
	case s.File != "":
		return readFile(s.File)
	case s.Credential != "":
		dir := os.Getenv("CREDENTIALS_DIRECTORY") // systemd.exec(5)
		if dir == "" {
			return nil, errors.New("the daemon was not given credentials: it does not run as a unit with LoadCredential=")
		}
		return readFile(filepath.Join(dir, s.Credential))
	default:
		return s.run(ctx)
	}
}

// readFile takes only what no one but root could have put there or read.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != uint32(os.Geteuid()) || st.Mode&0o077 != 0 {
		return nil, fmt.Errorf("%s must be a regular file of root's that nobody else can read (chmod 600)", path)
	}
	return bounded(f)
}

func bounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err == nil && len(b) > maxSecret {
		err = fmt.Errorf("it is longer than %d bytes", maxSecret)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (s Source) run(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Command[0], s.Command[1:]...) // the operator's own command
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{}, "/", time.Second
	out := &limited{}
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Command[0], err) // what it printed may be half a secret
	}
	return bytes.TrimSuffix(out.b.Bytes(), []byte("\n")), nil
}

// limited is a buffer that refuses to grow beyond a secret's bound.
type limited struct{ b bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > maxSecret {
		return 0, fmt.Errorf("it printed more than %d bytes", maxSecret)
	}
	return l.b.Write(p)
}
