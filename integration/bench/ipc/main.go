// Command ipc measures what a call costs, here and with others, in one
// interleaved run: each subject answers a few calls in each round, so that what
// the machine does meanwhile meets all of them.
//
//	bare        a length-prefixed ping-pong in Go, without JSON or limits
//	cordon      this project's connection with every limit, a plugin on the SDK
//	cordon+c    the same with parameters and results checked against a contract
//	net/rpc, ttrpc, gRPC-Go, go-plugin: over a unix socket
//
// Every subject is a process of its own. It ends with one line a figure.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// caller makes one call with a payload and returns once the answer is there.
type caller interface {
	call(payload []byte) error
	close()
}

// subject is what is measured.
type subject struct {
	name string
	make func() (caller, error)
	// most bounds its payload, in bytes; 0 is no bound.
	most int
}

// subjects are in the order in which they take turns.
func subjects() []subject {
	return []subject{
		{"bare", newBare, 0},
		{"cordon", func() (caller, error) { return newCordon("go", false) }, 0},
		{"cordon+c", func() (caller, error) { return newCordon("go", true) }, 0},
		{"cordon-node", func() (caller, error) { return newCordon("node", false) }, 0},
		{"cordon-node+c", func() (caller, error) { return newCordon("node", true) }, 0},
		{"cordon-python", func() (caller, error) { return newCordon("python", false) }, 0},
		{"cordon-python+c", func() (caller, error) { return newCordon("python", true) }, 0},
		{"net/rpc", newNetRPC, 0},
		{"ttrpc", newTTRPC, 0},
		{"grpc", newGRPC, 0},
		{"go-plugin", newGoPlugin, 0},
	}
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "serve" {
		serve(os.Args[2])
		return
	}
	if os.Getenv(goPluginCookie) != "" {
		serveGoPlugin()
		return
	}
	rounds := flag.Int("rounds", 40, "how many turns each subject has")
	bulk := flag.Bool("large", false, "measure large payloads alone")
	only := flag.String("only", "", "subjects to measure, with commas between; all if empty")
	flag.Parse()
	if *bulk {
		found, err := measureLarge(*rounds)
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot measure:", err)
			os.Exit(1)
		}
		largeFigures(found)
		return
	}
	if err := measure(*rounds, *only); err != nil {
		fmt.Fprintln(os.Stderr, "cannot measure:", err)
		os.Exit(1)
	}
}

// size is one payload, and how many calls a subject makes in its turn.
type size struct {
	name  string
	bytes int
	calls int
}

var sizes = []size{{"64B", 64, 100}, {"4KiB", 4 << 10, 60}, {"64KiB", 64 << 10, 10}, {"1MiB", 1 << 20, 2}}

// pipelined is how many calls are in flight when throughput is measured.
const pipelined = 32

func measure(rounds int, only string) error {
	fmt.Printf("%s, %s, %d processors, %d rounds\n", runtime.Version(), kernel(), runtime.NumCPU(), rounds)
	fmt.Println(versions())
	all := slices.DeleteFunc(subjects(), func(s subject) bool {
		return only != "" && !slices.Contains(strings.Split(only, ","), s.name)
	})
	callers := make([]caller, len(all))
	for i, s := range all {
		c, err := s.make()
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		defer c.close()
		callers[i] = c
	}
	found := map[string]time.Duration{}
	for _, sz := range sizes {
		if err := latencies(all, callers, sz, rounds, found); err != nil {
			return err
		}
	}
	rates, err := throughput(all, callers, max(4, rounds/4))
	if err != nil {
		return err
	}
	allocs, err := allocations(all, callers)
	if err != nil {
		return err
	}
	bulk, err := measureLarge(max(5, rounds/2))
	if err != nil {
		return err
	}
	figures(found, rates, allocs)
	largeFigures(bulk)
	return nil
}

// latencies has all subjects take turns, and prints their medians and tails.
func latencies(all []subject, callers []caller, sz size, rounds int, found map[string]time.Duration) error {
	payload := []byte(strings.Repeat("x", sz.bytes))
	took := make([][]time.Duration, len(all))
	for round := range rounds + 1 { // the first is not counted
		for i, c := range callers {
			for range sz.calls {
				began := time.Now()
				if err := c.call(payload); err != nil {
					return fmt.Errorf("%s, %s: %w", all[i].name, sz.name, err)
				}
				if round > 0 {
					took[i] = append(took[i], time.Since(began))
				}
			}
		}
	}
	fmt.Printf("\n%-16s %10s %10s %8s   %s, %d calls each\n", "", "p50 us", "p99 us", "/ bare", sz.name, len(took[0]))
	for i, s := range all {
		slices.Sort(took[i])
		p50, p99 := took[i][len(took[i])/2], took[i][len(took[i])*99/100]
		found[s.name+" "+sz.name] = p50
		fmt.Printf("%-16s %10.1f %10.1f %8.2f\n", s.name, micros(p50), micros(p99), float64(p50)/float64(found["bare "+sz.name]))
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// throughput has each subject answer as many calls of 64 bytes as it can with
// many in flight, in turns. bare and its like have one at a time.
func throughput(all []subject, callers []caller, rounds int) (map[string]float64, error) {
	payload := []byte(strings.Repeat("x", 64))
	const calls = 3000
	rates := map[string][]float64{}
	for range rounds {
		for i, c := range callers {
			if all[i].name == "bare" {
				continue
			}
			began := time.Now()
			if err := inFlight(c, payload, calls); err != nil {
				return nil, fmt.Errorf("%s, pipelined: %w", all[i].name, err)
			}
			rates[all[i].name] = append(rates[all[i].name], calls/time.Since(began).Seconds())
		}
	}
	fmt.Printf("\n%-16s %10s   64B, %d in flight\n", "", "calls/s", pipelined)
	medians := map[string]float64{}
	for _, s := range all {
		if r := rates[s.name]; len(r) > 0 {
			slices.Sort(r)
			medians[s.name] = r[len(r)/2]
			fmt.Printf("%-16s %10.0f\n", s.name, medians[s.name])
		}
	}
	return medians, nil
}

func inFlight(c caller, payload []byte, calls int) error {
	var all sync.WaitGroup
	failed := make(chan error, pipelined)
	for range pipelined {
		all.Go(func() {
			for range calls / pipelined {
				if err := c.call(payload); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// allocations counts what one call of 64 bytes allocates in this process.
func allocations(all []subject, callers []caller) (map[string]float64, error) {
	payload := []byte(strings.Repeat("x", 64))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	counts := map[string]float64{}
	for i, c := range callers {
		const calls = 2000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range calls {
			if err := c.call(payload); err != nil {
				return nil, err
			}
		}
		runtime.ReadMemStats(&after)
		counts[all[i].name] = float64(after.Mallocs-before.Mallocs) / calls
	}
	return counts, nil
}

// figures prints what was promised beside what was found.
func figures(found map[string]time.Duration, rates, allocs map[string]float64) {
	ratio := func(a, b, size string) float64 { return float64(found[a+" "+size]) / float64(found[b+" "+size]) }
	fmt.Println()
	for _, f := range []struct {
		name        string
		value, most float64
	}{
		{"ipc-64B/bare", ratio("cordon", "bare", "64B"), 1.5},
		{"ipc-64B-contracts/bare", ratio("cordon+c", "bare", "64B"), 2.5},
		{"ipc-64B-contracts/go-plugin", ratio("cordon+c", "go-plugin", "64B"), 0.33},
		{"ipc-64B-allocations", allocs["cordon"], 24},
		{"ipc-64B-contracts-allocations", allocs["cordon+c"], 160},
	} {
		verdict := "short"
		if f.value > 0 && f.value <= f.most { // neither holds where a subject was left out
			verdict = "ok"
		}
		fmt.Printf("figure %s %.2f <=%g %s\n", f.name, f.value, f.most, verdict)
	}
	fmt.Printf("pipelined, cordon / go-plugin: %.1f\n", rates["cordon"]/rates["go-plugin"])
}
