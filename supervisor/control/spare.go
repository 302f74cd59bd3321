package control

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// spare is a descriptor that is kept for when there is none left: given up for a
// moment, it takes who waits at a socket and closes the connection, so that
// nobody waits for an answer that will not come.
type spare struct{ f *os.File }

// maxTurnedAway bounds how many are turned away at once.
const maxTurnedAway = 128

func newSpare() *spare {
	s := &spare{}
	s.take()
	return s
}

// take tries to have one; without, nobody can be turned away.
func (s *spare) take() {
	if f, err := os.Open(os.DevNull); err == nil {
		s.f = f
	}
}

func (s *spare) close() {
	if s.f != nil {
		_ = s.f.Close() // it holds nothing
		s.f = nil
	}
}

// turnAway closes the connections that wait at l, and says how many there were.
func (s *spare) turnAway(l *net.UnixListener) (n int) {
	raw, err := l.SyscallConn()
	if err != nil {
		return 0
	}
	s.close()
	defer s.take()
	_ = raw.Control(func(fd uintptr) { // it does not block: the listener's descriptor does not
		for ; n < maxTurnedAway; n++ {
			c, _, err := unix.Accept4(int(fd), unix.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			_ = unix.Close(c)
		}
	})
	return n
}
