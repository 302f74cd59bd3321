package cordon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// Harness runs a plugin without a daemon, in the process of its test. It is
// the host's end of the connection.
type Harness struct {
	*Conn
	plugin chan error // how the plugin's Serve ended
	host   chan error
}

// NewHarness starts p and says hello to it. host serves what the plugin asks
// for; nil serves nothing. Close it.
func NewHarness(ctx context.Context, p, host *Plugin) (*Harness, error) {
	if host == nil {
		host = New("host", "0")
	}
	ours, its, err := streams()
	if err != nil {
		return nil, fmt.Errorf("cannot make a harness: %w", err)
	}
	h := &Harness{Conn: newConn(ours, host), plugin: make(chan error, 1), host: make(chan error, 1)}
	h.hosting, h.greeted = true, true
	lives := context.WithoutCancel(ctx) // until Close, though ctx may be the start's alone
	go func() { h.plugin <- p.Serve(lives, its) }()
	go func() { h.host <- h.run(lives) }()
	hello := map[string]any{"api": apiVersion, "api_min": apiVersion, "plugin": p.name}
	if err := h.Call(ctx, "cordon.hello", hello, nil); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return h, nil
}

// Close says goodbye as the daemon does, and returns how the plugin ended.
func (h *Harness) Close() error {
	err := h.Call(context.Background(), methodShutdown, nil, nil)
	if half, ok := h.stream.(*net.UnixConn); ok {
		_ = half.CloseWrite() // the plugin's end tells whether it mattered
	}
	return errors.Join(err, <-h.plugin, <-h.host)
}

// streams makes a socket pair like the one that the daemon makes.
func streams() (a, b net.Conn, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	ends := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		c, connErr := net.FileConn(f)
		err = errors.Join(err, connErr, f.Close())
		ends[i] = c
	}
	return ends[0], ends[1], err
}
