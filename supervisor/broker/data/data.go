// Package data is the capability data: what the plugin's own /data holds.
package data

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// The bounds of one walk.
const (
	maxEntries = 100_000
	maxDepth   = 64
)

// New makes the capability.
func New() capability.Capability {
	return capability.Capability{
		Name: "data",
		Text: "Says how much of its own data directory the plugin uses, as the host sees it, and how much it may.",
		Cost: capability.Disk, Phases: capability.Always(),
		Methods: []capability.Method{{
			Name: "data.usage", Text: "gives bytes and files below /data",
			Params: `{"type": ["object", "null"], "properties": {"_meta": {"type": "object"}}, "additionalProperties": false}`, Result: `{"type": "object"}`, Serve: usage,
		}},
	}
}

// Usage is the answer.
type Usage struct {
	Bytes int64 `json:"bytes"` // on disk
	Files int64 `json:"files"`
	// Max is the bound, 0 if there is none.
	Max        int64 `json:"max_bytes"`
	Persistent bool  `json:"persistent"`
	// Incomplete says that there was more than a walk looks at.
	Incomplete bool `json:"incomplete,omitempty"`
}

func usage(ctx context.Context, c *capability.Call) (any, error) {
	u := Usage{Max: c.Env.DataSize, Persistent: c.Env.Data != ""}
	if c.Env.Data == "" {
		return nil, ipc.Errorf(ipc.CodeUnsupported, "cannot tell: /data is not kept, and only the plugin sees it")
	}
	fd, err := unix.Open(c.Env.Data, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the data of %s: %w", c.Plugin, err)
	}
	left := maxEntries
	err = walk(ctx, fd, maxDepth, &left, &u)
	u.Incomplete = u.Incomplete || left <= 0
	return u, err
}

// walk counts below an open directory, which it closes. The tree belongs to the
// plugin, which may change it meanwhile: nothing is followed, and nothing is
// resolved by a path.
func walk(ctx context.Context, fd, depth int, left *int, u *Usage) error {
	defer func() { _ = unix.Close(fd) }()
	buf := make([]byte, 16<<10)
	for *left > 0 && ctx.Err() == nil {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil || n <= 0 {
			return err
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			if *left--; *left <= 0 {
				return nil
			}
			if err := entry(ctx, fd, name, depth, left, u); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func entry(ctx context.Context, dir int, name string, depth int, left *int, u *Usage) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) { // gone meanwhile
		return nil
	}
	if err != nil {
		return err
	}
	u.Files++
	u.Bytes += st.Blocks * 512
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	if depth == 0 {
		u.Incomplete = true
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		u.Incomplete = true // it changed under us
		return nil
	}
	return walk(ctx, fd, depth-1, left, u)
}
