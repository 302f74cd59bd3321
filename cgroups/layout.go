package cgroups

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Modes of a host.
const (
	ModeV2     = "v2"     // one tree with every controller
	ModeHybrid = "hybrid" // limits on v1 hierarchies, freeze and kill on the unified tree
	ModeV1     = "v1"     // v1 hierarchies only
)

// knownControllers are the ones a group of ours may need, by their v1 names.
var knownControllers = []string{"memory", "pids", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio", "io", "hugetlb"}

// hierarchy is one mounted cgroup tree that groups of ours live in.
type hierarchy struct {
	mount string
	v2    bool
	// controllers are those whose limits or figures are taken from here.
	controllers []string
	// Of v1, found out when a Tree is opened. memsw: swap is bounded (with
	// memory). closed: the root has its devices closed, and so has what is made
	// in it.
	memsw, closed bool
}

func (h *hierarchy) has(controller string) bool { return slices.Contains(h.controllers, controller) }

// optional says that a group without a limit of this hierarchy's one controller
// needs no directory here: each further join makes starts slower, and in a
// cpuset hierarchy a group must be filled before anyone can join it.
func (h *hierarchy) optional() bool {
	return !h.v2 && len(h.controllers) == 1 && slices.Contains([]string{"cpuset", "io", "hugetlb"}, h.controllers[0])
}

// unneeded says that a group of these limits has no directory here.
func (h *hierarchy) unneeded(l Limits) bool {
	if !h.optional() {
		return false
	}
	switch h.controllers[0] {
	case "cpuset":
		return l.Cpuset == ""
	case "io":
		return l.IOMax == IOMax{}
	default:
		return l.Hugetlb2M == nil && l.Hugetlb1G == nil
	}
}

// name is what errors and features call it.
func (h *hierarchy) name() string {
	if h.v2 {
		return "unified"
	}
	return strings.Join(h.controllers, ",")
}

// layout is where this host's controllers are. The first hierarchy is the
// primary one: a group's directory there is its claim.
type layout struct {
	mode        string
	hierarchies []*hierarchy
}

func (l *layout) primary() *hierarchy { return l.hierarchies[0] }

// unified is the v2 tree, nil on a v1 host.
func (l *layout) unified() *hierarchy {
	if l.primary().v2 {
		return l.primary()
	}
	return nil
}

// with is the hierarchy that has a controller, nil if none does.
func (l *layout) with(controller string) *hierarchy {
	for _, h := range l.hierarchies {
		if h.has(controller) {
			return h
		}
	}
	return nil
}

// findLayout decides, controller by controller, where limits are set: on the
// unified tree if it offers the controller, else on the v1 hierarchy that does.
// read gives the text of a file of a hierarchy.
func findLayout(mounts []mount, read func(path string) ([]byte, error)) (*layout, error) {
	l := &layout{mode: ModeV1}
	if point := unifiedMount(mounts); point != "" {
		text, err := read(filepath.Join(point, "cgroup.controllers"))
		if err != nil {
			return nil, fmt.Errorf("cannot read the controllers of %s: %w", point, err)
		}
		l.mode = ModeV2
		l.hierarchies = append(l.hierarchies, &hierarchy{mount: point, v2: true, controllers: offered(string(text))})
	}
	l.addV1(mounts)
	if len(l.hierarchies) == 0 {
		return nil, errors.New("cannot find a cgroup hierarchy in /proc/self/mountinfo: mount cgroup2 on /sys/fs/cgroup (CONFIG_CGROUPS)")
	}
	if !l.primary().v2 && !l.primary().has("pids") && !l.primary().has("memory") {
		return nil, errors.New("cannot use this host's cgroups: neither a unified tree nor a v1 hierarchy with pids or memory is mounted (CONFIG_CGROUP_PIDS, CONFIG_MEMCG)")
	}
	return l, nil
}

// offered are the controllers of a v2 tree that we use.
func offered(controllers string) []string {
	var have []string
	for _, c := range strings.Fields(controllers) {
		if slices.Contains([]string{"memory", "pids", "cpu", "cpuset", "io", "hugetlb"}, c) {
			have = append(have, c)
		}
	}
	return have
}

// unifiedMount picks the v2 mount point: the standard ones first, since a bind
// mount of a subtree may lie elsewhere.
func unifiedMount(mounts []mount) string {
	var found string
	for _, m := range mounts {
		if m.fstype != "cgroup2" {
			continue
		}
		if strings.HasSuffix(m.point, "/sys/fs/cgroup") || strings.HasSuffix(m.point, "/sys/fs/cgroup/unified") {
			return m.point
		}
		if found == "" {
			found = m.point
		}
	}
	return found
}

// addV1 adds the v1 hierarchies of what the unified tree does not have. The
// order makes pids, then memory, primary where there is no unified tree.
func (l *layout) addV1(mounts []mount) {
	wanted := []string{"pids", "memory", "cpu", "cpuset", "io", "hugetlb", "devices"}
	if len(l.hierarchies) == 0 {
		// With a unified tree freezing and cpu time come from there; each
		// further join would only make starts slower.
		wanted = append(wanted, "freezer", "cpuacct")
	}
	unified := len(l.hierarchies) == 1
	for _, c := range wanted {
		if l.with(c) != nil {
			continue
		}
		point := v1Mount(mounts, c)
		if point == "" {
			continue
		}
		if unified {
			l.mode = ModeHybrid
		}
		l.place(point, c)
	}
}

// place adds a controller to the hierarchy at point; co-mounted controllers
// (cpu,cpuacct) share one.
func (l *layout) place(point, controller string) {
	for _, h := range l.hierarchies {
		if h.mount == point {
			h.controllers = append(h.controllers, controller)
			return
		}
	}
	l.hierarchies = append(l.hierarchies, &hierarchy{mount: point, controllers: []string{controller}})
}

func v1Mount(mounts []mount, controller string) string {
	if controller == "io" {
		controller = "blkio" // v2's name is used for both
	}
	for _, m := range mounts {
		if m.fstype == "cgroup" && slices.Contains(m.options, controller) {
			return m.point
		}
	}
	return ""
}

// hostLayout is the layout of the running host.
func hostLayout() (*layout, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot find cgroup hierarchies: %w", err)
	}
	mounts, err := parseMountinfo(text)
	if err != nil {
		return nil, err
	}
	return findLayout(mounts, os.ReadFile)
}
