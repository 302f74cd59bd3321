package cgroups

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// Form is a limit of a v1 group that is more than a number in a file: a list of
// cpus, or bounds of one block device. It is plain data, so that a program that
// does not link the library can hand it to one that does.
type Form struct {
	// Base is the directory that the hierarchy is mounted in, and Group the path
	// of the group below <Base>/cpuset or <Base>/blkio.
	Base  string `json:"base"`
	Group string `json:"group"`
	// Cpus is for cpuset.cpus; empty makes it a Form of a block device.
	Cpus  string `json:"cpus,omitempty"`
	Major int64  `json:"major,omitempty"`
	Minor int64  `json:"minor,omitempty"`
	IO    IOMax  `json:"io,omitzero"`
}

// Check says whether f names a group below its base and limits one thing.
func (f Form) Check() error {
	below := filepath.Join(f.Base, "x", f.Group) // pathV1 leads out of one name at most
	switch {
	case !filepath.IsAbs(f.Base) || !strings.HasPrefix(below, filepath.Clean(f.Base)+"/"):
		return fmt.Errorf("%s is no group below %s", f.Group, f.Base)
	case (f.Cpus == "") == (f.IO == IOMax{}):
		return errors.New("expected either cpus or bounds of a block device")
	case f.Cpus != "":
		_, err := parseCPUList(f.Cpus)
		return err
	case f.Major < 0 || f.Minor < 0:
		return fmt.Errorf("%d:%d is no block device", f.Major, f.Minor)
	}
	return Limits{IOMax: f.IO}.Validate()
}

// form sets a limit of m by what the Tree was opened with.
func (g *Group) form(m *member, controller string, f Form) error {
	if g.tree.kernel.form == nil {
		return fmt.Errorf("this program cannot set limits of %s on cgroup v1", controller)
	}
	f.Base, f.Group = filepath.Dir(m.h.mount), m.pathV1(controller)
	return g.tree.kernel.form(f)
}
