package score

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/profiles/strict"
)

// changing are the rights that change something.
var changing = []string{
	"write_file", "truncate", "make_dir", "make_fifo", "make_reg", "make_sock", "make_sym", "refer", "remove_dir", "remove_file",
}

// private are trees of the host that hold what is nobody else's business.
var private = []string{"/etc", "/root", "/home", "/var", "/run", "/boot", "/srv"}

func (s *scorer) files() {
	reading := []string{"read_file", "read_dir"}
	s.breadth("reading", 6, "what is readable can be told to whoever the plugin talks to", reading, "")
	s.breadth("reading private trees", 6, "configuration, keys and data of others lie there", reading, "private")
	s.breadth("writing", 8, "whoever reads it there reads the plugin's words", changing, "")
	s.breadth("executing", 5, "programs and interpreters are tools of an attacker", []string{"execute"}, "")
	s.breadth("devices and sockets by path", 3, "what answers there is no file", []string{"ioctl_dev", "resolve_unix"}, "")
}

// breadth adds a point about what of the host some rights reach. A tree near the
// root counts one, one below that a third, and so on; several in a directory
// count together, and never more than the whole directory would.
func (s *scorer) breadth(name string, weight float64, why string, rights []string, only string) {
	root := &tree{}
	var trees []string
	for _, f := range s.plan.Files {
		if !has(f, rights) || only != "" && !isPrivate(f.From) {
			continue
		}
		trees = append(trees, f.From)
		root.grant(strings.Split(strings.Trim(f.From, "/"), "/"))
	}
	text := strings.Join(trees[:min(len(trees), 4)], ", ")
	if len(trees) > 4 {
		text += " and more"
	}
	s.add("files", name, weight, 1-math.Exp(-root.measure(0)), why, "%s", text)
}

// tree is what is granted of the host, directory by directory.
type tree struct {
	granted bool
	below   map[string]*tree
}

func (t *tree) grant(words []string) {
	for _, word := range words {
		if t.below == nil {
			t.below = map[string]*tree{}
		}
		if t.below[word] == nil {
			t.below[word] = &tree{}
		}
		t = t.below[word]
	}
	t.granted = true
}

// measure is how much is granted; the root, which cannot be, has no bound.
func (t *tree) measure(depth int) float64 {
	whole := math.Pow(3, float64(1-depth))
	if t.granted {
		return whole
	}
	sum := 0.0
	for _, word := range slices.Sorted(maps.Keys(t.below)) { // the order of a sum shows in its last digits
		sum += t.below[word].measure(depth + 1)
	}
	if depth == 0 {
		return sum
	}
	return min(sum, whole)
}

func has(f plan.File, rights []string) bool {
	return slices.ContainsFunc(rights, func(r string) bool { return slices.Contains(f.Access, r) })
}

func isPrivate(from string) bool {
	return slices.ContainsFunc(private, func(dir string) bool { return from == dir || strings.HasPrefix(from, dir+"/") })
}

func (s *scorer) inside() {
	p := s.plan
	s.add("proc", "mode", 4, map[string]float64{"none": 0, "pid": 0.25, "full": 1}[p.Proc], "the kernel's files tell of the machine and its neighbours", "/proc shows %s", map[string]string{"pid": "the plugin's processes", "full": "the whole machine"}[p.Proc])
	s.add("devices", "nodes", 1, float64(len(p.Devices))/5, "each is kernel code in reach", "%s", strings.Join(p.Devices, ", "))
	eval := 1.0
	if p.Runtime.NoEval {
		eval = 0
	}
	s.add("runtime", "eval", 1, eval, "what an attacker can have it read becomes code", "Node.js makes code from strings")
	scratch := p.Tmp.Size + p.Shm.Size
	if !p.Data.Persistent {
		scratch += p.Data.Size
	}
	s.add("data", "scratch", 1, share(scratch, 8<<30), "what is written there is the host's memory", "%s of tmpfs", strict.Size(scratch))
	kept := 0.0
	if p.Data.Persistent {
		kept = 1
	}
	s.add("data", "kept", 2, kept, "what an attacker leaves there is there at the next start", "/data is kept between starts")
}

// beyond is what is reached beyond the walls.
func (s *scorer) beyond() {
	n := s.plan.Network
	open := 1 - math.Pow(0.5, float64(len(n.Egress)))
	if slices.ContainsFunc(n.Egress, func(to string) bool { return strings.ContainsAny(to, "*/") }) {
		open = 1 // many places by one word
	}
	s.add("network", "egress", 6, open, "what the plugin knows can leave by it", "%s", strings.Join(n.Egress, ", "))
	s.add("network", "addresses", 4, min(float64(len(n.Addresses)), 1), "services that are not public trust who can reach them", "names may lead to %s", strings.Join(n.Addresses, ", "))
	var names []string
	for _, c := range s.plan.Capabilities {
		if !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	if len(n.Listen) > 0 {
		names = append(names, "listen")
	}
	s.add("capabilities", "grants", 4, 1-math.Pow(0.5, float64(len(names))), "the host acts for the plugin", "%s", strings.Join(names, ", "))
}

// share is how much of most a bound is; none is all.
func share(n, most int64) float64 { return math.Sqrt(min(float64(n)/float64(most), 1)) }

func (s *scorer) quotas() {
	l := s.plan.Limits
	size := func(wall, key string, weight float64, v *int64, most int64, why string) {
		if v == nil {
			s.add(wall, key, weight, 1, why, "without bound")
			return
		}
		s.add(wall, key, weight, share(*v, most), why, "%s", strict.Size(*v))
	}
	const neighbours = "what one plugin uses its neighbours lack"
	size("memory", "memory.max", 5, l.MemoryMax, 64<<30, neighbours)
	size("memory", "memory.swap.max", 1, l.MemorySwapMax, 64<<30, "swapping stalls the whole host")
	size("pids", "pids.max", 4, l.PidsMax, 1<<15, "a host has so many processes and no more")
	cpu := 1.0
	if l.CPUMax != nil && l.CPUMax.Period > 0 {
		cpu = share(l.CPUMax.Quota*1000/int64(l.CPUMax.Period), 64000)
	}
	s.add("cpu", "cpu.max", 3, cpu, neighbours, "%.0f%% of 64 processors", 100*cpu*cpu)
	size("io", "bytes written", 1, l.IOMax.WriteBPS, 2<<30, "who fills a disk's queue has its neighbours wait")
	size("io", "bytes read", 1, l.IOMax.ReadBPS, 2<<30, "who fills a disk's queue has its neighbours wait")
	huge := 0.0
	for _, v := range []*int64{l.Hugetlb2M, l.Hugetlb1G} {
		if v == nil {
			huge += 0.5
		} else {
			huge += 0.5 * share(*v, 64<<30)
		}
	}
	s.add("hugetlb", "huge pages", 1, huge, neighbours, "%.0f%% of what a large machine has", 100*huge*huge)
	for _, t := range []struct {
		key string
		d   time.Duration
	}{{"time.wall", s.plan.Time.Wall}, {"time.cpu", s.plan.Time.CPU}} {
		open := 1.0
		if t.d > 0 {
			open = share(int64(t.d), int64(366*24*time.Hour))
		}
		s.add("time", t.key, 1, open, "a plugin that was taken over stays so", "%s", map[bool]string{true: t.d.String(), false: "without bound"}[t.d > 0])
	}
	s.rlimit("nofile", 1, 1<<20, "descriptors are the kernel's memory")
	s.rlimit("data", 1, 64<<30, "it is the second wall behind memory.max")
	s.rlimit("core", 1, 1<<30, "a core file tells what was in memory")
}

func (s *scorer) rlimit(name string, weight float64, most int64, why string) {
	open, text := 1.0, "without bound"
	for _, r := range s.plan.Rlimits {
		if r.Name == name && r.Hard < math.MaxInt64 {
			open, text = share(int64(r.Hard), most), strict.Size(int64(r.Hard)).String()
			if name == "nofile" {
				text = strconv.FormatUint(r.Hard, 10)
			}
			if name == "core" && r.Hard <= 1 {
				open = 0
			}
		}
	}
	s.add("rlimits", "rlimit."+name, weight, open, why, "%s", text)
}

// connection is what one plugin may ask of the daemon at once.
func (s *scorer) connection() {
	c := s.plan.IPC.WithDefaults()
	open, n := 0.0, 0.0
	for _, one := range [][2]int64{
		{int64(c.MaxFrame), 16 << 20},
		{int64(c.MaxQueue), 256 << 20},
		{int64(c.MaxInFlight), 65536},
		{int64(c.MaxDepth), 1000},
		{int64(c.MaxDescriptors), 253},
		{int64(c.Rate), 1_000_000},
	} {
		open, n = open+share(one[0], one[1]), n+1
	}
	s.add("ipc", "limits", 1, open/n, "the daemon works and remembers for the plugin", "frames of %s, %d calls at once, %d messages a second, and more", strict.Size(int64(c.MaxFrame)), c.MaxInFlight, c.Rate)
}

// promises are what happens where a wall cannot be had, or is hit.
func (s *scorer) promises() {
	p := s.plan
	weights := map[string]float64{"landlock": 6, "memory": 3, "pids": 3, "cpu": 1, "io": 1, "hugetlb": 1}
	for _, wall := range []string{"landlock", "memory", "pids", "cpu", "io", "hugetlb"} {
		open := 0.0
		if p.Require[wall].Mode == "best_effort" {
			open = 1
		}
		s.add("require", wall, weights[wall], open, "a start without the wall is a start without the promise", "starts without %s where the host cannot give it", wall)
	}
	for _, wall := range []string{"seccomp", "files", "memory", "pids", "time", "ipc", "grant", "watchdog"} {
		weight := 1.0
		if wall == "seccomp" {
			weight = 4
		}
		r := p.Violation[wall]
		s.add("violation", wall, weight, mildness(r), "an attacker who may go on tries again", "a violation leads to %s", r.Action)
	}
	watched := 1.0
	if slices.Contains(p.Watch, "files") {
		watched = 0
	}
	s.add("violation", "watch", 1, watched, "who looks for files that were not granted is not seen", "files are not watched")
}

// mildness is what a response lets an attacker do: nothing after a quarantine,
// everything where it is only recorded. A budget lies between its two words.
func mildness(r plan.Response) float64 {
	words := []string{"quarantine", "kill", "deny", "log"}
	of := func(word string) float64 { return float64(max(slices.Index(words, word), 0)) / 3 }
	if r.Budget == 0 || r.Window <= 0 {
		return of(r.Action)
	}
	rate := float64(r.Budget) / r.Window.Hours()
	return of(r.Then) + (of(r.Action)-of(r.Then))*rate/(rate+1)
}
