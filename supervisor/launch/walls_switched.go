//go:build walltest

package launch

import (
	"os"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/namespaces"
)

// switchedOff reads the walls to leave out from CORDON_WALLS_OFF, comma
// separated. This file is in test builds only.
func switchedOff(wall string) bool {
	return slices.Contains(strings.Split(os.Getenv("CORDON_WALLS_OFF"), ","), wall)
}

// withoutSwitchedOff leaves out the steps of the walls that are off, and what
// would harm the host without them.
func withoutSwitchedOff(steps []namespaces.Step) []namespaces.Step {
	return slices.DeleteFunc(steps, func(s namespaces.Step) bool {
		if switchedOff(namespaces.WallPID) && s.Op == namespaces.OpSysctl {
			return true // it would set the host's
		}
		if switchedOff(namespaces.WallMount) && s.Op == namespaces.OpLandlockPath {
			_, err := os.Lstat(s.S)
			return err != nil // a path of the private tree alone
		}
		return switchedOff(s.Wall)
	})
}
