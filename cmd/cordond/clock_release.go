//go:build !walltest

package main

import "time"

// now is the machine's clock. Test builds (-tags walltest) have one that can be
// moved, so that nobody else's is.
func now() time.Time { return time.Now() }
