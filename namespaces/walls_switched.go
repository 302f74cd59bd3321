//go:build walltest

package namespaces

import (
	"bytes"
	"os"
	"slices"
	"strings"
)

// switchedOff reads the walls to leave out from CORDON_WALLS_OFF, comma
// separated. This file is in test builds only.
func switchedOff(wall string) bool {
	return slices.Contains(strings.Split(os.Getenv("CORDON_WALLS_OFF"), ","), wall)
}

// keeperToRun is the keeper's program, without its own walls (keeper/confine.c)
// where they are off. The program itself has no switch that one could reach.
func keeperToRun() []byte {
	if !switchedOff(WallKeeper) {
		return keeperProgram
	}
	return bytes.Replace(keeperProgram, []byte("walls of the keeper: on"), []byte("walls of the keeper: of"), 1)
}
