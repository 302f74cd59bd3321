package main

import (
	"context"
	"testing"
	"time"
)

func TestWatchdogTime(t *testing.T) {
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0},
		{"30000000", "", 30 * time.Second},
		{"30000000", "7", 30 * time.Second},
		{"30000000", "8", 0}, // another process's
		{"-1", "", 0},
		{"0", "", 0},
		{"x", "", 0},
		{"9223372036854775807", "", 0},
	} {
		env := map[string]string{"WATCHDOG_USEC": c.usec, "WATCHDOG_PID": c.pid}
		if got := watchdogTime(func(name string) string { return env[name] }, 7); got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

// TestWatchdogIsSilentWhenTheDaemonHangs: a sign of life follows only what shows
// life.
func TestWatchdogIsSilentWhenTheDaemonHangs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked, answer, told := make(chan struct{}), make(chan struct{}), make(chan string, 100)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watchdog(ctx, time.Millisecond, func() { asked <- struct{}{}; <-answer }, func(state string) { told <- state })
	}()
	for range 3 {
		<-asked
		if len(told) != 0 {
			t.Error("a sign of life of one that was asked and has not answered")
		}
		answer <- struct{}{}
		if state := <-told; state != "WATCHDOG=1" {
			t.Errorf("told %q", state)
		}
	}
	cancel()
	for {
		select {
		case <-asked:
			answer <- struct{}{}
		case <-ended:
			return
		}
	}
}
