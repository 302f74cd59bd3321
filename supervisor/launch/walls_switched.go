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
			if _, err := os.Lstat(s.S); err != nil {
				return true // a path of the private tree alone
			}
		}
		single, ok := stepWalls[s.Op]
		return switchedOff(s.Wall) || ok && switchedOff(single)
	})
}

// stepWalls are single steps with a switch of their own.
var stepWalls = map[namespaces.Op]string{
	namespaces.OpMask:      "masks",
	namespaces.OpSeal:      "sealed root",
	namespaces.OpPdeathsig: "death signal",
	namespaces.OpJoin:      namespaces.WallGroup,
}

// leaks are what a start with a wall off gives the plugin: the directories
// that it holds open itself.
func leaks(s *start) {
	if !switchedOff("descriptors") {
		return
	}
	for i, g := range s.host.Groups[:min(len(s.host.Groups), 4)] {
		s.host.Descriptors = append(s.host.Descriptors, namespaces.Descriptor{File: g.Parent, Number: 4 + i})
	}
}
