package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// record is one of the kernel's log.
type record struct {
	at   time.Duration // on the log's own clock
	text string
	read time.Time
}

// kernelLog reads the kernel's log from now on; Documentation/ABI/testing/dev-kmsg.
type kernelLog struct {
	f       *os.File // to write
	from    *os.File // to read; it blocks, as a poll may miss what an interrupt logs
	records chan record
}

func openLog() (*kernelLog, error) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the kernel's log: %w", err)
	}
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the kernel's log: %w", err), f.Close())
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		return nil, errors.Join(err, unix.Close(fd), f.Close())
	}
	l := &kernelLog{f: f, from: os.NewFile(uintptr(fd), "/dev/kmsg"), records: make(chan record, 4096)}
	go l.read()
	return l, nil
}

// read, which ends with the program, takes one record at a time: "PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT".
func (l *kernelLog) read() {
	defer close(l.records)
	buf := make([]byte, 8192)
	for {
		n, err := l.from.Read(buf)
		now := time.Now()
		if errors.Is(err, unix.EPIPE) { // overrun: some were lost
			continue
		}
		if err != nil {
			return
		}
		if r, ok := parseRecord(string(buf[:n])); ok {
			r.read = now
			l.records <- r
		}
	}
}

func parseRecord(s string) (record, bool) {
	head, text, _ := strings.Cut(s, ";")
	fields := strings.Split(head, ",")
	if len(fields) < 3 {
		return record{}, false
	}
	us, err := strconv.ParseInt(fields[2], 10, 64)
	return record{at: time.Duration(us) * time.Microsecond, text: text}, err == nil
}

func (l *kernelLog) await(ctx context.Context, text string) (record, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		select {
		case r, ok := <-l.records:
			if !ok {
				return record{}, errors.New("the kernel's log ended")
			}
			if strings.Contains(r.text, text) {
				return r, nil
			}
		case <-ctx.Done():
			return record{}, fmt.Errorf("cannot find %q in the kernel's log: %w", text, ctx.Err())
		}
	}
}

// zero is when the log's clock, which is not CLOCK_MONOTONIC, began: a record
// of ours is written between two looks at the clock.
func (l *kernelLog) zero(ctx context.Context, n int) (time.Time, error) {
	text := fmt.Sprintf("cordon-bench-%d-%d", os.Getpid(), n)
	before := time.Now()
	if _, err := l.f.WriteString(text + "\n"); err != nil {
		return time.Time{}, fmt.Errorf("cannot write to the kernel's log: %w", err)
	}
	between := before.Add(time.Since(before) / 2)
	r, err := l.await(ctx, text)
	return between.Add(-r.at), err
}

// violation waits until the newest one is shown, which is after its plugin has
// ended.
func (b *bench) violation(ctx context.Context, after time.Time) (violation.Violation, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		hits, err := b.client.Why(ctx, "once")
		if err != nil {
			return violation.Violation{}, err
		}
		if n := len(hits); n > 0 && hits[n-1].Time.After(after) {
			return hits[n-1], nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return violation.Violation{}, errors.New("cannot find the violation")
		}
	}
}

// rezero is after how many kills the two clocks are compared again. The kernel
// takes ten lines in five seconds from us, and drops the rest.
const rezero = 10

// oomKills measures from the kernel's kill to its report, to the violation's
// own time and to the record on the disk, with a bare fsync before each.
func (b *bench) oomKills(ctx context.Context) error {
	log, err := openLog()
	if err != nil {
		return err
	}
	defer log.f.Close()
	var zero time.Time
	var reported, detected, saved, synced []time.Duration
	for n := range b.kills {
		took, err := b.bareFsync()
		if err != nil {
			return err
		}
		synced = append(synced, took)
		if n > 0 {
			if _, err := b.client.Release(ctx, control.ReleaseParams{Name: "once", Reason: "measured"}); err != nil {
				return err
			}
		}
		if _, err := b.client.Start(ctx, "once"); err != nil {
			return err
		}
		if n%rezero == 0 {
			if zero, err = log.zero(ctx, n); err != nil {
				return err
			}
		}
		b.attack(ctx, "once", "anonymous")
		kill, err := log.await(ctx, "out of memory: Killed process")
		if err != nil {
			return err
		}
		killed := zero.Add(kill.at)
		select {
		case at := <-b.saved:
			saved = append(saved, at.Sub(killed))
		case <-time.After(time.Minute):
			return errors.New("the daemon saved no quarantine")
		}
		reported = append(reported, kill.read.Sub(killed))
		hit, err := b.violation(ctx, killed)
		if err != nil {
			return err
		}
		if hit.Limit != 48<<20 {
			return fmt.Errorf("the violation names the limit %d", hit.Limit)
		}
		detected = append(detected, hit.Time.Sub(killed))
	}
	for _, f := range []struct {
		name    string
		samples []time.Duration
	}{{"bare_fsync", synced}, {"oom_kill_to_kernel_report", reported}, {"oom_kill_to_violation", detected}, {"oom_kill_to_persisted", saved}} {
		b.say("%s: p50 %v, p90 %v", f.name, quantile(f.samples, 0.5), quantile(f.samples, 0.9))
		b.figure(f.name+"_p50_ms", quantile(f.samples, 0.5).Seconds()*1000, 0)
	}
	return nil
}
