//go:build !walltest

package namespaces

// switchedOff tells which walls are left out: none. Test builds (-tags
// walltest) have a switch for each, so that every wall has a test that fails
// without it.
func switchedOff(string) bool { return false }

// keeperToRun is the keeper's program.
func keeperToRun() []byte { return keeperProgram }
