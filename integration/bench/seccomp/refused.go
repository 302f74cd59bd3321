package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/seccomp/compile"
)

// refuser is one way to refuse a call from another process.
type refuser struct {
	name  string
	start func() (*victim, func() error, error)
}

// refusers are compared with each other.
var refusers = []refuser{
	{"listener", func() (*victim, func() error, error) { return listening(refuseAtOnce) }},
	{"listener_described", func() (*victim, func() error, error) { return listening(refuseDescribed) }},
	{"ptrace", tracing},
}

// refused measures round trips, once with both sides on one processor and once
// with each on its own: waking an idle processor costs more than everything
// else.
func (r *report) refused(e effort, _ string, _ seccomp.Filter) error {
	r.say("\na refused call, round trip in microseconds")
	for _, place := range []struct{ name, victim string }{{"one_cpu", "0"}, {"across", "1"}} {
		if place.victim == "1" && runtime.NumCPU() < 2 {
			r.say("  %s: this machine has one processor", place.name)
			continue
		}
		medians, err := measureDenied(e, place.victim)
		if err != nil {
			return err
		}
		for i, way := range refusers {
			r.figure(fmt.Sprintf("refused_%s_%s_us", way.name, place.name), medians[i]/1000, 0)
		}
		r.figure("refused_listener_to_ptrace_"+place.name, medians[0]/medians[2], 0)
	}
	return nil
}

// measureDenied runs beDenied bound to processor 0, with all of its threads.
func measureDenied(e effort, victimCPU string) ([]float64, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+roleDenied, cpuEnv+"="+victimCPU,
		fmt.Sprintf("%s=%d %d", effortEnv, e.rounds, e.trips))
	cmd.Stderr = os.Stderr
	out, err := startBound(cmd)
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(out)
	if len(fields) != len(refusers) {
		return nil, fmt.Errorf("cannot read what was measured: %q", out)
	}
	var medians []float64
	for _, f := range fields {
		m, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return nil, err
		}
		medians = append(medians, m)
	}
	return medians, nil
}

// startBound runs a command whose threads inherit this thread's processor. The
// thread is given up afterwards.
func startBound(cmd *exec.Cmd) (string, error) {
	type end struct {
		out []byte
		err error
	}
	done := make(chan end)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := bind("0"); err != nil {
			done <- end{nil, err}
			return
		}
		out, err := cmd.Output()
		done <- end{out, err}
	}()
	d := <-done
	return string(d.out), d.err
}

// effortEnv holds rounds and trips.
const effortEnv = "CORDON_BENCH_EFFORT"

// beDenied prints the medians of every refuser, in nanoseconds.
func beDenied() {
	if err := denied(); err != nil {
		dieOf(err)
	}
	os.Exit(0)
}

func denied() (err error) {
	var rounds, trips int
	if _, err := fmt.Sscan(os.Getenv(effortEnv), &rounds, &trips); err != nil {
		return err
	}
	victims, samples := make([]*victim, len(refusers)), make([][]float64, len(refusers))
	for i, way := range refusers {
		v, stop, err := way.start()
		if err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		defer func() { err = errors.Join(err, v.end(), stop()) }()
		victims[i] = v
	}
	for range rounds {
		for i, v := range victims {
			took, err := v.order(loopDenied, trips)
			if err != nil {
				return err
			}
			samples[i] = append(samples[i], took)
		}
	}
	out := bufio.NewWriter(os.Stdout)
	for _, s := range samples {
		fmt.Fprintln(out, median(s))
	}
	return out.Flush()
}

// refuseAtOnce answers in the loop.
func refuseAtOnce() (seccomp.Handler, func()) {
	return func(seccomp.Notification) seccomp.Verdict { return seccomp.Verdict{Errno: unix.EPERM} }, func() {}
}

// refuseDescribed answers as the launcher does: a worker describes the call and
// its process while the caller waits.
func refuseDescribed() (seccomp.Handler, func()) {
	work := make(chan seccomp.Notification, 1)
	go func() {
		for n := range work {
			seccomp.Describe(n)
			n.Process()
			_ = n.Answer(seccomp.Verdict{Errno: unix.EPERM}) // who does not get it would not go on
		}
	}()
	return func(n seccomp.Notification) seccomp.Verdict {
		work <- n
		return seccomp.Verdict{Pending: true}
	}, func() { close(work) }
}

// listening starts a victim whose refused calls come to a handler.
func listening(handler func() (seccomp.Handler, func())) (*victim, func() error, error) {
	program, err := compile.Compile(oneRule)
	if err != nil {
		return nil, nil, err
	}
	v, err := newVictim(os.Getenv(cpuEnv), program, listenEnv+"=1")
	if err != nil {
		return nil, nil, err
	}
	fd, err := v.take()
	if err != nil {
		return nil, nil, errors.Join(err, v.end())
	}
	l, err := seccomp.NewListener()
	if err != nil {
		return nil, nil, errors.Join(err, v.end())
	}
	h, stop := handler()
	if _, err := l.Add(fd, h); err != nil {
		return nil, nil, errors.Join(err, v.end(), l.Close())
	}
	return v, func() error {
		err := l.Close()
		stop()
		return errors.Join(err, unix.Close(fd))
	}, nil
}

// traceProgram stops at mount for a tracer and lets everything else through:
// the cheapest that ptrace can do, one stop for each refused call.
var traceProgram = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_MOUNT},
	{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_TRACE},
	{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
}

// tracing starts a victim whose refused calls stop for a tracer.
func tracing() (*victim, func() error, error) {
	var program []byte
	for _, i := range traceProgram {
		program = append(program, byte(i.Code), byte(i.Code>>8), i.Jt, i.Jf, byte(i.K), byte(i.K>>8), byte(i.K>>16), byte(i.K>>24)) // #nosec G115 -- bytes
	}
	v, err := newVictim(os.Getenv(cpuEnv), program)
	if err != nil {
		return nil, nil, err
	}
	ready := make(chan error)
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // a tracer is a thread
		err := unix.PtraceSeize(v.cmd.Process.Pid)
		if err == nil {
			err = traceSeccomp(v.cmd.Process.Pid)
		}
		ready <- err
		if err == nil {
			ended <- trace(v.cmd.Process.Pid)
		}
	}()
	if err := <-ready; err != nil {
		return nil, nil, errors.Join(err, v.end())
	}
	return v, func() error { return <-ended }, nil
}

// traceSeccomp asks for the stops, which needs one now.
func traceSeccomp(pid int) error {
	if err := unix.PtraceInterrupt(pid); err != nil {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return err
	}
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESECCOMP|unix.PTRACE_O_EXITKILL); err != nil {
		return err
	}
	return unix.PtraceCont(pid, 0)
}

// trace refuses every call that stops until the victim has ended.
func trace(pid int) error {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || status.Exited() || status.Signaled():
			return nil //nolint:nilerr // reaped by whoever ended it
		}
		if status.TrapCause() == unix.PTRACE_EVENT_SECCOMP {
			if err := skip(pid); err != nil {
				return err
			}
		}
		if err := unix.PtraceCont(pid, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
}
