package namespaces

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// heldPlugin starts a shell that answers each line by "got LINE", with
// descriptors held for a successor: a book, and our end of its input.
func heldPlugin(t *testing.T, k *Keeper, uid uint32, book string) (c *Child, in, out *os.File) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ns, err := k.UserNS(ctx, "1000 "+itoa(uid)+" 1", "1000 "+itoa(uid)+" 1")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	stdin, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	note := filepath.Join(t.TempDir(), "book")
	if err := os.WriteFile(note, []byte(book), 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(note)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	v := testView("sh", "-c", "while read x; do echo got $x; done")
	files := []*os.File{ns, stdin, stdout, held, in}
	h := Host{
		LandlockABI: LandlockABI(), Kill: NoFile, UserNS: 0, UID: uid, GID: uid, Holds: []int{3}, Kept: []int{4},
		Descriptors: []Descriptor{{1, 0}, {2, 1}, {2, 2}}, MemfdNoexec: hasMemfdNoexec(),
	}
	for _, m := range v.Mounts {
		if m.From == "" {
			h.Sources = append(h.Sources, Source{File: NoFile})
			continue
		}
		tree, err := OpenTree(m, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer tree.File.Close()
		h.Sources = append(h.Sources, Source{File: len(files), Dir: tree.Dir})
		files = append(files, tree.File)
	}
	steps, err := Compile(v, h)
	if err != nil {
		t.Fatal(err)
	}
	c, err = k.Launch(ctx, Launch{Steps: steps, Files: files, CgroupFile: NoFile, NetNSFile: NoFile, ReaperUID: uid + 1, ReaperGID: uid + 1})
	if err != nil {
		t.Fatal(err)
	}
	return c, in, out
}

func itoa(n uint32) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

// ask sends a line and wants it back; a minute is for a loaded machine.
func ask(t *testing.T, in, out *os.File, line string) {
	t.Helper()
	if err := out.SetReadDeadline(time.Now().Add(time.Minute)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, line+"\n"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("got ")+len(line)+1)
	if _, err := io.ReadFull(out, got); err != nil || string(got) != "got "+line+"\n" {
		t.Fatalf("got %q, %v", got, err)
	}
}

// awaitDone is for what must come; a minute is for a loaded machine.
func awaitDone(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s did not end", what)
	}
}

// TestSuccessorTakesOver: when the daemon has gone the plugins run on, and who
// comes to the keeper's socket gets them with what was held; three times in a
// row.
func TestSuccessorTakesOver(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "keeper.sock")
	if _, _, err := TakeOver(path); !errors.Is(err, ErrNoKeeper) {
		t.Fatalf("nobody is there: got %v", err)
	}
	k, err := StartKeeper()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.KeepFor(time.Minute, path); err != nil {
		t.Fatal(err)
	}
	one, in, out := heldPlugin(t, k, 1900000000, "one")
	two, in2, out2 := heldPlugin(t, k, 1900000002, "two")
	defer out.Close()
	defer out2.Close()
	ask(t, in, out, "first")
	pids := map[int]string{one.PID: "one", two.PID: "two"}
	first, keeperPID := k, k.PID()
	for round := range 3 {
		if err := k.conn.Close(); err != nil { // as if this daemon were killed
			t.Fatal(err)
		}
		next, kept, err := TakeOver(path)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if next.PID() != keeperPID || len(kept) != 2 {
			t.Fatalf("round %d: keeper %d (was %d), %d plugins", round, next.PID(), keeperPID, len(kept))
		}
		for _, p := range kept {
			book := make([]byte, 3)
			if len(p.Held) != 2 {
				t.Fatalf("%d descriptors were held", len(p.Held))
			}
			if n, err := p.Held[0].ReadAt(book, 0); string(book[:n]) != pids[p.PID] {
				t.Errorf("plugin %d has the book %q (%v), want %q", p.PID, book[:n], err, pids[p.PID])
			}
			if p.PID == one.PID {
				one = p.Child
				_ = in.Close()
				in = p.Held[1]
				ask(t, in, out, "again")
			} else {
				two = p.Child
				_ = p.Held[1].Close()
			}
			_ = p.Held[0].Close()
		}
		k = next
	}
	// The successor is a daemon like any other: ends are told, others start.
	if err := two.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, "a killed plugin", two.Done())
	if end := two.End(); !end.Status.Signaled() || end.Orphaned {
		t.Errorf("got end %+v", end)
	}
	if err := two.Forget(); err != nil {
		t.Error(err)
	}
	if out, _, err := testLaunch(t, k, testView("sh", "-c", "echo new")); out != "new\n" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	// Loosened, the end of our side is the end.
	_ = in2.Close()
	if err := one.Loosen(); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	awaitDone(t, "a plugin without input", one.Done())
	if err := errors.Join(one.Forget(), k.KeepFor(0, "")); err != nil {
		t.Error(err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	awaitDone(t, "the keeper", first.Gone())
	if _, _, err := TakeOver(path); !errors.Is(err, ErrNoKeeper) {
		t.Errorf("after the end: got %v", err)
	}
}

// TestKeeperOfAnotherRelease: one whose messages nobody here can read is ended, at
// once, whatever their size is.
func TestKeeperOfAnotherRelease(t *testing.T) {
	for _, size := range []int{8, wireReplySize, 2 * wireReplySize} {
		path := filepath.Join(t.TempDir(), "keeper.sock")
		door, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		other := exec.Command("sleep", "1000")
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(other.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		pidfd := os.NewFile(uintptr(fd), "pidfd")
		spoke := make(chan error, 1)
		go func() {
			conn, err := door.AcceptUnix()
			if err != nil {
				spoke <- err
				return
			}
			message := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, wireMagic), wireVersion+1)
			message = append(message, bytes.Repeat([]byte{0xa5}, size-len(message))...)
			_, _, err = conn.WriteMsgUnix(message, unix.UnixRights(fd), nil)
			if err == nil {
				awaitEnd(pidfd, time.Minute)
			}
			spoke <- errors.Join(err, conn.Close())
		}()
		k, kept, err := TakeOver(path)
		if !errors.Is(err, ErrOtherKeeper) || k != nil || len(kept) > 0 {
			t.Errorf("%d bytes: got %v, %d plugins, %v", size, k, len(kept), err)
		}
		if err := errors.Join(<-spoke, door.Close(), pidfd.Close()); err != nil {
			t.Error(err)
		}
		if err := unix.Kill(other.Process.Pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("%d bytes: it is still there: %v", size, err)
		}
	}
}

// TestNoSuccessorEndsAll: when nobody comes in time, what was kept ends.
func TestNoSuccessorEndsAll(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "keeper.sock")
	k, err := StartKeeper()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.KeepFor(200*time.Millisecond, path); err != nil {
		t.Fatal(err)
	}
	c, in, out := heldPlugin(t, k, 1900000000, "one")
	defer in.Close()
	defer out.Close()
	if err := k.conn.Close(); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, "the keeper", k.Gone())
	awaitDone(t, "the plugin", c.Done())
	if err := unix.Kill(c.PID, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d is there still: %v", c.PID, err)
	}
}

// TestStrangersGetNothing: only root's programs are let in, and one alone.
func TestStrangersGetNothing(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "keeper.sock")
	k, err := StartKeeper()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.KeepFor(time.Minute, path); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("the socket has mode %v, %v", st.Mode(), err)
	}
	c, in, out := heldPlugin(t, k, 1900000000, "one")
	defer in.Close()
	defer out.Close()
	// As if its place were open to all: who connects is asked for all the same.
	if err := errors.Join(os.Chmod(path, 0o666), os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	stranger := asUser(t, 1900000000, path)
	if err := k.conn.Close(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	if n, err := unix.Read(stranger, buf); n > 0 {
		t.Errorf("a stranger was told %d bytes (%v)", n, err)
	}
	_ = unix.Close(stranger)
	next, kept, err := TakeOver(path)
	if err != nil || len(kept) != 1 {
		t.Fatalf("got %d, %v", len(kept), err)
	}
	ask(t, in, out, "hello")
	closeAll(kept[0].Held)
	// While a daemon is there nobody else is accepted.
	second, err := dialKeeper(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := next.UserNS(t.Context(), "0 1900000000 1", "0 1900000000 1"); err != nil {
		t.Errorf("the daemon is served no more: %v", err)
	}
	if err := second.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := second.Read(buf); n > 0 || !os.IsTimeout(err) {
		t.Errorf("a second daemon was told %d bytes, %v", n, err)
	}
	_ = second.Close()
	if err := next.KeepFor(0, ""); err != nil {
		t.Error(err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	awaitDone(t, "the plugin", c.Done())
}

// asUser connects to path as another user of the host.
func asUser(t *testing.T, uid int, path string) int {
	t.Helper()
	fds := make(chan int)
	go func() { // a thread of its own, which ends with it
		runtime.LockOSThread()
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
			if errno != 0 {
				err = errno
			}
		}
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
		if err != nil {
			t.Errorf("cannot connect as %d: %v", uid, err)
			fd = -1
		}
		fds <- fd
	}()
	fd := <-fds
	if fd < 0 {
		t.FailNow()
	}
	return fd
}
