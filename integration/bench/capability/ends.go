package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The ends of a transfer are processes of their own, as a plugin and a server
// are: in one process with the relay they would wait for its runtime's
// processors. Both are this program again, told by its first argument what it is.
const (
	asSource = "source" // listens, says where, and sends so many bytes to who connects
	asSink   = "sink"   // connects at each line, reads to the end and says how long it took
)

// buffer is what either end gives to the kernel, or takes, at once.
const buffer = 256 << 10

// end runs one end; ok is false if args name none.
func end(args []string) (ok bool, err error) {
	switch {
	case len(args) == 2 && args[0] == asSource:
		var size int64
		if _, err := fmt.Sscan(args[1], &size); err != nil {
			return true, err
		}
		return true, source(size)
	case len(args) == 2 && args[0] == asSink:
		return true, sink(args[1])
	}
	return false, nil
}

func source(size int64) error {
	l, err := net.Listen("tcp", "127.0.0.8:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	buf := make([]byte, buffer)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		for left := size; left > 0 && err == nil; left -= int64(len(buf)) {
			_, err = c.Write(buf[:min(left, int64(len(buf)))])
		}
		if err = errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
}

func sink(addr string) error {
	buf := make([]byte, buffer)
	for asked := bufio.NewScanner(os.Stdin); asked.Scan(); {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		began := time.Now()
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, buf)
		fmt.Println(n, time.Since(began).Nanoseconds())
		if err = errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	return nil
}

// helper is one end that runs.
type helper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// help starts one end in the network namespace of a process, 0 for this one's own.
// The caller stops it.
func help(pid int, args ...string) (*helper, error) {
	h := &helper{cmd: exec.Command("/proc/self/exe", args...)}
	h.cmd.Stderr, h.cmd.SysProcAttr = os.Stderr, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := h.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.in, h.out = in, bufio.NewReader(out)
	if pid == 0 {
		return h, h.cmd.Start()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked; its end must not be the helper's
		h.cmd.SysProcAttr.Pdeathsig = 0
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
		}
		if err == nil {
			err = h.cmd.Start()
		}
		done <- err
	}()
	return h, <-done
}

// line is the next line that the end says.
func (h *helper) line() (string, error) {
	text, err := h.out.ReadString('\n')
	return strings.TrimSpace(text), err
}

// stop ends it; a sink ends by itself when nobody can ask it any more.
func (h *helper) stop() {
	_ = h.in.Close()
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

// fetch has a sink take a transfer of size bytes, and gives MiB a second.
func (h *helper) fetch(size int64) (float64, error) {
	if _, err := fmt.Fprintln(h.in); err != nil {
		return 0, err
	}
	text, err := h.line()
	if err != nil {
		return 0, err
	}
	var n, took int64
	if _, err := fmt.Sscan(text, &n, &took); err != nil {
		return 0, err
	}
	if n != size {
		return 0, fmt.Errorf("%d bytes of %d came", n, size)
	}
	return float64(n>>20) / time.Duration(took).Seconds(), nil
}
