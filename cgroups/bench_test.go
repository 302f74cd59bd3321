package cgroups

import (
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkNew makes and removes a group with the limits that a plugin usually
// has. cpu-us/op is this process's own processor time, which a busy machine
// does not change as it does the time on the clock.
func BenchmarkNew(b *testing.B) {
	for _, mode := range []string{"host", "v1"} {
		b.Run(mode, func(b *testing.B) {
			l, err := hostLayout()
			if err != nil {
				b.Skip(err)
			}
			if mode == "v1" {
				if l = v1Only(l); len(l.hierarchies) == 0 {
					b.Skip("skipped: no v1 hierarchy here")
				}
			}
			tree, err := openTree(testRoot(), l, realKernel(setForm))
			if err != nil {
				b.Skip(err)
			}
			defer tree.Close()
			limits := Limits{MemoryMax: ptr(int64(256 << 20)), PidsMax: ptr(int64(64)), CPUMax: &CPUMax{Quota: 100000, Period: 100000}}
			var before, after unix.Rusage
			var made, all int64
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
				g, err := tree.New("g"+strconv.Itoa(n), limits)
				_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
				if err != nil {
					b.Fatal(err)
				}
				made += cpu(after) - cpu(before)
				if err := g.Remove(); err != nil {
					b.Fatal(err)
				}
				_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
				all += cpu(after) - cpu(before)
			}
			b.ReportMetric(float64(made)/1000/float64(b.N), "new-cpu-us/op")
			b.ReportMetric(float64(all)/1000/float64(b.N), "cpu-us/op")
		})
	}
}

func cpu(r unix.Rusage) int64 { return r.Utime.Nano() + r.Stime.Nano() }
