//go:build walltest

package main

import (
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"
)

// now is the machine's clock, moved by as many seconds as the file named by
// CORDON_TEST_CLOCK says. As when somebody sets a machine's clock, the time of
// day jumps and the monotonic reading does not. This file is in test builds only.
func now() time.Time {
	t := time.Now()
	text, _ := os.ReadFile(os.Getenv("CORDON_TEST_CLOCK"))
	seconds, _ := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	// The first word of a Time with a monotonic reading: a flag, 33 bits of
	// seconds, 30 of nanoseconds.
	*(*uint64)(unsafe.Pointer(&t)) += uint64(seconds) << 30
	return t
}
