package seccomp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// KeptSize is how many bytes of memory Listener.AddKept takes: room for about a
// hundred calls. Of more that wait at once some are not kept.
const KeptSize = 8192

// places are where the kernel writes the calls that are taken.
type places struct {
	memory []uint64
	size   int // of one, in words
}

func newPlaces(memory []byte, sizes notifySizes) *places {
	if len(memory) < KeptSize {
		return nil
	}
	return &places{
		memory: unsafe.Slice((*uint64)(unsafe.Pointer(&memory[0])), KeptSize/8), size: (int(sizes.notification) + 7) / 8,
	}
}

func (k *places) at(i int) []uint64 { return k.memory[i*k.size : (i+1)*k.size : (i+1)*k.size] }

// free finds a place that none of the pending calls has; -1 if there is none.
func (k *places) free(pending map[uint64]int) (int, []uint64) {
	if k == nil || len(pending) >= len(k.memory)/k.size {
		return -1, nil
	}
	for i := range len(k.memory) / k.size {
		if k.at(i)[0] == 0 {
			return i, k.at(i)
		}
	}
	return -1, nil
}

// forget gives a place back: its first word is the call's id, never 0 while it
// waits.
func (k *places) forget(place int) {
	if k != nil && place >= 0 {
		k.at(place)[0] = 0
	}
}

func (k *places) forgetAll() {
	if k != nil {
		clear(k.memory)
	}
}

// left are the calls that an earlier process took and did not answer, those
// that still wait. The source is not served yet.
func (l *Listener) left(s *source) []Notification {
	if s.kept == nil {
		return nil
	}
	var waiting []Notification
	for i := range len(s.kept.memory) / s.kept.size {
		place := s.kept.at(i)
		if place[0] == 0 {
			continue
		}
		n := l.notification(s, unsafe.Slice((*byte)(unsafe.Pointer(&place[0])), notificationSize))
		id := n.ID
		if ioctl(s.fd, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) != 0 {
			place[0] = 0
			continue
		}
		s.pending[n.ID] = i
		waiting = append(waiting, n)
	}
	return waiting
}
