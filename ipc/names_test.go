package ipc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestSortByHash: what a peer's names come to is in order, whatever their hashes
// are, and none is lost.
func TestSortByHash(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 64, 65, 300, 5000, 70000} {
		for what, hash := range map[string]func() uint64{
			"random": r.Uint64, "one": func() uint64 { return 7 }, "low": func() uint64 { return r.Uint64() % 300 },
			"high": func() uint64 { return r.Uint64() << 60 },
		} {
			names := make([]key, n)
			for i := range names {
				names[i] = keyOf(hash(), i)
			}
			seen := make([]bool, n)
			sortByHash(names, topByte)
			for _, k := range names {
				seen[k.at()] = true
			}
			if !slices.IsSorted(names) || slices.Contains(seen, false) {
				t.Errorf("%d %s hashes are not in order, or not all there", n, what)
			}
		}
	}
}

// manyNames is an object of n names, and another at its end.
func manyNames(n int, last string) []byte {
	var b strings.Builder
	b.WriteString(`{"jsonrpc":"2.0","id":1,"method":"m","params":{`)
	for i := range n {
		fmt.Fprintf(&b, `"%d":1,`, i)
	}
	return []byte(b.String() + `"` + last + `":1}}`)
}

func TestManyNames(t *testing.T) {
	for last, broken := range map[string]bool{"0": true, "777": true, "39999": true, `\u0037`: true, "40000": false, "x": false} {
		_, err := newScanner(64).message(manyNames(40000, last))
		if broken != (err != nil && err.Code == BreachDuplicate) || !broken && err != nil {
			t.Errorf("with a second %q: %v", last, err)
		}
	}
}

// TestNamesAlike: names whose hashes are one by chance are told apart, wherever
// among those the second of a pair is, and however it is written.
func TestNamesAlike(t *testing.T) {
	for last, broken := range map[string]bool{`n3`: true, `n39`: true, `q\\\"`: true, `q\u005c\u0022`: true, `q`: false, `n40`: false} {
		s := newScanner(64)
		var names []key
		text := func(name string) {
			s.data = append(s.data, '"')
			names = append(names, keyOf(5<<topByte, len(s.data)))
			s.data = append(s.data, name+`":1,`...)
		}
		text(`q\\\"`)
		for i := range 40 {
			text(fmt.Sprintf("n%d", i))
		}
		text(last)
		s.keys = append(s.keys, names...)
		if err := s.closeObject(0); broken != (err != nil) {
			t.Errorf("with %s at the end: %v", last, err)
		}
	}
}

func BenchmarkManyNames(b *testing.B) {
	msg := manyNames(400000, "0")
	b.SetBytes(int64(len(msg)))
	for b.Loop() {
		if _, err := newScanner(64).message(msg); err == nil {
			b.Fatal("no breach")
		}
	}
}
