package profiles

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/strict"
)

// Ceiling is what the host never exceeds, whatever a profile grants: the table
// [ceiling] of cordond.toml. Decode into DefaultCeiling's value, so that what
// the file leaves out keeps its default.
type Ceiling struct {
	// MemoryMax, PidsMax and CPUMax bound the sum of one plugin's processes
	// (defaults 8G, 4096, "max").
	MemoryMax strict.Size    `toml:"memory.max"`
	PidsMax   strict.Count   `toml:"pids.max"`
	CPUMax    strict.Percent `toml:"cpu.max"`
	// TimeWall bounds the time from start to end; 0, the default, does not.
	TimeWall strict.Duration `toml:"time.wall"`
	// Files are the trees of which anything may ever be granted (default: "/"
	// for reading, writing and executing).
	Files []CeilingFiles `toml:"files"`
	// DenyPaths are never granted, nor is a directory that holds one of them.
	DenyPaths []string `toml:"deny_paths"`
	// Capabilities are the names that may ever be granted, Egress the places that
	// may ever be reached, and Listen the addresses that may ever be listened at;
	// without these keys every one.
	Capabilities []string `toml:"capabilities"`
	Egress       []string `toml:"egress"`
	Listen       []string `toml:"listen"`
	// Profiles are the names that may be used, or extended by the one used;
	// empty, the default, is every one.
	Profiles []string `toml:"profiles"`
}

// CeilingFiles is one tree and the most that may be granted of it: any of
// "r", "rw", "rx".
type CeilingFiles struct {
	Path   string   `toml:"path"`
	Access []string `toml:"access" oneof:"r rw rx"`
}

// DefaultCeiling is what holds without a [ceiling] table.
func DefaultCeiling() *Ceiling {
	return &Ceiling{
		MemoryMax: 8 << 30,
		PidsMax:   4096,
		CPUMax:    strict.Unlimited,
		Files:     []CeilingFiles{{Path: "/", Access: []string{"rw", "rx"}}},
		DenyPaths: []string{
			"/boot", "/dev", "/etc/cordon", "/etc/gshadow", "/etc/shadow", "/etc/ssh", "/etc/sudoers",
			"/proc", "/root/.ssh", "/run/cordon", "/run/docker.sock", "/sys", "/var/lib/cordon",
		},
	}
}

// Validate reports what is wrong with the values of a decoded ceiling; the
// keys in it are as in cordond.toml.
func (c *Ceiling) Validate() error {
	for i, f := range c.Files {
		if !cleanAbs(f.Path) {
			return fmt.Errorf("ceiling.files[%d].path: expected an absolute path without '..', got %q", i, f.Path)
		}
		if len(f.Access) == 0 {
			return fmt.Errorf("ceiling.files[%d].access: expected any of \"r\", \"rw\", \"rx\"", i)
		}
	}
	for i, name := range c.Capabilities {
		if _, ok := grant.Find(name); !ok {
			return fmt.Errorf("ceiling.capabilities[%d]: unknown capability %q; known are %s", i, clip(name), strings.Join(grant.Names(), ", "))
		}
	}
	for i, target := range c.Egress {
		if _, err := grant.ParseEndpoint(target); err != nil {
			return fmt.Errorf("ceiling.egress[%d]: %w", i, err)
		}
	}
	for i, target := range c.Listen {
		if _, err := grant.ParseAddress(target); err != nil {
			return fmt.Errorf("ceiling.listen[%d]: %w", i, err)
		}
	}
	for i, p := range c.DenyPaths {
		if !cleanAbs(p) {
			return fmt.Errorf("ceiling.deny_paths[%d]: expected an absolute path without '..', got %q", i, p)
		}
	}
	return nil
}

// admits says whether a profile may be used.
func (c *Ceiling) admits(p *Profile) bool {
	if len(c.Profiles) == 0 {
		return true
	}
	for _, base := range p.Bases() {
		for _, name := range c.Profiles {
			if base == name || base == "builtin:"+name {
				return true
			}
		}
	}
	return false
}

// Followed gives the ceiling of one host: where a path of its own leads there by
// symbolic links stands beside the path as written. Real gives a path without
// links; what it has an error for leads nowhere else.
func (c *Ceiling) Followed(real func(string) (string, error)) *Ceiling {
	out := *c
	out.Files, out.DenyPaths = slices.Clone(c.Files), slices.Clone(c.DenyPaths)
	for _, f := range c.Files {
		if at, err := real(f.Path); err == nil && at != f.Path {
			out.Files = append(out.Files, CeilingFiles{Path: at, Access: f.Access})
		}
	}
	for _, p := range c.DenyPaths {
		if at, err := real(p); err == nil && at != p {
			out.DenyPaths = append(out.DenyPaths, at)
		}
	}
	return &out
}

// Refuses gives why a path of the host may not be granted with this access, or
// "". Resolve judges the words of a grant; who mounts it judges where they lead,
// by a ceiling that was Followed. Access are Landlock's names.
func (c *Ceiling) Refuses(from string, access []string) string { return c.refuses(from, access) }

// refuses gives why a path of the host may not be granted with this access, or
// "".
func (c *Ceiling) refuses(from string, access []string) string {
	for _, deny := range c.DenyPaths {
		switch {
		case beneath(from, deny):
			return fmt.Sprintf("ceiling.deny_paths has %s", deny)
		case beneath(deny, from):
			return fmt.Sprintf("it holds %s, which ceiling.deny_paths has; name what is needed below it", deny)
		}
	}
	for _, right := range access {
		if !extraRights[right] && !c.gives(from, right) {
			return fmt.Sprintf("no entry of ceiling.files gives %s there", right)
		}
	}
	if !slices.ContainsFunc(c.Files, func(f CeilingFiles) bool { return beneath(from, f.Path) }) {
		return "no entry of ceiling.files has it"
	}
	return ""
}

// gives says whether some entry of the ceiling's files has a right for a path.
func (c *Ceiling) gives(from, right string) bool {
	for _, f := range c.Files {
		if !beneath(from, f.Path) {
			continue
		}
		for _, short := range f.Access {
			if contains(shorthands[short], right) {
				return true
			}
		}
	}
	return false
}

// beneath says whether p is dir or below it; both are clean.
func beneath(p, dir string) bool {
	return p == dir || dir == "/" || len(p) > len(dir) && p[len(dir)] == '/' && p[:len(dir)] == dir
}

func cleanAbs(p string) bool {
	return strings.HasPrefix(p, "/") && path.Clean(p) == p && !strings.ContainsAny(p, "\x00\n") && len(p) < 4096
}
