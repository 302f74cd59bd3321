package namespaces

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The walls that steps belong to. A plan's reports and the switches of test
// builds use the same words.
const (
	WallUser     = "user namespace"
	WallMount    = "mount namespace"
	WallPID      = "pid namespace"
	WallNet      = "net namespace"
	WallIPC      = "ipc namespace"
	WallUTS      = "uts namespace"
	WallCgroup   = "cgroup namespace"
	WallGroup    = "cgroup"
	WallCaps     = "capabilities"
	WallNNP      = "no_new_privs"
	WallIdentity = "identity"
	WallLandlock = "landlock"
	WallSeccomp  = "seccomp"
	WallRlimits  = "rlimits"
	WallNoexec   = "noexec"
	WallMemfd    = "memfd_noexec"
	WallProcess  = "process"
	WallNosuid   = "nosuid"
	WallNodev    = "nodev"
	WallReadOnly = "read-only"
	WallPrivate  = "private propagation"
	WallLinks    = "links of others" // none is followed to what is mounted
	WallPidfd    = "pidfd"           // signals go to a process, not to a number
	WallKeeper   = "keeper"          // those of the keeper itself, which plugins inherit
)

// Source is what stands behind one of the view's mounts on this host.
type Source struct {
	File    int  // index of the detached tree, or NoFile for a fresh tmpfs
	Dir     bool // false: a file is mounted over a file
	Missing bool // an optional mount that this host does not have
}

// GroupDir is a cgroup directory that the keeper removes when nobody else can.
type GroupDir struct {
	Parent int // index of the parent directory's descriptor
	Name   string
	Shared bool // only if nothing else is left in it
}

// Descriptor gives the plugin a descriptor of its own: 0 to 9.
type Descriptor struct {
	File, Number int
}

// Host is what a compile must know of the host and of one start. Numbers are
// indexes into the launch's files; NoFile where there is none.
type Host struct {
	LandlockABI int
	Sources     []Source // one for each of View.Mounts
	Joins       []int    // v1 tasks files
	Holds       []int    // descriptors that the keeper keeps open while the plugin lives
	Kept        []int    // as Holds, for a successor of the daemon alone
	Kill        int      // cgroup.kill, or freezer.state of v1
	KillThaws   bool     // Kill is freezer.state
	Groups      []GroupDir
	UserNS      int
	UID, GID    uint32 // host ids that own the plugin's tmpfs
	Descriptors []Descriptor
	Filter      []byte // the BPF program
	FilterFlags uint64
	MemfdNoexec bool // the kernel has vm.memfd_noexec (6.3)
	// ExecOnce: the filter lets execve through with a path in page 0 alone, where
	// only the keeper can have memory.
	ExecOnce bool
	// Prepared has the steps that all starts of a plan have alike marked and their
	// file systems sealed, too, as all starts share them; see Part.
	Prepared bool
	// Terse leaves the steps' texts out where they are dear to make; without it
	// the same view and host give the same steps with them.
	Terse bool
}

// securebits: root has no special powers, and none of it can be undone;
// capabilities(7), "The securebits flags".
const securebits = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<7

const (
	attrTmpfs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	attrProc  = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	attrDev   = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
	attrRoot  = attrTmpfs | unix.MOUNT_ATTR_RDONLY
)

// devices are the nodes a view may name; devices.txt in the kernel's docs.
var devices = map[string]uint64{
	"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "full": unix.Mkdev(1, 7),
	"random": unix.Mkdev(1, 8), "urandom": unix.Mkdev(1, 9),
}

// rlimits by name; getrlimit(2).
var rlimits = map[string]uint64{
	"cpu": unix.RLIMIT_CPU, "fsize": unix.RLIMIT_FSIZE, "data": unix.RLIMIT_DATA, "stack": unix.RLIMIT_STACK,
	"core": unix.RLIMIT_CORE, "rss": unix.RLIMIT_RSS, "nproc": unix.RLIMIT_NPROC, "nofile": unix.RLIMIT_NOFILE,
	"memlock": unix.RLIMIT_MEMLOCK, "as": unix.RLIMIT_AS, "locks": unix.RLIMIT_LOCKS,
	"sigpending": unix.RLIMIT_SIGPENDING, "msgqueue": unix.RLIMIT_MSGQUEUE, "nice": unix.RLIMIT_NICE,
	"rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME,
}

// RlimitNumber is the kernel's number of a limit by its lower-case name.
func RlimitNumber(name string) (int, bool) {
	n, ok := rlimits[name]
	return int(n), ok
}

// compiler collects steps; its first error stops nothing but is what Compile
// returns.
type compiler struct {
	v     View
	h     Host
	steps []Step
	made  map[string]bool // directories that exist in the new root
	trees map[string]bool // where trees of the host are mounted
	owns  []int           // mounts in which what lies is one start's own, too
	err   error
	// preparing: what is made now is not particular to one start.
	preparing bool
	// rights are those of the last rule, and how they are told.
	rights     uint64
	rightsText string
}

// fixedSteps is about how many steps go with no mount and no rule.
const fixedSteps = 80

// Compile turns a view into the steps of a launch. It is pure: the same view
// and host give the same steps. The last step is the exec, and no mount lies
// outside the new root.
func Compile(v View, h Host) ([]Step, error) {
	if err := v.check(h); err != nil {
		return nil, err
	}
	c := &compiler{v: v, h: h, made: map[string]bool{"/": true}}
	c.places()
	c.steps = make([]Step, 0, fixedSteps+2*len(v.Mounts)+len(v.Landlock.Paths)+len(v.Proc.Masked))
	c.keep()
	c.join()
	c.root()
	c.identity()
	c.process()
	c.landlock()
	c.rlimits()
	c.filter()
	c.exec()
	return c.steps, c.err
}

func (v View) check(h Host) error {
	switch {
	case v.UID == 0 || v.GID == 0 || h.UID == 0 || h.GID == 0:
		return errors.New("cannot run a plugin as uid or gid 0")
	case len(v.Process.Argv) == 0 || v.Process.Argv[0] == "":
		return errors.New("cannot run a plugin without a command")
	case len(h.Sources) != len(v.Mounts):
		return fmt.Errorf("cannot mount %d trees from %d sources", len(v.Mounts), len(h.Sources))
	case v.Landlock.MinABI > h.LandlockABI:
		return fmt.Errorf("cannot enforce Landlock ABI %d: this kernel has %d", v.Landlock.MinABI, h.LandlockABI)
	}
	for _, m := range v.Mounts {
		if err := checkPath(m.Path); err != nil {
			return fmt.Errorf("cannot mount at %q: %w", m.Path, err)
		}
		if m.Writable && m.Exec {
			return fmt.Errorf("cannot mount %s writable and executable: data could become code", m.Path)
		}
		if m.From == "" && (m.Size <= 0 || m.Inodes <= 0) {
			return fmt.Errorf("cannot mount a tmpfs at %s without a size and a number of inodes", m.Path)
		}
	}
	for _, p := range append(filePaths(v.Files), linkPaths(v.Symlinks)...) {
		if err := checkPath(p); err != nil {
			return fmt.Errorf("cannot make %q: %w", p, err)
		}
	}
	for _, p := range v.Proc.Masked {
		if !strings.HasPrefix(p, "/proc/") || path.Clean(p) != p || strings.ContainsRune(p, 0) {
			return fmt.Errorf("cannot mask %q: it is not an absolute, clean path below /proc", p)
		}
	}
	return nil
}

func (v View) hasProc() bool { return v.Proc.Mode != "none" && v.Proc.Mode != "" }

func filePaths(files []File) []string {
	var paths []string
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	return paths
}

func linkPaths(links []Symlink) []string {
	var paths []string
	for _, l := range links {
		paths = append(paths, l.Path)
	}
	return paths
}

func checkPath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/") || path.Clean(p) != p || strings.ContainsRune(p, 0):
		return errors.New("it is not an absolute, clean path")
	case p == "/":
		return errors.New("the root is built by the launcher alone")
	case p == "/proc" || strings.HasPrefix(p, "/proc/"):
		return errors.New("/proc belongs to the launcher; see [proc]")
	}
	return nil
}

func (c *compiler) add(s Step) { c.steps = append(c.steps, s) }

// say is a step's text. Arguments that take long to tell are Stringers.
func (c *compiler) say(format string, args ...any) string {
	if c.h.Terse {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

func (c *compiler) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *compiler) keep() {
	for _, f := range c.h.Holds {
		c.add(Step{Op: OpHold, Wall: WallGroup, File: f, Text: "keep the group's lock"})
	}
	for _, f := range c.h.Kept {
		c.add(Step{Op: OpHold, Wall: WallProcess, File: f, A: 1, Text: "keep what a successor of the daemon needs"})
	}
	switch {
	case c.h.Kill == NoFile:
	case c.h.KillThaws:
		c.add(Step{Op: OpKillfd, Wall: WallGroup, File: c.h.Kill, A: 1, Text: "keep freezer.state at hand"})
	default:
		c.add(Step{Op: OpKillfd, Wall: WallGroup, File: c.h.Kill, Text: "keep cgroup.kill at hand"})
	}
	for _, g := range c.h.Groups {
		s := Step{Op: OpRmdir, Wall: WallGroup, File: g.Parent, S: g.Name, Text: "remember to remove group " + g.Name}
		if g.Shared {
			s.A = 1
		}
		c.add(s)
	}
}

func (c *compiler) join() {
	for _, f := range c.h.Joins {
		c.add(Step{Op: OpJoin, Wall: WallGroup, File: f, Text: "join the v1 group"})
	}
	if c.h.ExecOnce {
		c.add(Step{Op: OpOnce, Wall: WallSeccomp, File: NoFile, Text: "pass the program's path from page 0, where it cannot have memory"})
	}
	c.add(Step{Op: OpOOMScore, Wall: WallProcess, File: NoFile, S: "500", Text: "be killed before the host's own processes when memory ends"})
	c.add(Step{Op: OpNamespace, Wall: WallPID, File: NoFile, A: unix.CLONE_NEWPID, Text: "enter the pid namespace"})
	if c.h.MemfdNoexec {
		c.add(Step{Op: OpSysctl, Wall: WallMemfd, File: NoFile, S: "vm/memfd_noexec", T: "2", Text: "refuse executable memfds in the pid namespace"})
	}
	for _, n := range []struct {
		flag uint64
		wall string
	}{
		{unix.CLONE_NEWNS, WallMount},
		{unix.CLONE_NEWNET, WallNet},
		{unix.CLONE_NEWIPC, WallIPC},
		{unix.CLONE_NEWUTS, WallUTS},
		{unix.CLONE_NEWCGROUP, WallCgroup},
	} {
		c.add(Step{Op: OpNamespace, Wall: n.wall, File: NoFile, A: n.flag, Text: "enter the " + n.wall})
	}
}

func (c *compiler) mount(s Step) {
	s.Wall, s.Prepared = WallMount, c.preparing
	c.add(s)
}

// dirs makes the missing directories on the way to p that lie in the root or in
// a tmpfs of ours; inside a bound tree they must be there.
func (c *compiler) dirs(p string) {
	if c.made[p] || c.bound(p) {
		return
	}
	c.dirs(path.Dir(p))
	c.made[p] = true
	c.mount(Step{Op: OpMkdir, File: NoFile, S: p, A: 0o755, Text: "make directory " + p})
}

// places learns where the mounts are that others may lie in.
func (c *compiler) places() {
	c.trees = make(map[string]bool, len(c.v.Mounts))
	for i := range c.v.Mounts {
		m := &c.v.Mounts[i]
		switch {
		case c.h.Sources[i].Missing:
			continue
		case m.From != "":
			c.trees[m.Path] = true
		}
		if m.From == "" || m.Writable {
			c.owns = append(c.owns, i)
		}
	}
}

// bound tells whether p lies at or beneath a tree of the host.
func (c *compiler) bound(p string) bool { return c.trees[p] || c.beneath(p) }

// beneath tells whether p lies in a tree of the host that is mounted above it.
func (c *compiler) beneath(p string) bool {
	for i := len(p) - 1; i > 0; i-- {
		if p[i] == '/' && c.trees[p[:i]] {
			return true
		}
	}
	return false
}

// within is asked of each mount about each other one. Both are clean.
func within(p, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return len(p) >= len(dir) && p[:len(dir)] == dir && (len(p) == len(dir) || p[len(dir)] == '/')
}

// root makes first what all starts of a plan have alike, sealed, and then what
// is one start's own.
func (c *compiler) root() {
	c.preparing = c.h.Prepared
	c.mount(Step{Op: OpPrivate, File: NoFile, Text: "make every mount private"})
	c.mount(Step{Op: OpRoot, File: NoFile, T: "size=1m,nr_inodes=4096,mode=0755", Text: "enter a new empty root and drop the old one"})
	c.files()
	c.dev()
	order := c.order()
	for _, i := range order {
		switch {
		case c.h.Sources[i].Missing || c.insideOwn(i):
		case c.own(i):
			c.target(i)
		default:
			c.attach(i)
		}
	}
	if c.v.hasProc() {
		c.dirs("/proc")
	}
	c.seal("/dev", attrDev|unix.MOUNT_ATTR_RDONLY, "make /dev read-only")
	c.seal("/", attrRoot, "make the root read-only")
	c.preparing = false
	for _, i := range order {
		if c.own(i) {
			c.attach(i)
		}
	}
	c.proc()
	c.add(Step{Op: OpHostname, Wall: WallUTS, File: NoFile, S: c.v.Hostname, Text: "set the host name to " + c.v.Hostname})
}

func (c *compiler) seal(p string, attributes uint64, text string) {
	s := Step{Op: OpSeal, File: NoFile, S: p, A: attributes, Text: text}
	if c.preparing {
		s.B = 1
		s.Text += ", whatever mount it is reached by"
	}
	c.mount(s)
}

// own tells whether a mount is particular to one start: what can be written,
// and what lies in it.
func (c *compiler) own(i int) bool {
	m := &c.v.Mounts[i]
	return m.From == "" || m.Writable || c.insideOwn(i)
}

func (c *compiler) insideOwn(i int) bool {
	p := c.v.Mounts[i].Path
	for _, j := range c.owns {
		if outer := c.v.Mounts[j].Path; p != outer && within(p, outer) {
			return true
		}
	}
	return false
}

func (c *compiler) files() {
	for _, f := range c.v.Files {
		if c.bound(f.Path) { // the operator granted the real one
			continue
		}
		c.dirs(path.Dir(f.Path))
		c.mount(Step{Op: OpMkfile, File: NoFile, S: f.Path, A: uint64(f.Mode.Perm()), Bytes: f.Data, Text: "write " + f.Path})
	}
	for _, l := range c.v.Symlinks {
		if c.bound(l.Path) || c.made[l.Path] {
			continue
		}
		c.dirs(path.Dir(l.Path))
		c.mount(Step{Op: OpSymlink, File: NoFile, S: l.Path, T: l.Target, Text: "link " + l.Path + " to " + l.Target})
	}
}

func (c *compiler) dev() {
	c.dirs("/dev")
	c.mount(Step{Op: OpTmpfs, File: NoFile, S: "/dev", T: "size=64k,nr_inodes=64,mode=0755", A: attrDev, Text: "mount a private /dev"})
	for _, name := range c.v.Devices {
		number, ok := devices[name]
		if !ok {
			c.fail(fmt.Errorf("cannot give device %q: only full, null, random, urandom and zero can be given", name))
			continue
		}
		c.mount(Step{Op: OpMknod, File: NoFile, S: "/dev/" + name, A: 0o666, B: number, Text: "make /dev/" + name})
	}
	for _, l := range [][2]string{{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}} {
		c.mount(Step{Op: OpSymlink, File: NoFile, S: "/dev/" + l[0], T: l[1], Text: "link /dev/" + l[0] + " to " + l[1]})
	}
}

// order is parents before children, otherwise as given.
func (c *compiler) order() []int {
	order := make([]int, 0, len(c.v.Mounts))
	for i := range c.v.Mounts {
		order = append(order, i)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return strings.Count(c.v.Mounts[a].Path, "/") - strings.Count(c.v.Mounts[b].Path, "/")
	})
	return order
}

func (c *compiler) attach(i int) {
	m, src := &c.v.Mounts[i], c.h.Sources[i]
	if src.Missing {
		return
	}
	c.target(i)
	if m.From == "" {
		c.tmpfs(m)
		return
	}
	text := ""
	if !c.h.Terse { // there are many, and formatting takes longer than all else
		text = "mount " + m.From + " at " + m.Path + " " + mountFlags(m)
	}
	c.mount(Step{Op: OpAttach, File: src.File, S: m.Path, Text: text})
}

// mountFlags tells a mount's flags, as in mount(8).
func mountFlags(m *Mount) string {
	switch {
	case m.Writable && m.Exec:
		return "writable executable nosuid nodev"
	case m.Writable:
		return "writable noexec nosuid nodev"
	case m.Exec:
		return "read-only executable nosuid nodev"
	default:
		return "read-only noexec nosuid nodev"
	}
}

// target makes what a mount is attached to, unless an outer grant holds it.
func (c *compiler) target(i int) {
	m := &c.v.Mounts[i]
	if c.beneath(m.Path) {
		return
	}
	c.dirs(path.Dir(m.Path))
	if c.made[m.Path] {
		return
	}
	c.made[m.Path] = true
	if m.From == "" || c.h.Sources[i].Dir {
		c.mount(Step{Op: OpMkdir, File: NoFile, S: m.Path, A: 0o755, Text: "make directory " + m.Path})
	} else {
		c.mount(Step{Op: OpMkfile, File: NoFile, S: m.Path, A: 0o444, Text: "make mount point " + m.Path})
	}
}

func (c *compiler) tmpfs(m *Mount) {
	options := fmt.Sprintf("size=%d,nr_inodes=%d,mode=%04o", m.Size, m.Inodes, unixMode(m))
	if m.Owned {
		options += fmt.Sprintf(",uid=%d,gid=%d", c.h.UID, c.h.GID)
	}
	attr := uint64(unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV)
	if !m.Exec && !c.v.ExecutableScratch {
		attr |= unix.MOUNT_ATTR_NOEXEC
	}
	c.mount(Step{Op: OpTmpfs, File: NoFile, S: m.Path, T: options, A: attr, Text: c.say("mount a tmpfs of %d bytes and %d inodes at %s", m.Size, m.Inodes, m.Path)})
}

// unixMode is the mode with the sticky bit where Unix has it.
func unixMode(m *Mount) uint32 {
	return uint32(m.Mode.Perm()) | uint32(m.Mode&0o1000)
}

func (c *compiler) proc() {
	if !c.v.hasProc() {
		return
	}
	options := "hidepid=invisible"
	if c.v.Proc.Mode == "pid" {
		options += ",subset=pid"
	}
	c.mount(Step{Op: OpProc, File: NoFile, S: "/proc", T: options, A: attrProc, Text: "mount /proc with " + options})
	for _, p := range c.v.Proc.Masked {
		c.mount(Step{Op: OpMask, File: NoFile, S: p, Text: "mask " + p})
	}
}

func (c *compiler) identity() {
	c.add(Step{Op: OpSetsid, Wall: WallProcess, File: NoFile, Text: "start a session without a terminal"})
	if c.h.UserNS != NoFile {
		c.add(Step{Op: OpUserns, Wall: WallUser, File: c.h.UserNS, Text: "enter the user namespace"})
	}
	c.add(Step{Op: OpBounding, Wall: WallCaps, File: NoFile, Text: "empty the bounding and ambient capability sets"})
	c.add(Step{Op: OpSecurebits, Wall: WallCaps, File: NoFile, A: securebits, Text: "lock the securebits"})
	c.add(Step{Op: OpIds, Wall: WallIdentity, File: NoFile, A: uint64(c.v.UID), B: uint64(c.v.GID), Text: c.say("become uid %d and gid %d without groups", c.v.UID, c.v.GID)})
	c.add(Step{Op: OpCapset, Wall: WallCaps, File: NoFile, Text: "empty the effective, permitted and inheritable capability sets"})
	c.add(Step{Op: OpVerifyIds, Wall: WallIdentity, File: NoFile, A: uint64(c.v.UID), B: uint64(c.v.GID), Text: "verify uid, gid and groups"})
	c.add(Step{Op: OpVerifyCaps, Wall: WallCaps, File: NoFile, A: securebits, Text: "verify that no capability is left"})
	c.add(Step{Op: OpKeyring, Wall: WallProcess, File: NoFile, Text: "join an empty session keyring"})
}

func (c *compiler) process() {
	umask := c.v.Process.Umask
	if umask == 0 {
		umask = 0o022
	}
	c.add(Step{Op: OpPdeathsig, Wall: WallProcess, File: NoFile, Text: "die with the keeper"})
	c.add(Step{Op: OpReset, Wall: WallProcess, File: NoFile, A: uint64(umask), Text: c.say("reset signals, personality and timers, umask %03o", umask)})
	c.add(Step{Op: OpChdir, Wall: WallProcess, File: NoFile, S: c.v.Process.Cwd, Text: "change to " + c.v.Process.Cwd})
	first := 0
	for _, d := range c.h.Descriptors {
		c.add(Step{Op: OpFD, Wall: WallProcess, File: d.File, A: uint64(d.Number), Text: c.say("give descriptor %d", d.Number)})
		first = max(first, d.Number+1)
	}
	c.add(Step{Op: OpClose, Wall: WallProcess, File: NoFile, A: uint64(first), Text: c.say("close every descriptor from %d", first)})
	c.add(Step{Op: OpNNP, Wall: WallNNP, File: NoFile, Text: "set no_new_privs"})
}

func (c *compiler) landlock() {
	abi := c.h.LandlockABI
	if abi == 0 {
		return
	}
	handled := handledFiles(abi)
	var net, scopes uint64
	if abi >= 4 {
		net = landlockNet
	}
	if abi >= 6 {
		scopes = landlockScopes
	}
	c.lock(Step{Op: OpLandlock, A: handled, B: net, C: scopes, Text: c.say("make a Landlock ruleset (ABI %d)", abi)})
	for _, rule := range c.v.Landlock.Paths {
		c.landlockPath(rule, handled)
	}
	if net != 0 {
		c.landlockPorts("bind", unix.LANDLOCK_ACCESS_NET_BIND_TCP, c.v.Landlock.BindTCP)
		c.landlockPorts("connect to", unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, c.v.Landlock.ConnectTCP)
	}
	c.lock(Step{Op: OpLandlockSelf, Text: "enforce the Landlock ruleset"})
	c.lock(Step{Op: OpLandlockTry, S: "/", Text: "verify that Landlock refuses the root directory"})
}

func (c *compiler) lock(s Step) {
	s.Wall, s.File = WallLandlock, NoFile
	c.add(s)
}

func (c *compiler) landlockPath(rule PathRule, handled uint64) {
	bits, err := accessBits(rule.Access)
	if err != nil {
		c.fail(err)
		return
	}
	dir, present := c.kind(rule.Path)
	if !present {
		return
	}
	if !dir {
		bits &= landlockOfFiles
	}
	if bits &= handled; bits == 0 {
		return
	}
	s := Step{Op: OpLandlockPath, S: rule.Path, A: bits}
	ending := ""
	if rule.Optional {
		s.B = 1
		ending = ", if it is there"
	}
	if !c.h.Terse {
		if bits != c.rights || c.rightsText == "" { // most rules give what the one before gave
			c.rights, c.rightsText = bits, fileRights(bits)
		}
		s.Text = "allow " + c.rightsText + " beneath " + rule.Path + ending
	}
	c.lock(s)
}

// kind tells whether a rule's path is a directory in the view, and there at all.
func (c *compiler) kind(p string) (dir, present bool) {
	for i := range c.v.Mounts {
		if m := &c.v.Mounts[i]; m.Path == p {
			return m.From == "" || c.h.Sources[i].Dir, !c.h.Sources[i].Missing
		}
	}
	for _, f := range c.v.Files {
		if f.Path == p {
			return false, true
		}
	}
	return path.Dir(p) != "/dev", true
}

func (c *compiler) landlockPorts(verb string, right uint64, ports []uint16) {
	for _, port := range ports {
		c.lock(Step{Op: OpLandlockPort, A: right, B: uint64(port), Text: c.say("allow to %s TCP port %d", verb, port)})
	}
}

// rlimits come after everything that opens descriptors.
func (c *compiler) rlimits() {
	for _, r := range c.v.Rlimits {
		n, ok := rlimits[r.Name]
		if !ok {
			c.fail(fmt.Errorf("cannot limit %q: no such resource limit", r.Name))
			continue
		}
		c.add(Step{Op: OpRlimit, Wall: WallRlimits, File: NoFile, A: n, B: r.Soft, C: r.Hard, Text: c.say("limit %s to %d (hard %d)", r.Name, r.Soft, r.Hard)})
	}
}

func (c *compiler) filter() {
	if len(c.h.Filter) == 0 {
		return
	}
	c.add(Step{Op: OpSeccomp, Wall: WallSeccomp, File: NoFile, A: c.h.FilterFlags, Bytes: c.h.Filter, Text: c.say("load a seccomp filter of %d instructions", len(c.h.Filter)/8)})
}

func (c *compiler) exec() {
	p := c.v.Process
	c.add(Step{
		Op: OpExec, Wall: WallProcess, File: NoFile, Paths: Candidates(p), Args: p.Argv, Env: p.Env,
		Text: "execute " + p.Argv[0],
	})
}

// Candidates are the paths that a command may be at, as execvp(3) looks them up
// in the plugin's own PATH.
func Candidates(p Process) []string {
	name := p.Argv[0]
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(p.Cwd, name)
		}
		return []string{name}
	}
	var paths []string
	for _, dir := range strings.Split(searchPath(p.Env), ":") {
		if path.IsAbs(dir) && len(paths) < 64 {
			paths = append(paths, path.Join(dir, name))
		}
	}
	return paths
}

func searchPath(env []string) string {
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			return value
		}
	}
	return "/usr/local/bin:/usr/bin:/bin"
}
