// Command vm runs the integration suite on kernels that are not this machine's:
// it boots each in QEMU with a root made of this checkout's test binaries and
// this host's own packages, and prints go test's events for what ran there.
//
//	vm [-kernel 6.1,6.12] [-run REGEXP] [-count N] [-tier PART] [-together yes|no] [-dir .build/vm] [-bench ARGUMENTS]
//
// It is run from the top of the checkout, on Debian or its kin, and needs
// qemu-system-x86, apt-get and dpkg (.ci/setup vm installs what is missing).
// Standard output is what go test -json prints; standard error is progress. The
// guests have no network and nothing of the host's but copies. What is fetched
// and built stays in -dir; nothing else is left, however this ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// kernels are the Debian packages that name the newest of a series; the first
// is the oldest kernel that Cordon supports.
var kernels = map[string]string{
	"6.1":  "linux-image-cloud-amd64",
	"6.12": "linux-image-6.12-cloud-amd64",
}

// options are the command line.
type options struct {
	dir     string        // where what is fetched and built stays
	kernels []string      // keys of kernels
	run     string        // go test's -run
	count   int           // go test's -count
	only    string        // a part of the tiers' names
	timeout time.Duration // of each tier
	// together boots all kernels at the same time.
	together bool
	// bench are arguments of integration/bench/quotas, which then runs in place of
	// the tests.
	bench string
	clock int // of emulated guests, see machine
}

func main() {
	// Children die with the thread that started them (Pdeathsig), so all are
	// started by this one, which lives as long as the program.
	runtime.LockOSThread()
	var o options
	list := flag.String("kernel", "6.1,6.12", "kernels to boot, by series, separated by commas")
	flag.StringVar(&o.dir, "dir", ".build/vm", "where kernels and roots are kept")
	flag.StringVar(&o.run, "run", "", "run only the tests that match, as go test does")
	flag.IntVar(&o.count, "count", 1, "run each test this many times, as go test does")
	flag.StringVar(&o.only, "tier", "", "run only the tiers whose name contains this")
	flag.DurationVar(&o.timeout, "timeout", 20*time.Minute, "how long one tier may take")
	flag.StringVar(&o.bench, "bench", "", "run bench-quotas with these arguments in place of the tests, and print what it says")
	flag.IntVar(&o.clock, "clock", emulatedClock, "2 to this power are the nanoseconds that an instruction of an emulated guest takes by its clock")
	together := flag.String("together", "auto", "boot all kernels at the same time: yes, no, or auto, where the machine has the memory")
	flag.Parse()
	o.kernels = strings.Split(*list, ",")
	switch *together {
	case "auto":
		o.together = roomForAll(len(o.kernels))
	default:
		o.together = *together == "yes"
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, o); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		fmt.Fprintln(os.Stderr, "vm: FAIL:", err)
		os.Exit(1)
	}
}

// say prints progress.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "vm: "+format+"\n", args...)
}

func run(ctx context.Context, o options) error {
	if err := endWithParent(); err != nil {
		return err
	}
	if _, err := os.Stat("integration/vm/guest"); err != nil {
		return fmt.Errorf("cannot find integration/vm: run this from the top of the checkout: %w", err)
	}
	unlock, err := lock(ctx, o.dir)
	if err != nil {
		return err
	}
	defer unlock()
	images, root, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	defer os.Remove(root)
	accel := chooseAccel(ctx, o.dir, images[o.kernels[0]])
	failed := make([]error, len(o.kernels))
	var guests sync.WaitGroup
	for i, name := range o.kernels {
		guest := func() {
			if err := runKernel(ctx, o, name, images[name], root, accel); err != nil {
				failed[i] = fmt.Errorf("%s: %w", name, err)
				say("%s: FAIL: %s", name, firstLine(err))
			}
		}
		if !o.together {
			guest()
			continue
		}
		guests.Go(func() {
			runtime.LockOSThread() // its children die with its thread
			defer runtime.UnlockOSThread()
			guest()
		})
	}
	guests.Wait()
	showReports(o)
	return errors.Join(failed...)
}

// reportIn is where a kernel's report of the escape corpus stays.
func reportIn(o options, kernel string) string {
	return filepath.Join(o.dir, "escape-"+kernel+".txt")
}

// showReports prints what the escape corpus came to on each kernel that ran it.
func showReports(o options) {
	for _, name := range o.kernels {
		if table, err := os.ReadFile(reportIn(o, name)); err == nil {
			say("%s: the escape corpus (%s):\n%s", name, reportIn(o, name), strings.TrimSpace(string(table)))
		}
	}
}

// roomForAll says whether the guests can run at the same time: most of their
// tests use one processor only and wait for much, so that two guests on two
// processors take little longer than one.
func roomForAll(guests int) bool {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return false
	}
	var available uint64
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &available); err == nil {
			break
		}
	}
	return runtime.NumCPU() >= guests && available>>10 >= uint64(guests*guestMemory+1024)
}

// lines writes whole lines of several guests to one writer.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(b)
}

var stdout = &lines{to: os.Stdout}

// endWithParent has this program told when what started it is killed; prctl(2).
func endWithParent() error {
	const setPdeathsig = 1
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setPdeathsig, uintptr(syscall.SIGTERM), 0); errno != 0 {
		return fmt.Errorf("cannot prepare for an early end: %w", errno)
	}
	return nil
}

// lock makes dir and keeps other runs out of it until unlock.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for waited := false; ; waited = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !waited {
			say("another run is at work in %s; waiting for it", dir)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		}
	}
}

// prepare fetches the kernels while it builds the tests, and makes the root.
func prepare(ctx context.Context, o options) (images map[string]*image, root string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var fetching sync.WaitGroup
	var fetchErr error
	images = map[string]*image{}
	fetching.Go(func() {
		runtime.LockOSThread() // its children die with its thread
		defer runtime.UnlockOSThread()
		for _, name := range o.kernels {
			if images[name], fetchErr = fetchKernel(ctx, o.dir, name); fetchErr != nil {
				cancel()
				return
			}
		}
	})
	began := time.Now()
	suite, err := buildSuite(ctx, o)
	say("the tests are built after %.1f s", time.Since(began).Seconds())
	fetching.Wait()
	if err := errors.Join(fetchErr, err); err != nil {
		return nil, "", err
	}
	say("the kernels are here after %.1f s", time.Since(began).Seconds())
	began = time.Now()
	root, err = buildRoot(ctx, o, suite, images)
	say("the root is made after another %.1f s", time.Since(began).Seconds())
	return images, root, err
}

// runKernel boots one kernel with the root and prints what its tests say.
func runKernel(ctx context.Context, o options, name string, k *image, root, accel string) error {
	say("%s: booting %s with -accel %s", name, k.release, accel)
	m := machine{kernel: k.vmlinuz, disk: root, accel: accel, clock: o.clock, log: filepath.Join(filepath.Dir(root), "console-"+name+".log")}
	said, err := os.Create(filepath.Join(filepath.Dir(root), "said-"+name+".log"))
	if err != nil {
		return err
	}
	defer said.Close()
	v := newVerdict(name, stdout, said)
	if o.bench != "" {
		v.out = io.Discard
		v.tell = func(text string) { _, _ = fmt.Fprintln(stdout, benchLine(name, text)) }
	}
	v.compile = func(words string) { remember(filepath.Dir(root), words) }
	file := reportIn(o, name)
	_ = os.Remove(file) // an earlier run's
	v.report = func(table string) {
		if err := os.WriteFile(file, []byte(table), 0o600); err != nil {
			say("%s: cannot keep the report of the escape corpus: %v", name, err)
		}
	}
	var before time.Duration // of the guest that died
	m.spent = func(d time.Duration) { v.spent = before + d }
	err = m.boot(ctx, v.line)
	var died *kernelDied
	if accel == accelTCG && o.bench == "" && errors.As(err, &died) {
		// Emulators err: once in dozens of runs a kernel finds its own memory
		// corrupt. What Cordon did to it, it does to the next one, too.
		say("%s: %v", name, died)
		m.skip, before = v.again(), v.spent
		say("%s: booting it once more, for what it had not ended after %d tiers", name, m.skip)
		if err := os.Rename(m.log, strings.TrimSuffix(m.log, ".log")+"-died.log"); err != nil {
			return err
		}
		err = m.boot(ctx, v.line)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return v.end(err)
}
