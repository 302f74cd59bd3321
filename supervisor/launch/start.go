package launch

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// start collects what one start needs, and takes it back if it fails.
type start struct {
	l    *Launcher
	r    Request
	back undo // always run: what only the start needed
	fail undo // run on failure: what the process keeps

	keeper *namespaces.Keeper
	lease  *lease
	group  *cgroups.Group
	view   namespaces.View
	host   namespaces.Host
	net    *os.File       // nil has the keeper make one
	making <-chan network // one that is being made on the spot; nil if none is
	files  []*os.File
	opened []opened // sources of the host; of the view's mounts until links were shown
	doors  []string // trees whose sockets can be connected to
	reals  []string // of each mount that is a tree of the host, without links
	runBy  []Interpreter
	// compiled are the steps, for the digest of the plan; nil has them made again.
	compiled []namespaces.Step
}

// Start raises every wall of the plan and starts the plugin behind them. On
// any failure nothing is left, and the error is an *ExecError, a
// *MissingWallError or says which step failed.
func (l *Launcher) Start(ctx context.Context, r Request) (_ *Process, err error) {
	s := &start{l: l, r: r}
	select {
	case l.turns <- struct{}{}:
		defer func() { <-l.turns; l.started() }()
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot start: %d others were before it: %w", maxStarts, context.Cause(ctx))
	}
	l.begun()
	l.ready.begin()
	defer l.ready.end()
	defer func() {
		_ = s.back.run() // closes descriptors that were only read, which taking back may need
		if err != nil {
			err = errors.Join(withoutDescriptors(err), l.takeBack(err, s.fail.run))
		}
	}()
	for _, stage := range []func(context.Context) error{s.require, s.claim, s.assemble, s.filter, s.stdio} {
		if err := stage(ctx); err != nil {
			return nil, err
		}
	}
	return s.launch(ctx)
}

// require refuses, before anything is made, what this host cannot give.
func (s *start) require(context.Context) error {
	p := s.r.Plan
	hard := func(wall string) bool { return p.Require[wall].Mode != "best_effort" }
	if len(p.Network.Egress) > 0 && s.r.Network == nil {
		return errors.New("cannot start with network.egress: only the daemon relays (install the plugin and start it, or take egress out of the profile)")
	}
	if len(p.Network.Listen) != len(s.r.Listen) {
		return errors.New("cannot start with network.listen: only the daemon relays (install the plugin and start it, or take listen out of the profile)")
	}
	abi := s.l.abi
	switch need := p.Require["landlock"].MinABI; {
	case abi == 0 && hard("landlock"):
		return &MissingWallError{"landlock", "CONFIG_SECURITY_LANDLOCK=y and landlock in the lsm= list", `[require] landlock = "best_effort"`}
	case abi < need:
		return &MissingWallError{"landlock", fmt.Sprintf("Landlock ABI %d, and this kernel has %d", need, abi), "a smaller min_abi"}
	}
	if p.Seccomp.ExecOnce && !pageZeroIsOurs() {
		return &MissingWallError{"seccomp.execve", fmt.Sprintf("vm.mmap_min_addr of at least %d", seccomp.ExecOncePage), `[seccomp] execve = "any"`}
	}
	for _, f := range s.l.unsupported(p.Limits) {
		promise, _, _ := strings.Cut(f.Name, ".")
		if hard(promise) {
			return &MissingWallError{f.Name, f.Need, fmt.Sprintf("[require] %s = \"best_effort\"", promise)}
		}
	}
	return nil
}

// claim takes what no other start may have: a uid and a group.
func (s *start) claim(ctx context.Context) (err error) {
	cfg := s.l.cfg
	if s.keeper, err = s.l.kept(); err != nil {
		return err
	}
	if s.lease, err = awaitUID(ctx, cfg, s.r.UID); err != nil {
		return err
	}
	s.fail.add(s.takeBack)
	s.l.deaths.announce(s.lease.uid)
	if s.net = s.l.ready.net(); s.net != nil {
		s.back.add(s.net.Close)
	} else if s.making = s.l.network(); s.making != nil {
		s.back.add(s.dropNetwork)
	}
	if s.group = s.l.ready.group(s.limits()); s.group != nil {
		return nil
	}
	s.group, err = s.l.tree.New(s.r.Name, s.limits())
	if errors.Is(err, fs.ErrExist) { // what an earlier run could not remove is nobody's
		if _, err = s.l.tree.Sweep(); err == nil {
			s.group, err = s.l.tree.New(s.r.Name, s.limits())
		}
	}
	if errors.Is(err, fs.ErrExist) { // another process of the plugin has it, which this one is to replace
		s.group, err = s.l.tree.New(s.r.Name+besideSuffix, s.limits())
	}
	if err != nil {
		return fmt.Errorf("cannot make the group of %s: %w", s.r.Name, err)
	}
	return nil
}

// besideSuffix is no part of a plugin's name.
const besideSuffix = "+"

// network is one that is being made; nil where the keeper is to make it.
func (l *Launcher) network() <-chan network {
	if n := l.takeFirst(); n != nil {
		return n
	}
	return l.networks.begin()
}

// networkMade waits for what was begun. If it failed the keeper is to make one,
// and says what is wrong as its step.
func (s *start) networkMade() {
	if s.making == nil {
		return
	}
	made := <-s.making
	s.making = nil
	if s.net = made.file; s.net != nil {
		s.back.add(s.net.Close)
	}
}

// dropNetwork is for a start that failed before it wanted the network.
func (s *start) dropNetwork() error {
	if s.making == nil {
		return nil
	}
	if made := <-s.making; made.file != nil {
		return made.file.Close()
	}
	return nil
}

// takeBack ends what a start that failed, or that nobody waited for, may still
// have in its group, removes the group and frees the uid. If something stays,
// so does the uid: the keeper holds its lock as long as anything runs as it. The
// group is nobody's then, and the next start of that name sweeps it.
func (s *start) takeBack() error {
	s.l.deaths.drop(s.lease.uid)
	if s.group == nil {
		return s.lease.release()
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	err := s.group.Kill(ctx) // within bounds: who waits for this start waits for nothing else
	if err == nil {
		err = s.group.Remove()
	}
	if err != nil {
		return errors.Join(err, s.group.Abandon(), s.lease.file.Close())
	}
	return s.lease.release()
}

// limits are the plan's without what this host cannot do and need not.
func (s *start) limits() cgroups.Limits { return s.l.possible(s.r.Plan.Limits) }

// possible are limits without those that this host cannot enforce.
func (l *Launcher) possible(limits cgroups.Limits) cgroups.Limits {
	for _, f := range l.unsupported(limits) {
		drop(&limits, f.Name)
	}
	for _, name := range []string{"memory.max", "pids.max", "cpu.max"} {
		if switchedOff(name) {
			drop(&limits, name)
		}
	}
	return limits
}

func drop(l *cgroups.Limits, name string) {
	switch name {
	case "memory.max":
		l.MemoryMax, l.MemorySwapMax = nil, nil
	case "memory.high":
		l.MemoryHigh = nil
	case "memory.swap.max":
		l.MemorySwapMax = nil
	case "pids.max":
		l.PidsMax = nil
	case "cpu.max":
		l.CPUMax = nil
	case "cpu.weight":
		l.CPUWeight = nil
	case "cpuset.cpus":
		l.Cpuset = ""
	case "memory.oom.group":
		l.MemoryOOMGroup = false
	case "io.max":
		l.IOMax = cgroups.IOMax{}
	case "hugetlb.2MB.max":
		l.Hugetlb2M = nil
	case "hugetlb.1GB.max":
		l.Hugetlb1G = nil
	}
}

// file adds a descriptor to the launch and gives its index.
func (s *start) file(f *os.File) int {
	s.files = append(s.files, f)
	return len(s.files) - 1
}

// owned adds a descriptor that the start closes.
func (s *start) owned(f *os.File) int {
	s.back.add(f.Close)
	return s.file(f)
}

// assemble opens what the view shows and says where the group is.
func (s *start) assemble(ctx context.Context) error {
	s.view = buildView(s.r)
	if switchedOff(namespaces.WallNoexec) {
		s.view.ExecutableScratch = true
	}
	for i := range s.view.Mounts {
		if switchedOff("scratch size") {
			s.view.Mounts[i].Size *= 1024
		}
		if switchedOff("scratch inodes") {
			s.view.Mounts[i].Inodes *= 1024
		}
	}
	s.host = namespaces.Host{
		LandlockABI: s.l.abi, Kill: namespaces.NoFile, UserNS: namespaces.NoFile,
		UID: s.lease.uid, GID: s.lease.uid, MemfdNoexec: s.l.memfd, Terse: true, Prepared: s.l.templates.max > 0,
	}
	if switchedOff("environment") {
		s.view.Process.Env = append(s.view.Process.Env, os.Environ()...)
	}
	s.clampRlimits()
	ids := s.r.Plan.Process
	ns, err := s.userNS(ctx, mapLine(ids.UID, s.lease.uid), mapLine(ids.GID, s.lease.uid))
	if err != nil {
		return err
	}
	s.host.UserNS = s.file(ns)
	for i := range s.view.Mounts {
		if err := s.source(i); err != nil {
			return err
		}
	}
	s.reals = showLinks(&s.view, &s.host, s.reals)
	if err := s.interpreters(); err != nil {
		return err
	}
	return s.groupFiles()
}

// userNS gives a user namespace for this start.
func (s *start) userNS(ctx context.Context, uidMap, gidMap string) (*os.File, error) {
	ns, kept, err := s.l.users.get(ctx, s.keeper, uidMap, gidMap)
	if err == nil && !kept {
		s.back.add(ns.Close)
	}
	return ns, err
}

// hasMemfdNoexec: Linux 6.3; before that memfd_create is the filter's to deny.
func hasMemfdNoexec() bool {
	_, err := os.Stat("/proc/sys/vm/memfd_noexec")
	return err == nil
}

// clampRlimits lowers what this process could not raise: without
// CAP_SYS_RESOURCE a hard limit only falls.
func (s *start) clampRlimits() {
	s.view.Rlimits = slices.Clone(s.view.Rlimits)
	for i, r := range s.view.Rlimits {
		var now unix.Rlimit
		n, ok := namespaces.RlimitNumber(r.Name)
		if ok && unix.Prlimit(0, n, nil, &now) == nil {
			s.view.Rlimits[i].Hard = min(r.Hard, now.Max)
			s.view.Rlimits[i].Soft = min(r.Soft, now.Max)
		}
	}
	if cpu := s.r.Plan.Time.CPU; cpu > 0 {
		seconds := uint64((cpu + 999_999_999) / 1_000_000_000)
		s.view.Rlimits = append(s.view.Rlimits, namespaces.Rlimit{Name: "cpu", Soft: seconds, Hard: seconds})
	}
}

// opened is what stands behind one of the view's mounts.
type opened struct {
	*namespaces.OpenedSource
	mount namespaces.Mount
}

// source opens what one mount shows. Until its tree is made, File is the place
// in opened.
func (s *start) source(i int) error {
	m := s.view.Mounts[i]
	s.reals = append(s.reals, "")
	none := namespaces.Source{File: namespaces.NoFile}
	missing := namespaces.Source{File: namespaces.NoFile, Missing: true}
	if m.From == "" {
		s.host.Sources = append(s.host.Sources, none)
		return nil
	}
	o, err := namespaces.OpenSource(m)
	if m.Optional && errors.Is(err, unix.ENOENT) {
		s.host.Sources = append(s.host.Sources, missing)
		return nil
	}
	if err != nil {
		return err
	}
	s.back.add(o.Close)
	if why := s.refuses(m, o.Real); why != "" && m.Optional {
		s.host.Sources = append(s.host.Sources, missing)
		return nil
	} else if why != "" {
		return refusedSource(m.From, o.Real, why)
	}
	s.opened = append(s.opened, opened{o, m})
	s.host.Sources = append(s.host.Sources, namespaces.Source{File: len(s.opened) - 1, Dir: o.Dir})
	s.reals[i] = o.Real
	if o.Real != m.From {
		followOuter(&s.view, i, o.Real)
	}
	return nil
}

// tree makes the mount of one that was opened.
func (s *start) tree(ctx context.Context, at int) (*namespaces.Tree, error) {
	o := s.opened[at]
	idmap, err := s.idmap(ctx, o)
	if err != nil {
		return nil, err
	}
	return o.Tree(o.mount, idmap)
}

// attach makes the trees of this start's own mounts; steps name opened sources
// until then.
func (s *start) attach(ctx context.Context, steps []namespaces.Step) error {
	for i := range steps {
		if steps[i].Op != namespaces.OpAttach {
			continue
		}
		at := steps[i].File
		tree, err := s.tree(ctx, at)
		if err != nil {
			return err
		}
		steps[i].File = s.owned(tree.File)
		s.sawDoor(at, tree.Mapped)
	}
	return nil
}

// sawDoor remembers what is shown for reading in a way that lets its sockets be
// connected to.
func (s *start) sawDoor(at int, mapped bool) {
	if m := s.opened[at].mount; !m.Writable && !mapped {
		s.doors = append(s.doors, m.From)
	}
}

// refuses asks the host's ceiling about where a grant leads: its words were
// judged when the plan was made, and a link can lead anywhere.
func (s *start) refuses(m namespaces.Mount, real string) string {
	grant, ok := grantAt(s.r.Plan.Files, m.Path)
	if !ok || m.Owned || m.From == s.r.Bundle {
		return "" // the plugin's own
	}
	return s.l.cfg.Refuses(real, grant.Access)
}

func refusedSource(from, real, why string) error {
	text := "the host's ceiling refuses it: " + why
	if real != "" && real != from {
		text = "it leads to " + real + ", which the host's ceiling refuses: " + why
	}
	return &namespaces.SourceError{Path: from, Why: text}
}

// followOuter is for a grant of a link that a wider grant already shows as a
// link, which nothing can be mounted over: what it leads to is shown where the
// link says.
func followOuter(v *namespaces.View, i int, real string) {
	old := v.Mounts[i].Path
	shown := func(p string) bool {
		return slices.ContainsFunc(v.Mounts, func(m namespaces.Mount) bool {
			return m.From != "" && m.Path == m.From && strings.HasPrefix(p, m.Path+"/")
		})
	}
	if !shown(old) {
		return
	}
	v.Mounts[i].Path = real
	for r := range v.Landlock.Paths {
		if v.Landlock.Paths[r].Path == old {
			v.Landlock.Paths[r].Path = real
		}
	}
}

// idmap lets a plugin write what belongs to a user of the host, as that user.
// Never what belongs to root: a set-user-id file left there would be root's.
// The owner is that of what was opened, not of what its path leads to by now.
func (s *start) idmap(ctx context.Context, o opened) (*namespaces.IDMap, error) {
	m := o.mount
	if !m.Writable && !switchedOff("sockets") {
		return s.nobody(ctx)
	}
	if !m.Writable || m.Owned && (m.From == "" || o.UID == s.lease.uid) {
		return nil, nil
	}
	switch { // and data that is kept belongs to the plugin's first uid, where this is another
	case o.UID == 0 && o.Mode&0o002 == 0:
		return nil, &namespaces.SourceError{Path: m.From, Why: "it belongs to root and the plugin, which never acts as root, could not write there; give it to another user (chown), whom the plugin will then write as"}
	case o.UID == 0:
		return nil, &namespaces.SourceError{Path: m.From, Why: "it belongs to root and anyone may write there: others leave files and sockets in it, which would be the plugin's to reach; make a directory in it for the plugin (mkdir, chown) and grant that"}
	}
	groups := mapLine(o.GID, s.lease.uid)
	if o.GID == 0 {
		// What the plugin makes belongs to nogroup; root's group shows as the
		// reaper's, of which the plugin is no member.
		groups = mapLine(65534, s.lease.uid) + mapLine(0, s.lease.uid+1)
	}
	ns, err := s.userNS(ctx, mapLine(o.UID, s.lease.uid), groups)
	if err != nil {
		return nil, err
	}
	return &namespaces.IDMap{UserNS: ns}, nil
}

// nobody maps an id that no file has. Through such a mount nothing can be
// written to whatever its mode says, and so no service of the host be reached
// by a socket that lies in a granted tree.
func (s *start) nobody(ctx context.Context) (*namespaces.IDMap, error) {
	ns, err := s.userNS(ctx, s.l.nobodyMap(), s.l.nobodyMap())
	return &namespaces.IDMap{UserNS: ns, OrWithout: true}, err
}

func (l *Launcher) nobodyMap() string {
	const unused = 1<<32 - 2
	return mapLine(unused, l.cfg.UIDBase)
}

// groupFiles gives the keeper what it needs to end and remove the group when
// nobody else can.
func (s *start) groupFiles() error {
	for _, f := range s.group.Joins() {
		s.host.Joins = append(s.host.Joins, s.file(f))
	}
	s.host.Holds = append(s.host.Holds, s.file(s.lease.file))
	if f := s.group.LockFile(); f != nil {
		s.host.Holds = append(s.host.Holds, s.file(f))
	}
	if keep := s.r.Keep; keep != nil {
		for _, f := range append([]*os.File{keep.Book.file}, keep.Files...) {
			s.host.Kept = append(s.host.Kept, s.file(f))
		}
	}
	if f := s.group.KillFile(); f != nil {
		s.host.Kill = s.file(f)
	} else if f := s.group.ThawFile(); f != nil {
		s.host.Kill, s.host.KillThaws = s.file(f), true
	}
	for _, dir := range s.group.Paths() {
		if err := s.groupDir(dir, false); err != nil {
			return err
		}
		if err := s.groupDir(filepath.Dir(dir), true); err != nil {
			return err
		}
	}
	return nil
}

func (s *start) groupDir(dir string, shared bool) error {
	parent, err := s.l.parents.get(filepath.Dir(dir))
	if err != nil {
		return err
	}
	s.host.Groups = append(s.host.Groups, namespaces.GroupDir{Parent: s.file(parent), Name: filepath.Base(dir), Shared: shared})
	return nil
}

// Filter is what a start of p on this host has compiled: for who wants that done
// before.
func Filter(p *plan.Plan) seccomp.Filter { return filterOf(p, hasMemfdNoexec()) }

func filterOf(p *plan.Plan, memfdNoexec bool) seccomp.Filter {
	if !memfdNoexec && !switchedOff(namespaces.WallMemfd) {
		return withoutMemfd(p.Seccomp)
	}
	return p.Seccomp
}

// filter compiles the plan's system calls.
func (s *start) filter(context.Context) error {
	f := filterOf(s.r.Plan, s.host.MemfdNoexec)
	program, err := s.l.cfg.Compile(f)
	if err != nil {
		return fmt.Errorf("cannot compile the filter: %w", err)
	}
	s.host.Filter, s.host.ExecOnce = program, f.ExecOnce
	s.host.FilterFlags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	return nil
}

// leastAddress is the sysctl below which nobody maps anything, open for ever: to
// find its name again takes longer than all else that is asked for a start.
var leastAddress = sync.OnceValues(func() (int, error) {
	return unix.Open("/proc/sys/vm/mmap_min_addr", unix.O_RDONLY|unix.O_CLOEXEC, 0)
})

// pageZeroIsOurs: no plugin can map the page from which the one execve takes
// its path. It is looked at for each start.
func pageZeroIsOurs() bool {
	var text [32]byte
	fd, err := leastAddress()
	if err != nil {
		return false
	}
	n, err := unix.Pread(fd, text[:], 0)
	if err != nil {
		return false
	}
	least, err := strconv.ParseUint(strings.TrimSpace(string(text[:n])), 10, 64)
	return err == nil && least >= seccomp.ExecOncePage
}

// withoutMemfd refuses memfd_create where no sysctl can make what it gives not
// executable (before Linux 6.3): Landlock does not see a memfd, and nothing
// else would keep the plugin from running it. ENOSYS is what an older kernel
// says; programs fall back to a file.
func withoutMemfd(f seccomp.Filter) seccomp.Filter {
	const name = "memfd_create"
	rules, allowed := make([]seccomp.Rule, 0, len(f.Rules)+1), false
	for _, r := range f.Rules {
		names, err := seccomp.Expand(r.Names)
		if err == nil && (r.Action == seccomp.ActAllow || r.Action == seccomp.ActLog) && slices.Contains(names, name) {
			r.Names = slices.DeleteFunc(names, func(n string) bool { return n == name })
			allowed = true
		}
		if len(r.Names) > 0 {
			rules = append(rules, r)
		}
	}
	if !allowed {
		return f // it is a violation, and stays one
	}
	f.Rules = append(rules, seccomp.Rule{Names: []string{name}, Action: seccomp.ActErrno, Errno: "ENOSYS"})
	return f
}

func (s *start) stdio(context.Context) error {
	var null *os.File
	own := []*os.File{s.r.Stdin, s.r.Stdout, s.r.Stderr}
	if s.r.Socket != nil {
		own = append(own, s.r.Socket)
	}
	for n, f := range append(own, s.r.Listen...) {
		if f == nil {
			if null == nil {
				fd, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
				if err != nil {
					return fmt.Errorf("cannot open /dev/null: %w", err)
				}
				null = os.NewFile(uintptr(fd), os.DevNull)
				s.back.add(null.Close)
			}
			f = null
		}
		if err := noDirectory(f, n); err != nil {
			return err
		}
		s.host.Descriptors = append(s.host.Descriptors, namespaces.Descriptor{File: s.file(f), Number: n})
	}
	leaks(s)
	return nil
}

// noDirectory: from a directory of the host its whole tree can be walked and
// looked at, whatever the view shows; Landlock stops opens, not that.
func noDirectory(f *os.File, n int) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot give descriptor %d: %w", n, err)
	}
	if info.IsDir() && !switchedOff("directory streams") {
		return fmt.Errorf("cannot give descriptor %d: %s is a directory, from which the plugin would see the host's files; grant it instead", n, f.Name())
	}
	return nil
}

// launch compiles the steps, runs them and takes the process over.
func (s *start) launch(ctx context.Context) (*Process, error) {
	steps, err := s.steps(true)
	if err != nil {
		return nil, err
	}
	s.compiled = steps
	if steps, err = s.trees(ctx, steps); err != nil {
		return nil, startError(err, s.r.Plan.Process.Argv[0])
	}
	request := namespaces.Launch{
		Steps: steps, Files: s.files, CgroupFile: namespaces.NoFile, NetNSFile: namespaces.NoFile,
		ReaperUID: s.lease.uid + 1, ReaperGID: s.lease.uid + 1,
	}
	if dir := s.group.Dir(); dir != nil && !switchedOff(namespaces.WallGroup) {
		request.Files = append(request.Files, dir)
		request.CgroupFile = len(request.Files) - 1
	}
	s.networkMade()
	if s.net != nil && !switchedOff(namespaces.WallNet) {
		request.Files = append(request.Files, s.net)
		request.NetNSFile = len(request.Files) - 1
	}
	request.Describe = func() []namespaces.Step {
		_, own := namespaces.Part(s.described())
		return own
	}
	p, err := s.process()
	if err != nil {
		return nil, err
	}
	var network error
	if s.r.KeepWalls || s.r.Network != nil {
		request.Staged = func(pid int) { network = s.gate(p, pid) }
	}
	child, err := s.keeper.Launch(ctx, request)
	if network != nil {
		return nil, errors.Join(network, endUnwanted(child, err))
	}
	if err != nil {
		return nil, startError(err, s.r.Plan.Process.Argv[0])
	}
	return p, p.adopt(child)
}

// trees makes the mounts that steps attach: those that all starts of the plan
// have alike once, in a template, and gives the steps that are left.
func (s *start) trees(ctx context.Context, steps []namespaces.Step) ([]namespaces.Step, error) {
	shared, own := namespaces.Part(steps)
	if shared != nil {
		t, err := s.prepared(ctx, shared)
		if err != nil {
			return nil, err
		}
		trees := 0
		for _, step := range shared {
			if step.Op == namespaces.OpAttach {
				s.sawDoor(step.File, t.mapped[trees])
				trees++
			}
		}
		enter := slices.IndexFunc(own, func(s namespaces.Step) bool { return s.Op == namespaces.OpTemplate })
		own[enter].File = s.file(t.ns)
	}
	return own, s.attach(ctx, own)
}

// steps compiles them; terse ones are for the keeper alone.
func (s *start) steps(terse bool) ([]namespaces.Step, error) {
	host := s.host
	host.Terse = terse
	steps, err := namespaces.Compile(s.view, host)
	if s.l.tamper != nil {
		steps = s.l.tamper(steps)
	}
	return withoutSwitchedOff(steps), err
}

// described are the steps with their texts; they compiled before.
func (s *start) described() []namespaces.Step {
	steps, _ := s.steps(false)
	return steps
}

// gate is what is done while the plugin waits behind its walls. One whose
// network cannot be made never gets through it.
func (s *start) gate(p *Process, pid int) error {
	if s.r.KeepWalls {
		p.staged(pid)
	}
	if s.r.Network == nil {
		return nil
	}
	err := s.r.Network(pid)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL) // it is ours, waits, and nobody has reaped it
	}
	return err
}

// endUnwanted ends a child that the keeper let through all the same.
func endUnwanted(child *namespaces.Child, err error) error {
	if err != nil { // it was killed at the gate
		return nil
	}
	_ = child.Signal(syscall.SIGKILL)
	<-child.Done()
	if child.Listener != nil {
		err = child.Listener.Close()
	}
	return errors.Join(err, child.Forget())
}

// process is what remains of a start; it owns lease and group from here on.
func (s *start) process() (*Process, error) {
	watched, err := s.r.Plan.Seccomp.Observed()
	if err != nil {
		return nil, err
	}
	now, compiled := s.r.Plan, s.compiled
	s.compiled = nil // the first who asks for the digest needs them, and nobody else
	remake := func(next *plan.Plan) *force {
		of := *s
		of.r.Plan = next
		if next == now {
			of.compiled, compiled = compiled, nil
		}
		return &force{plan: next, digests: sync.OnceValues(of.digests)}
	}
	p := &Process{
		remake: remake,
		l:      s.l, r: s.r, lease: s.lease, group: s.group, view: s.view, host: s.host, doors: s.doors, runBy: s.runBy,
		judge:   violation.NewJudge(s.r.Plan).Recall(s.r.Past),
		flood:   seccomp.Flood{Limit: s.l.floodLimit},
		fallen:  fallen{flood: seccomp.Flood{Limit: s.l.floodLimit}},
		watched: watched,
		gone:    make(chan struct{}),
		work:    make(chan *call, 64),
		urgent:  make(chan *call, 1),

		firstDone: make(chan struct{}),
		worked:    make(chan struct{}),
		done:      make(chan struct{}),
	}
	if s.r.Keep != nil {
		p.book = s.r.Keep.Book
	}
	p.inForce.Store(remake(s.r.Plan))
	return p, nil
}

// digests are of the policy and of the plan, made when somebody asks: nothing
// before the first instruction needs them.
func (s *start) digests() (policy, whole string) {
	policy = s.r.Plan.PolicyDigest()
	steps := s.compiled
	if steps == nil {
		steps, _ = s.steps(true) // they compiled before
	}
	return policy, planDigest(policy, s.view.Mounts, s.runBy, steps, s.lease.uid)
}

// planDigest adds to the policy digest what is particular to this host: the
// steps as they run, the trees that they show, the interpreters, and the uid. Each
// list has its length before it.
func planDigest(policy string, mounts []namespaces.Mount, runBy []Interpreter, steps []namespaces.Step, uid uint32) string {
	b := make([]byte, 0, 16<<10)
	text := func(list ...string) {
		for _, t := range list {
			b = binary.AppendUvarint(b, uint64(len(t)))
			b = append(b, t...)
		}
	}
	text(policy)
	b = binary.LittleEndian.AppendUint32(b, uid)
	b = binary.AppendUvarint(b, uint64(len(mounts)))
	for _, m := range mounts {
		text(m.From, m.Path)
	}
	b = binary.AppendUvarint(b, uint64(len(runBy)))
	for _, i := range runBy {
		text(i.Path, i.File, i.Digest)
	}
	b = binary.AppendUvarint(b, uint64(len(steps)))
	for _, step := range steps {
		for _, n := range []uint64{uint64(step.Op), step.A, step.B, step.C} {
			b = binary.LittleEndian.AppendUint64(b, n)
		}
		text(step.Wall, step.S, step.T, string(step.Bytes))
		for _, list := range [][]string{step.Paths, step.Args, step.Env} {
			b = binary.AppendUvarint(b, uint64(len(list)))
			text(list...)
		}
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
