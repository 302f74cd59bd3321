package main

import (
	"context"
	"os"
	"strconv"
	"time"
)

// watchdogTime is how long the service manager waits for a sign of life, 0 for
// ever; sd_watchdog_enabled(3).
func watchdogTime(getenv func(string) string, pid int) time.Duration {
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	if whose := getenv("WATCHDOG_PID"); whose != "" && whose != strconv.Itoa(pid) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}

// watchdog gives the service manager signs of life, twice as often as it wants
// them, for as long as alive returns, and until ctx is done.
func watchdog(ctx context.Context, every time.Duration, alive func(), tell func(state string)) {
	tick := time.NewTicker(max(every/2, time.Millisecond))
	defer tick.Stop()
	for {
		alive()
		tell("WATCHDOG=1")
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// startWatchdog begins to give signs of life, if anyone wants them. They stop
// when the supervisor hangs: then the service manager ends the daemon.
func (d *daemon) startWatchdog() {
	every := watchdogTime(os.Getenv, os.Getpid())
	if every == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.later(func() error { cancel(); return nil })
	go watchdog(ctx, every, func() { _, _ = d.supervisor.List(ctx) }, d.notify)
}
