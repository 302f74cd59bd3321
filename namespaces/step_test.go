package namespaces

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// TestStepsAreLaidOutAsDefined holds the encoder written by hand against the
// generated type.
func TestStepsAreLaidOutAsDefined(t *testing.T) {
	step := wireStep{Op: 1, FD: 2, A: 3 << 32, B: 4 << 32, C: 5 << 32, S: 6, T: 7}
	want, err := binary.Append(nil, binary.LittleEndian, step)
	if err != nil {
		t.Fatal(err)
	}
	if got := step.append(nil); !bytes.Equal(got, want) || len(got) != wireStepSize {
		t.Errorf("got %x, want %x", got, want)
	}
}

// TestTerseStepsAreTheSame: only the texts may be missing.
func TestTerseStepsAreTheSame(t *testing.T) {
	v := testView("sh")
	h := Host{LandlockABI: 7, Kill: NoFile, UserNS: NoFile, UID: 1, GID: 1, Sources: make([]Source, len(v.Mounts)), Filter: make([]byte, 8), MemfdNoexec: true}
	full, err := Compile(v, h)
	if err != nil {
		t.Fatal(err)
	}
	h.Terse = true
	terse, err := Compile(v, h)
	if err != nil || len(terse) != len(full) {
		t.Fatalf("%d steps instead of %d, %v", len(terse), len(full), err)
	}
	a, b := &blob{}, &blob{}
	for i := range full {
		if full[i].wire(a) != terse[i].wire(b) || full[i].Wall != terse[i].Wall {
			t.Errorf("step %d is %+v, terse %+v", i, full[i], terse[i])
		}
	}
	if !bytes.Equal(a.data, b.data) {
		t.Error("the steps' strings differ")
	}
}
