// Package reach answers what a plugin can reach behind the walls of a plan:
// files through grants, symbolic links and mounts, system calls through the
// filter, quotas and identity. It starts nothing: it is a model of what the
// kernel does with the plan's walls, and integration/ holds it against the
// kernel.
//
// An answer is computed for the host as it was when it was asked: a file that
// is made or a link that is moved afterwards can change it.
//
// Sources: path_resolution(7), landlock(7), inode permissions as in the
// kernel's fs/namei.c, mount_setattr(2) for id-mapped mounts, seccomp(2).
package reach

import (
	"fmt"
	"io/fs"

	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
)

// Host is what the model must know of the host's files.
type Host interface {
	// Lstat describes what is at a path; a link is not followed. The error is
	// fs.ErrNotExist if nothing is there.
	Lstat(path string) (Info, error)
	Readlink(path string) (string, error)
	// Real is a path without symbolic links.
	Real(path string) (string, error)
	// MountPoint says whether another file system is mounted at a path. A grant
	// does not carry it along.
	MountPoint(path string) bool
}

// Info is one inode.
type Info struct {
	Mode     fs.FileMode
	UID, GID uint32
	Dev, Ino uint64
}

// Answer is what one question comes to.
type Answer struct {
	Question string `json:"question"`
	Can      bool   `json:"can"`
	// Why has every wall that refuses; or, if the answer is yes, the rules
	// that allow.
	Why []Reason `json:"why"`
	// Path has each symbolic link and mount on the way to a file.
	Path []string `json:"path,omitempty"`
	// Mount is, for a file, the mount inside that the way ended in: what it shows
	// of the host, where, and how it is mounted. The answer is for that mount.
	Mount string `json:"mount,omitempty"`
	// Note is what the answer leaves open; may be empty.
	Note string `json:"note,omitempty"`
}

// Reason is one wall's part in an answer.
type Reason struct {
	Wall string `json:"wall"` // "mount", "landlock", "permissions", "seccomp", "files" ...
	Text string `json:"text"`
	// Origin is who wrote the rule; empty for what holds in every profile.
	Origin string `json:"origin,omitempty"`
}

func (a *Answer) refuse(wall, origin, format string, args ...any) {
	a.Why = append(a.Why, Reason{Wall: wall, Origin: origin, Text: fmt.Sprintf(format, args...)})
}

// Model is a plan as the kernel will enforce it on one host.
type Model struct {
	plan  *plan.Plan
	view  namespaces.View
	host  Host
	abi   int
	tree  *tree
	rules map[string]*rule // by inode
}

// New makes the model of a plan whose view launch.Preview gave, for a kernel
// with this Landlock ABI (0 has none). The error says why nothing would start.
func New(p *plan.Plan, v namespaces.View, h Host, abi int) (*Model, error) {
	m := &Model{plan: p, view: v, host: h, abi: abi, rules: map[string]*rule{}}
	t, err := newTree(v, h)
	if err != nil {
		return nil, err
	}
	m.tree = t
	m.landlock()
	return m, nil
}
