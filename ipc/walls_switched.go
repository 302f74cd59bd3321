//go:build walltest

package ipc

import (
	"os"
	"slices"
	"strings"
)

// switchedOff reads the walls to leave out from CORDON_WALLS_OFF, comma
// separated. This file is in test builds only.
func switchedOff(wall string) bool {
	return slices.Contains(strings.Split(os.Getenv("CORDON_WALLS_OFF"), ","), wall)
}
