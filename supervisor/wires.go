package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
)

// wires are the descriptors between the daemon and one plugin: its ends and
// ours. Ours are pollable; its are blocking, as programs expect.
type wires struct {
	transport ipc.Transport // taken over by the connection
	logs      []logWire
	// The plugin's ends, closed here once it has its own.
	stdin, stdout, stderr, socket *os.File
}

// logWire is our end of an output that goes to the log.
type logWire struct {
	stream string
	file   *os.File
}

// newWires makes what a protocol needs: a socket at descriptor 3 and all output
// to the log, or standard input and output as the connection and standard error
// to the log.
func newWires(protocol ipc.Protocol) (w *wires, err error) {
	w = &wires{}
	defer func() {
		if err != nil {
			w.closePlugins()
			w.closeHosts()
			err = fmt.Errorf("cannot make the plugin's descriptors: %w", err)
		}
	}()
	if w.stderr, err = w.logPipe("stderr"); err != nil {
		return w, err
	}
	if protocol == ipc.ProtocolCordon || protocol == "" {
		return w, w.socketWires()
	}
	return w, w.stdioWires()
}

func (w *wires) socketWires() (err error) {
	if w.stdin, err = os.OpenFile(os.DevNull, os.O_RDONLY, 0); err != nil {
		return err
	}
	if w.stdout, err = w.logPipe("stdout"); err != nil {
		return err
	}
	w.transport, w.socket, err = ipc.Socketpair()
	return err
}

func (w *wires) stdioWires() error {
	out, stdout, err := pipe()
	if err != nil {
		return err
	}
	w.stdout = stdout
	stdin, in, err := pipe()
	if err != nil {
		return errors.Join(err, out.Close())
	}
	w.stdin = stdin
	hostOut, err := pollable(out)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	hostIn, err := pollable(in)
	if err != nil {
		return errors.Join(err, hostOut.Close())
	}
	w.transport = ipc.PipeTransport(hostOut, hostIn)
	return nil
}

// logPipe makes a pipe whose reading end goes to the log, and returns the other.
func (w *wires) logPipe(stream string) (*os.File, error) {
	r, plugin, err := pipe()
	if err != nil {
		return nil, err
	}
	host, err := pollable(r)
	if err != nil {
		return nil, errors.Join(err, plugin.Close())
	}
	w.logs = append(w.logs, logWire{stream, host})
	return plugin, nil
}

// pipe makes a pipe with both ends blocking and close-on-exec; os.Pipe's are
// not blocking, which a program inherits and does not expect.
func pipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// pollable returns our end so that deadlines and Close end a Read that waits.
// It takes f over.
func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "pipe"), nil
}

// closePlugins closes the plugin's ends on our side.
func (w *wires) closePlugins() {
	for _, f := range []*os.File{w.stdin, w.stdout, w.stderr, w.socket} {
		if f != nil {
			_ = f.Close() // nothing was written by us
		}
	}
}

// closeHosts closes our ends after a start that failed. The transport may
// belong to a connection already; closing it twice does no harm.
func (w *wires) closeHosts() {
	for _, l := range w.logs {
		_ = l.file.Close()
	}
	for _, c := range []io.Closer{w.transport.R, w.transport.W} {
		if c != nil {
			_ = c.Close()
		}
	}
}
