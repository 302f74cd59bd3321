//go:build !walltest

package launch

import "github.com/cordonhq/cordon/namespaces"

// switchedOff tells which walls are left out: none. Test builds (-tags
// walltest) have a switch for each, so that every wall has a test that fails
// without it.
func switchedOff(string) bool { return false }

// withoutSwitchedOff gives the steps that run: all.
func withoutSwitchedOff(steps []namespaces.Step) []namespaces.Step { return steps }

// leaks gives the plugin descriptors that are not its own: none.
func leaks(*start) {}
