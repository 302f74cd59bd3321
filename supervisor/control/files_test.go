package control

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
)

// TestOnlyPairsAreHandedOn: what a client hands to a plugin leads nowhere that
// the plugin's own walls do not.
func TestOnlyPairsAreHandedOn(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	abstract, err := net.Listen("unix", "@cordon-test-"+filepath.Base(t.TempDir())+t.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	fileOf := func(c any, err error) *os.File {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		f, err := c.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	pair := func(kind int) *os.File {
		t.Helper()
		fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		a, b := os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
		t.Cleanup(func() { _, _ = a.Close(), b.Close() })
		return a
	}
	lone, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unconnected := os.NewFile(uintptr(lone), "lone")
	defer unconnected.Close()
	for name, f := range map[string]*os.File{
		"connected to a path":        fileOf(net.Dial("unix", l.Addr().String())),
		"connected to a name":        fileOf(net.Dial("unix", abstract.Addr().String())),
		"accepted":                   fileOf(acceptedOn(l)),
		"listening":                  fileOf(l, nil),
		"tcp":                        fileOf(net.Dial("tcp", tcp.Addr().String())),
		"a pair of datagram sockets": pair(unix.SOCK_DGRAM),
		"a pair of packet sockets":   pair(unix.SOCK_SEQPACKET),
		"not connected":              unconnected,
	} {
		r := &ipc.Request{Files: []ipc.Descriptor{{Kind: ipc.KindSocket, File: f}}}
		if files, err := handedOn(r); err == nil || len(files) > 0 {
			t.Errorf("%s: it was handed on", name)
		}
	}
	null, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, kind := range []ipc.DescriptorKind{ipc.KindFile, ipc.KindShared} {
		if _, err := handedOn(&ipc.Request{Files: []ipc.Descriptor{{Kind: kind, File: null}}}); err == nil {
			t.Errorf("a %s was handed on", kind)
		}
	}
	r := &ipc.Request{Files: []ipc.Descriptor{{Kind: ipc.KindSocket, File: pair(unix.SOCK_STREAM)}, {Kind: ipc.KindMemfd, File: null}}}
	if files, err := handedOn(r); err != nil || len(files) != 2 {
		t.Errorf("a pair and sealed memory: %v, %v", files, err)
	}
}

// acceptedOn is the server's end of a connection.
func acceptedOn(l net.Listener) (net.Conn, error) {
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return l.Accept()
}
