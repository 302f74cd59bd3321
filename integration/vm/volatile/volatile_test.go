package volatile

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"
)

func filled(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// TestCutForgetsWhatWasNotFlushed: what was flushed or written through stays,
// the rest as chance has it, and never half a sector.
func TestCutForgetsWhatWasNotFlushed(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, keep := range []float64{0, 0.5, 1} {
		d := New(make([]byte, 64*Sector))
		for _, err := range []error{
			d.write(filled(1, 4*Sector), 0, false), d.flush(), d.write(filled(2, 4*Sector), 4*Sector, true),
			d.write(filled(3, 32*Sector), 2*Sector, false), d.write(filled(4, Sector), 2*Sector, true),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		kept, lost := d.Cut(r, keep)
		if kept+lost != 32 || keep == 0 && kept > 0 || keep == 1 && lost > 0 || keep == 0.5 && (kept == 0 || lost == 0) {
			t.Errorf("keep %v: %d kept and %d lost", keep, kept, lost)
		}
		now := make([]byte, 64*Sector)
		if err := d.read(now, 0); err != nil {
			t.Fatal(err)
		}
		for i := range 64 {
			s := now[i*Sector:][:Sector]
			before := byte(0)
			switch {
			case i < 4:
				before = 1
			case i < 8:
				before = 2
			}
			want := []byte{before, 3}
			switch {
			case i == 2:
				want = []byte{4}
			case i < 2 || i >= 34 || keep == 0:
				want = []byte{before}
			case keep == 1:
				want = []byte{3}
			}
			if !bytes.Equal(s, filled(s[0], Sector)) || !bytes.Contains(want, s[:1]) {
				t.Errorf("keep %v: sector %d is %d, want one of %v", keep, i, s[0], want)
			}
		}
	}
}

// TestNothingIsAnsweredInTheDark: the write that comes after the last is lost, and
// so is its answer.
func TestNothingIsAnsweredInTheDark(t *testing.T) {
	d := New(make([]byte, 8*Sector))
	here, there := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(there) }()
	hello := make([]byte, 18)
	if _, err := here.Read(hello); err != nil {
		t.Fatal(err)
	}
	if err := put(here, uint32(0), uint64(magicOption), uint32(optGo), uint32(6), uint32(0), uint16(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := here.Read(make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if _, err := here.Read(make([]byte, 20)); err != nil {
		t.Fatal(err)
	}
	d.DarkAfter(1)
	for i := range 2 {
		if err := put(here, uint32(magicRequest), uint16(0), uint16(cmdWrite), uint64(7), uint64(0), uint32(Sector), filled(byte(i+1), Sector)); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if n, err := here.Read(make([]byte, 16)); err != nil || n != 16 {
				t.Errorf("%d bytes of answer, %v", n, err)
			}
		}
	}
	<-d.Dark()
	if err := here.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := here.Read(make([]byte, 16)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%d bytes of answer, %v", n, err)
	}
	_ = here.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	d.Cut(rand.New(rand.NewPCG(1, 1)), 1)
	if now := make([]byte, 1); d.read(now, 0) != nil || now[0] != 1 {
		t.Errorf("it holds %d", now[0])
	}
}
