package ipc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// JournalSize is how many bytes of memory a journal takes: its words, and as much
// for what was read last.
const (
	JournalSize  = journalWords + landingSize
	journalWords = 2048
	landingSize  = 2048
)

// Journal is what another process must know to go on with a connection when
// this one is killed: whether the stream stands between two messages both ways,
// which of the peer's requests have no answer yet, and which ids were used. It
// lies in memory that outlives this process, and is written before what it
// tells of can be seen outside.
//
// The kernel itself writes what is read between two messages there, before this
// process knows of it: what was read and not looked at any more is read again.
type Journal struct {
	w *[journalWords / 8]atomic.Uint64
	// landing is where reads between two messages go. All of it is nothingRead but
	// for the newest of them, of which landed is the length.
	landing []byte
	landed  int
	// mu guards the places of requests.
	mu sync.Mutex
}

// The words of a journal. What is written is whole at every moment: one word,
// or a place whose first word comes last.
const (
	wordMagic    = iota // journalMagic once a connection uses it
	wordReading         // 1: what was read is not all handled, or half a message
	wordWriting         // 1: what is being written may be half a message
	wordCalls           // the newest id of our calls
	wordTakes           // which descriptors the peer takes
	wordUnnoted         // requests of the peer that found no place
	wordLooked          // 1: what has landed is known to this process
	wordFraming         // of the connection
	firstPlace   = 8
	placeWords   = 8 // the length of an id, or-ed with answered, and the id
	journalMagic = 0x31_6c_6e_72_75_6f_6a_63
	maxPlaceID   = (placeWords - 1) * 8
	places       = (journalWords/8 - firstPlace) / placeWords
	answered     = 1 << 32 // its answer is in the queue
	nothingRead  = 0xff    // a byte that stands nowhere in UTF-8
)

// NewJournal makes a journal of JournalSize bytes of memory, aligned to words,
// as it is.
func NewJournal(memory []byte) (*Journal, error) {
	if len(memory) < JournalSize || uintptr(unsafe.Pointer(&memory[0]))%8 != 0 {
		return nil, errors.New("cannot make a journal: too little memory, or not aligned")
	}
	return &Journal{
		w:       (*[journalWords / 8]atomic.Uint64)(unsafe.Pointer(&memory[0])),
		landing: memory[journalWords:JournalSize:JournalSize], landed: landingSize,
	}, nil
}

// begin makes it the journal of a new connection.
func (j *Journal) begin(f Framing) {
	for i := range j.w {
		j.w[i].Store(0)
	}
	j.w[wordFraming].Store(uint64(f))
	j.clear()
	j.w[wordMagic].Store(journalMagic)
}

// clear forgets what has landed: all of it is handled.
func (j *Journal) clear() {
	if used := j.landing[:j.landed]; len(used) > 0 {
		used[0] = nothingRead
		for i := 1; i < len(used); i *= 2 {
			copy(used[i:], used[:i])
		}
	}
	j.landed = 0
	j.w[wordLooked].Store(0)
}

// looked says that this process knows of the n bytes that have landed.
func (j *Journal) looked(n int) {
	j.landed = n
	j.w[wordLooked].Store(1)
}

// unseen is what was read and not looked at.
func (j *Journal) unseen() []byte {
	if j.w[wordLooked].Load() != 0 {
		return nil
	}
	n := len(j.landing)
	for n > 0 && j.landing[n-1] == nothingRead {
		n--
	}
	return j.landing[:n]
}

// errLanded says that nobody can go on with what was read and not looked at.
var errLanded = errors.New("what it had just said is not known")

// legible says whether what was read and not looked at is all there. The bytes of
// a length may be those of which there is nothing, and what descriptors came with
// them is gone.
func (j *Journal) legible() error {
	b := j.unseen()
	if bytes.Contains(b, descriptorsKey) {
		return errLanded
	}
	if Framing(j.w[wordFraming].Load()) != FramingLength {
		return nil
	}
	for len(b) > 0 {
		if len(b) < lengthHeader {
			return errLanded
		}
		n := lengthHeader + int(binary.BigEndian.Uint32(b))
		b = b[min(n, len(b)):]
	}
	return nil
}

// Resumable says whether another process can go on with the connection, and why
// not. Nobody may use it meanwhile.
func (j *Journal) Resumable() error {
	if err := j.between(); err != nil {
		return err
	}
	return j.legible()
}

// between says whether the stream is known to stand between two messages.
func (j *Journal) between() error {
	switch {
	case j.w[wordMagic].Load() != journalMagic:
		return errors.New("nothing is known of its connection")
	case j.w[wordReading].Load() != 0:
		return errors.New("it was in the middle of a message to its host")
	case j.w[wordWriting].Load() != 0:
		return errors.New("it was in the middle of a message from its host")
	case j.w[wordUnnoted].Load() != 0:
		return errors.New("it had asked its host for more than could be noted")
	}
	return nil
}

func (j *Journal) reading(on bool) { j.set(wordReading, on) }
func (j *Journal) writing(on bool) { j.set(wordWriting, on) }

func (j *Journal) set(word int, on bool) {
	if j == nil {
		return
	}
	v := uint64(0)
	if on {
		v = 1
	}
	j.w[word].Store(v)
}

func (j *Journal) called(id uint64) {
	if j != nil {
		j.w[wordCalls].Store(id)
	}
}

func (j *Journal) takes(mask uint32) {
	if j != nil {
		j.w[wordTakes].Store(uint64(mask))
	}
}

// note gives a request of the peer a place; -1 if it got none.
func (j *Journal) note(id string) int {
	if j == nil {
		return -1
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range places {
		at := firstPlace + i*placeWords
		if len(id) > maxPlaceID {
			break
		}
		if j.w[at].Load() != 0 {
			continue
		}
		var buf [maxPlaceID]byte
		copy(buf[:], id)
		for n := range placeWords - 1 {
			j.w[at+1+n].Store(*(*uint64)(unsafe.Pointer(&buf[8*n])))
		}
		j.w[at].Store(uint64(len(id)))
		return i
	}
	j.w[wordUnnoted].Add(1)
	return -1
}

// answered says that the answer to the request in a place is in the queue.
func (j *Journal) answered(place int) {
	if j == nil {
		return
	}
	if place < 0 {
		j.w[wordUnnoted].Add(^uint64(0))
		return
	}
	at := firstPlace + place*placeWords
	j.w[at].Store(j.w[at].Load() | answered)
}

// flushed says that all that was in the queue is written.
func (j *Journal) flushed() {
	if j == nil {
		return
	}
	for i := range places {
		if at := firstPlace + i*placeWords; j.w[at].Load()&answered != 0 {
			j.w[at].Store(0)
		}
	}
}

// open are the requests that the peer waits for an answer to, as far as is
// known, and forgets them.
func (j *Journal) open() []string {
	var ids []string
	for i := range places {
		at := firstPlace + i*placeWords
		n := j.w[at].Load() &^ answered
		if n == 0 || n > maxPlaceID {
			continue
		}
		var buf [maxPlaceID]byte
		for w := range placeWords - 1 {
			*(*uint64)(unsafe.Pointer(&buf[8*w])) = j.w[at+1+w].Load()
		}
		ids = append(ids, string(buf[:n]))
		j.w[at].Store(0)
	}
	return ids
}

// goOn makes the connection go on where its journal says that another left
// it: ids go on counting, and an answer to what the other asked is a late one.
func (c *Conn) goOn(j *Journal) []string {
	last := j.w[wordCalls].Load()
	c.calls.last, c.calls.forgot = last, last
	c.takes.Store(uint32(j.w[wordTakes].Load())) // #nosec G115 -- as it was stored
	c.phase.Store(int32(PhaseServing))
	c.unseen = bytes.Clone(j.unseen())
	return j.open()
}

// methodKey stands in every request, and seldom in an answer; descriptorsKey in
// every message with descriptors.
var (
	methodKey      = []byte(`"method"`)
	descriptorsKey = []byte(`"fds"`)
)

// readNoted is the read of a connection with a journal. All that was read
// before it has been handled, but for what is left of a message.
func (c *Conn) readNoted(p []byte) (int, error) {
	if len(c.unseen) > 0 { // what the process before read, and did not look at
		c.o.Journal.reading(true)
		n := copy(p, c.unseen)
		c.unseen = c.unseen[n:]
		return n, nil
	}
	for {
		rest := c.frames.r < c.frames.w
		if !rest {
			c.o.Journal.clear()
		}
		c.o.Journal.reading(rest)
		if err := c.halt.pause(c, rest); err != nil {
			return 0, err
		}
		n, err := c.readLanding(p, rest)
		if n == 0 && isTimeout(err) && c.halt.told(c) {
			continue
		}
		return n, err
	}
}

// readLanding reads into memory that another process can read when this one was
// killed. In the middle of a message nobody could go on with it anyway.
func (c *Conn) readLanding(p []byte, rest bool) (int, error) {
	if rest {
		return c.readPlain(p)
	}
	j := c.o.Journal
	n, err := c.readPlain(j.landing[:min(len(p), len(j.landing))])
	if n > 0 {
		if bytes.Contains(j.landing[:n], methodKey) {
			j.reading(true)
		}
		j.looked(n)
		copy(p, j.landing[:n])
	}
	return n, err
}

// halt is how a connection stands still between two messages.
type halt struct {
	mu     sync.Mutex
	parked chan struct{} // closed when nobody reads any more; nil unless told to
	resume chan struct{}
	// cut says that the reader's deadline was moved to make it look here.
	cut bool
}

// told takes the reader's deadline back, if it was moved.
func (h *halt) told(c *Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	cut := h.cut
	if cut {
		h.move(c, false)
	}
	return cut
}

// move moves the reader's deadline, or takes it back; h.mu is held, so that neither
// is half done when the other begins.
func (h *halt) move(c *Conn, on bool) {
	h.cut = on
	c.deadline.Lock()
	defer c.deadline.Unlock()
	c.deadline.halted = on
	c.setDeadline()
}

// pause is called by whoever reads. It waits while the connection stands still,
// and again if it was told to stand still once more meanwhile.
func (h *halt) pause(c *Conn, rest bool) error {
	for {
		h.mu.Lock()
		parked, resume := h.parked, h.resume
		if parked == nil || rest {
			h.mu.Unlock()
			return nil
		}
		select {
		case <-parked:
		default:
			close(parked)
		}
		h.mu.Unlock()
		select {
		case <-resume:
			h.told(c)
		case <-c.done:
			return ErrClosed
		}
	}
}

// Suspend has the connection stand still: nothing more is read, what the peer
// had asked is answered, and all that was queued is written. A process that
// takes over then loses nothing. Resume lets it go on. A connection that has
// ended stands still. It takes a connection with a Journal.
func (c *Conn) Suspend(ctx context.Context) error {
	if c.o.Journal == nil {
		return errors.New("cannot suspend connection: it has no journal")
	}
	h := &c.halt
	h.mu.Lock()
	if h.parked == nil {
		h.parked, h.resume = make(chan struct{}), make(chan struct{})
	}
	parked := h.parked
	h.move(c, true)
	h.mu.Unlock()
	idle := func() <-chan struct{} { return c.requests.idle() }
	for _, still := range []func() <-chan struct{}{func() <-chan struct{} { return parked }, idle} {
		select {
		case <-still():
		case <-c.done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("cannot suspend connection: %w", ctx.Err())
		}
	}
	if err := c.out.flush(&patience{ctx: ctx}); err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("cannot suspend connection: %w", err)
	}
	return nil
}

// Resume ends a Suspend.
func (c *Conn) Resume() {
	h := &c.halt
	h.mu.Lock()
	if h.parked != nil {
		close(h.resume)
		h.parked, h.resume = nil, nil
	}
	h.mu.Unlock()
	h.told(c)
}

// longPast is a deadline that has passed.
var longPast = time.Unix(1, 0)

// atomicWrite is how many bytes are written to a socket or a pipe whole or not
// at all, whatever happens to this process meanwhile: pipe(7), PIPE_BUF.
const atomicWrite = 4096
