package launch

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sort"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
)

// monotonic is the clock that the started program reads.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

func firstProgram(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	out, err := exec.Command("gcc", "-Os", "-static", "-nostdlib", "-fno-stack-protector", "-o", dir+"/first",
		"../../integration/bench/start/floor/first.c").CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return dir + "/first"
}

// BenchmarkStart is a cold start behind every wall of builtin:strict, to the
// plugin's first instruction and to its reaped exit.
func BenchmarkStart(b *testing.B) {
	first := firstProgram(b)
	l, err := New(Config{
		CgroupRoot: fmt.Sprintf("cordon-test-bench-%d", os.Getpid()), UIDBase: 1900200000, UIDCount: 64,
		RuntimeDir: b.TempDir(), Compile: programs.Program,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	profile, err := profiles.Builtin("strict")
	if err != nil {
		b.Fatal(err)
	}
	p, err := profiles.Resolve(profiles.Input{
		Profile: profile, Ceiling: profiles.DefaultCeiling(), Argv: []string{"/first"},
		Files: []plan.File{{Path: "/first", From: first, Access: []string{"execute", "read_file"}}},
	})
	if err != nil {
		b.Fatal(err)
	}
	var firsts, reaped, all []int64
	for b.Loop() {
		r, w, err := os.Pipe()
		if err != nil {
			b.Fatal(err)
		}
		begin := monotonic()
		proc, err := l.Start(context.Background(), Request{Name: "bench", Plan: p, Stdout: w})
		if err != nil {
			b.Fatal(err)
		}
		w.Close()
		<-proc.Done()
		reaped = append(reaped, monotonic()-begin)
		data, err := io.ReadAll(r)
		if err != nil || len(data) != 8 {
			b.Fatal(data, err)
		}
		r.Close()
		firsts = append(firsts, int64(binary.LittleEndian.Uint64(data))-begin)
		if err := proc.Release(); err != nil {
			b.Fatal(err)
		}
		all = append(all, monotonic()-begin)
	}
	for name, list := range map[string][]int64{"first-us": firsts, "reaped-us": reaped, "released-us": all} {
		sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
		b.ReportMetric(float64(list[len(list)/2])/1000, name)
	}
}
