package reach

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/plan"
)

// rule is what Landlock allows beneath one inode.
type rule struct {
	access map[string]bool
	path   string
}

// since is the Landlock ABI from which rights that came later are handled;
// before it nothing but the mounts refuses them. landlock(7).
var since = map[string]int{"refer": 2, "truncate": 3, "ioctl_dev": 5, "resolve_unix": 9}

// ofFiles are the rights that a rule on something that is no directory keeps.
var ofFiles = []string{"execute", "write_file", "read_file", "truncate", "ioctl_dev", "resolve_unix"}

// landlock collects the rules. A rule stands on the inode at its path, so two
// grants of one inode add up, and a rule whose path is a link is without effect.
func (m *Model) landlock() {
	for _, r := range m.view.Landlock.Paths {
		w, err := m.tree.walk(r.Path, false)
		if err != nil {
			continue
		}
		have := m.rules[w.now.id]
		if have == nil {
			have = &rule{access: map[string]bool{}, path: r.Path}
			m.rules[w.now.id] = have
		}
		for _, right := range r.Access {
			if w.now.mode.IsDir() || slices.Contains(ofFiles, right) {
				have.access[right] = true
			}
		}
	}
}

// locked asks Landlock for rights at a place: every right must be given by a
// rule at or above it. It returns the rights that none gives, and a rule that
// gives one.
func (m *Model) locked(at string, rights ...string) (missing []string, by string) {
	for _, right := range rights {
		if m.abi == 0 || m.abi < since[right] {
			continue
		}
		found := false
		for dir := at; !found; dir = path.Dir(dir) {
			if n, err := m.tree.lookup(dir); err == nil {
				if r := m.rules[n.id]; r != nil && r.access[right] {
					found, by = true, r.path
				}
			}
			if dir == "/" {
				break
			}
		}
		if !found {
			missing = append(missing, right)
		}
	}
	return missing, by
}

// verb is one thing that can be done with a file.
type verb struct {
	calls  []string // any of them does it
	follow bool     // a link at the end is followed
	parent bool     // it is the directory that is changed
	// rights are Landlock's; of the parent for those that make or remove.
	rights, parentRights []string
	perm                 fs.FileMode
	writes               bool
	executes, removes    bool
}

var opens = []string{"open", "openat", "openat2"}

// fileVerbs are what can be asked of files.
var fileVerbs = map[string]verb{
	"read":     {calls: opens, follow: true, rights: []string{"read_file"}, perm: look},
	"list":     {calls: opens, follow: true, rights: []string{"read_dir"}, perm: look},
	"write":    {calls: opens, follow: true, rights: []string{"write_file"}, perm: change, writes: true},
	"truncate": {calls: opens, follow: true, rights: []string{"write_file", "truncate"}, perm: change, writes: true},
	"execute":  {follow: true, rights: []string{"read_file", "execute"}, perm: search, executes: true},
	"create":   {calls: append([]string{"creat"}, opens...), parent: true, rights: []string{"write_file"}, parentRights: []string{"make_reg"}, perm: change | search, writes: true},
	"mkdir":    {calls: []string{"mkdir", "mkdirat"}, parent: true, parentRights: []string{"make_dir"}, perm: change | search, writes: true},
	"symlink":  {calls: []string{"symlink", "symlinkat"}, parent: true, parentRights: []string{"make_sym"}, perm: change | search, writes: true},
	"remove":   {calls: []string{"unlink", "unlinkat"}, parent: true, parentRights: []string{"remove_file"}, perm: change | search, writes: true, removes: true},
	"rmdir":    {calls: []string{"rmdir", "unlinkat"}, parent: true, parentRights: []string{"remove_dir"}, perm: change | search, writes: true, removes: true},
}

// File answers whether the plugin can do something with a path as it sees it.
// The verbs are read, list, write, truncate, execute, create (a new file),
// mkdir, symlink, remove (a file) and rmdir.
func (m *Model) File(name, file string) (Answer, error) {
	v, ok := fileVerbs[name]
	if !ok {
		return Answer{}, fmt.Errorf("cannot answer: nothing of a file is called %q", name)
	}
	a := Answer{Question: name + " " + file}
	m.filtered(&a, v)
	entry, why := file, ""
	if v.parent {
		entry, why = entryName(name, file)
	}
	w, err := m.tree.walk(entry, v.follow)
	a.Path = w.trail
	if at := w.now.mount; at != nil {
		a.Mount = at.String()
	}
	switch {
	case why != "":
		a.refuse("mount", "", "%s", why)
	case v.parent:
		m.entry(&a, name, v, w, err)
	default:
		m.existing(&a, name, v, w, err)
	}
	a.Can = len(a.Why) == 0
	if a.Can {
		a.Why = []Reason{m.granted(w, v)}
	}
	return a, nil
}

// entryName is the name in a directory that a path is, without what follows it:
// a link at its end is never followed, a slash behind it is for directories
// only, and "." and ".." are no names of anything new or gone;
// path_resolution(7).
func entryName(verb, file string) (name, why string) {
	name = strings.TrimRight(file, "/")
	if name == "" {
		return file, "the root is always there"
	}
	if last := name[strings.LastIndexByte(name, '/')+1:]; last == "." || last == ".." {
		return name, fmt.Sprintf("%q is no name in a directory", last)
	}
	if name != file && verb != "mkdir" && verb != "rmdir" {
		return name, "the slash at its end is for directories"
	}
	return name, ""
}

// filtered refuses what the filter has no call for.
func (m *Model) filtered(a *Answer, v verb) {
	if v.executes && m.plan.Seccomp.ExecOnce && !m.onlyRecorded() {
		m.refuseAnother(a)
	}
	if len(v.calls) == 0 || slices.ContainsFunc(v.calls, m.mayCall) {
		return
	}
	a.refuse("seccomp", m.callOrigin(v.calls[len(v.calls)-1]), "none of the calls %s is allowed", strings.Join(v.calls, ", "))
}

// blocked says why a path leads nowhere.
func (m *Model) blocked(a *Answer, w *walker, err error) {
	var s *stop
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &s):
		a.refuse("mount", "", "%s is not there: %s", s.at, m.why(s.at))
	case errors.Is(err, errAccess) && errors.As(err, &s):
		a.refuse("permissions", "", "the directory %s cannot be passed: %s", s.at, w.now.permissions())
	default:
		a.refuse("mount", "", "%v", err)
	}
}

// why says why nothing is at a place.
func (m *Model) why(at string) string {
	switch mt := m.tree.mountOf(at); mt.kind {
	case kindHost:
		return "the host has nothing at " + path.Join(mt.real, strings.TrimPrefix(at, mt.path))
	case kindTmpfs:
		return mt.path + " starts empty"
	case kindProc:
		return "/proc shows the plugin's own processes only"
	}
	return "no grant has it"
}

// existing judges what is done to a file that is there.
func (m *Model) existing(a *Answer, name string, v verb, w *walker, err error) {
	if err != nil {
		m.blocked(a, w, err)
		return
	}
	n := w.now
	kind := n.mode.Type()
	switch {
	case name == "list" && kind != fs.ModeDir:
		a.refuse("mount", "", "%s is no directory", n.at)
	case name != "list" && kind == fs.ModeDir:
		a.refuse("mount", "", "%s is a directory", n.at)
	case kind == fs.ModeSocket:
		a.refuse("mount", "", "%s is a socket", n.at)
	case name == "execute" && kind != 0:
		a.refuse("mount", "", "%s is no regular file", n.at)
	}
	if len(a.Why) > 0 {
		return
	}
	if v.writes && !n.mount.writable && kind != fs.ModeDevice|fs.ModeCharDevice && kind != fs.ModeNamedPipe {
		a.refuse("mount", m.originOf(n.at), "%s is mounted read-only", n.mount.path)
	}
	if name == "execute" && !n.mount.exec {
		a.refuse("mount", m.originOf(n.at), "%s is mounted noexec", n.mount.path)
	}
	if !n.permits(v.perm) {
		a.refuse("permissions", "", "%s", n.permissions())
	}
	rights := v.rights
	if kind != 0 { // only regular files are truncated; open(2)
		rights = slices.DeleteFunc(slices.Clone(rights), func(r string) bool { return r == "truncate" })
	}
	m.refuseLocked(a, n.at, rights)
	if n.mount.kind == kindProc && n.at != "/proc" {
		a.Note = "what a file of /proc gives or takes, the kernel decides for each"
	}
}

func (m *Model) refuseLocked(a *Answer, at string, rights []string) {
	if missing, _ := m.locked(at, rights...); len(missing) > 0 {
		a.refuse("landlock", m.originOf(at), "no grant gives %s at %s", strings.Join(missing, " and "), at)
	}
}

// entry judges what is done to a name in a directory.
func (m *Model) entry(a *Answer, name string, v verb, w *walker, err error) {
	var s *stop
	there := err == nil
	absent := errors.Is(err, fs.ErrNotExist) && errors.As(err, &s) && w.now.at == s.at && path.Dir(s.at) == w.dir.at && w.last
	if !there && !absent {
		m.blocked(a, w, err)
		return
	}
	switch {
	case v.removes && !there:
		m.blocked(a, w, err)
		return
	case !v.removes && there:
		a.refuse("mount", "", "%s is already there", w.now.at)
		return
	case name == "remove" && w.now.mode.IsDir():
		a.refuse("mount", "", "%s is a directory", w.now.at)
		return
	case name == "rmdir" && !w.now.mode.IsDir():
		a.refuse("mount", "", "%s is no directory", w.now.at)
		return
	}
	d := w.dir
	if there && w.now.mount.path == w.now.at {
		a.refuse("mount", m.originOf(w.now.at), "%s is mounted there", w.now.mount)
		return
	}
	if !d.mount.writable {
		a.refuse("mount", m.originOf(d.at), "%s is mounted read-only", d.mount.path)
	}
	if d.mount.kind == kindProc {
		a.refuse("mount", "", "nothing can be made or removed in /proc")
	}
	if !d.permits(v.perm) {
		a.refuse("permissions", "", "%s", d.permissions())
	}
	if v.removes && w.now.mount == d.mount && w.now.unmapped { // EOVERFLOW; may_delete in the kernel's fs/namei.c
		a.refuse("permissions", "", "%s", w.now.permissions())
	}
	if v.removes && d.mode&(fs.ModeSticky|0o1000) != 0 && !d.own && !w.now.own {
		a.refuse("permissions", "", "%s is sticky, and %s belongs to another", d.at, w.now.at)
	}
	m.refuseLocked(a, d.at, v.parentRights)
	switch name {
	case "create":
		m.refuseLocked(a, w.now.at, v.rights)
	case "rmdir":
		a.Note = "only while it is empty"
	}
}

// permissions are a node's as ls(1) has them, and who the plugin is to it.
func (n node) permissions() string {
	who := "is another to it"
	switch {
	case n.own:
		who = "owns it"
	case n.group:
		who = "is of its group"
	case n.unmapped:
		who = "sees it as nobody's, which nobody can change"
	}
	return fmt.Sprintf("%s is %s, and the plugin %s", n.at, n.mode.Perm(), who)
}

// granted names the rule behind a yes.
func (m *Model) granted(w *walker, v verb) Reason {
	rights, at := v.rights, w.now.at
	if v.parent {
		rights, at = v.parentRights, w.dir.at
	}
	_, by := m.locked(at, rights...)
	if by == "" {
		by = w.now.mount.path
	}
	for _, f := range m.plan.Files {
		if f.Path == by {
			return Reason{Wall: "files", Text: fmt.Sprintf("%s is granted %s", by, short(f.Access)), Origin: f.Origin}
		}
	}
	return Reason{Wall: "files", Text: by + " is every plugin's own"}
}

// short is an access in as few words as there are.
func short(access []string) string {
	has := func(right string) bool { return slices.Contains(access, right) }
	switch {
	case has("write_file") && has("read_file") && has("make_reg"):
		return "rw"
	case has("execute") && has("read_file") && has("read_dir"):
		return "rx"
	case has("read_file") && has("read_dir") && len(access) == 2:
		return "r"
	}
	return strings.Join(access, ", ")
}

// originOf is who wrote the innermost grant above a place.
func (m *Model) originOf(at string) string {
	best := plan.File{}
	for _, f := range m.plan.Files {
		if within(at, f.Path) && len(f.Path) >= len(best.Path) {
			best = f
		}
	}
	return best.Origin
}
