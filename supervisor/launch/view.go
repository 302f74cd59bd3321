package launch

import (
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/egress/layout"
)

// The rights that go with what every plugin has.
var (
	readRights  = []string{"read_file", "read_dir"}
	runRights   = []string{"read_file", "read_dir", "execute"}
	writeRights = []string{
		"read_file", "read_dir", "write_file", "truncate", "make_reg", "make_dir", "make_sym",
		"remove_file", "remove_dir", "refer",
	}
	socketRights = append([]string{"make_sock", "make_fifo"}, writeRights...)
	deviceRights = []string{"read_file", "write_file"}
)

// masked is what of a full /proc says too much of the host or does something to
// it; the OCI runtimes' lists, and what came since.
var masked = []string{
	"/proc/acpi", "/proc/asound", "/proc/bus", "/proc/config.gz", "/proc/driver", "/proc/fs", "/proc/interrupts",
	"/proc/irq", "/proc/kallsyms", "/proc/kcore", "/proc/key-users", "/proc/keys", "/proc/kmsg", "/proc/kpagecgroup",
	"/proc/kpagecount", "/proc/kpageflags", "/proc/latency_stats", "/proc/modules", "/proc/sched_debug", "/proc/scsi",
	"/proc/slabinfo", "/proc/sysrq-trigger", "/proc/sysvipc", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
}

// hasAny tells whether access names one of the rights.
func hasAny(access []string, rights ...string) bool {
	return slices.ContainsFunc(rights, func(r string) bool { return slices.Contains(access, r) })
}

// writes tells whether access changes anything.
func writes(access []string) bool {
	return hasAny(access, "write_file", "truncate", "make_reg", "make_dir", "make_sym", "make_sock", "make_fifo",
		"remove_file", "remove_dir", "refer", "make_char", "make_block")
}

// buildView says what the plugin of a request sees. Only the paths of the
// host's bundle and data come from the request; the rest is the plan's.
func buildView(r Request) namespaces.View {
	p := r.Plan
	v := namespaces.View{
		Hostname: p.Process.Hostname,
		UID:      p.Process.UID, GID: p.Process.GID,
		Devices:  p.Devices,
		Proc:     namespaces.Proc{Mode: p.Proc},
		Files:    etcFiles(p),
		Symlinks: rootLinks(p),
		Rlimits:  p.Rlimits,
		Process:  namespaces.Process{Argv: p.Process.Argv, Env: environment(r), Cwd: p.Process.Cwd},
	}
	if v.Hostname == "" {
		v.Hostname = "cordon"
	}
	if p.Proc == "full" {
		v.Proc.Masked = masked
	}
	v.Landlock.MinABI = p.Require["landlock"].MinABI
	v.Landlock.ConnectTCP = layout.Of(p.Network.Egress).Ports()
	grants(&v, p.Files)
	standard(&v, r)
	return v
}

// firstPID is that of a plugin's first process in its pid namespace: the reaper
// is 1.
const firstPID = 2

// environment is the plan's, and what says which descriptors are listening
// sockets; sd_listen_fds(3). The socket to the host is the first that was handed
// over, where there is one.
func environment(r Request) []string {
	env := slices.Clone(r.Plan.Process.Env)
	if len(r.Plan.Network.Listen) == 0 {
		return env
	}
	env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, "LISTEN_") })
	var names []string
	if hasSocket(r) {
		names = append(names, "cordon")
	}
	for _, s := range r.Plan.Network.Listen {
		names = append(names, s.Name)
	}
	return append(env,
		"LISTEN_FDNAMES="+strings.Join(names, ":"), "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_PID="+strconv.Itoa(firstPID))
}

// hasSocket says whether descriptor 3 is the plugin's socket to its host.
func hasSocket(r Request) bool { return r.Socket != nil || r.Plan.Protocol == ipc.ProtocolCordon }

// grants mounts what the plan's files name. A grant that lies inside another
// one of the same tree with the same flags needs no mount of its own.
func grants(v *namespaces.View, files []plan.File) {
	byPath := func(a, b plan.File) int { return strings.Compare(a.Path, b.Path) }
	if !slices.IsSortedFunc(files, byPath) { // a resolved plan's are
		files = slices.Clone(files)
		slices.SortStableFunc(files, byPath)
	}
	v.Mounts = make([]namespaces.Mount, 0, len(files)+standardMounts)
	v.Landlock.Paths = make([]namespaces.PathRule, 0, len(files)+standardRules)
	for i := range files {
		f := &files[i]
		m := namespaces.Mount{
			Path: f.Path, From: f.From, Writable: writes(f.Access),
			Exec: hasAny(f.Access, "execute"), Optional: f.Optional,
		}
		if !coveredBy(v.Mounts, &m) {
			v.Mounts = append(v.Mounts, m)
		}
		v.Landlock.Paths = append(v.Landlock.Paths, namespaces.PathRule{Path: f.Path, Access: f.Access, Optional: f.Optional})
	}
}

// standardMounts and standardRules are at least as many as standard adds.
const (
	standardMounts = 4
	standardRules  = 16
)

func coveredBy(outer []namespaces.Mount, m *namespaces.Mount) bool {
	for i := range outer {
		if covers(&outer[i], m) {
			return true
		}
	}
	return false
}

// grantAt is what a plan grants at a path.
func grantAt(files []plan.File, at string) (plan.File, bool) {
	i := slices.IndexFunc(files, func(f plan.File) bool { return f.Path == at })
	if i < 0 {
		return plan.File{}, false
	}
	return files[i], true
}

// linked finds the mounts of links that lead to what another mount shows at the
// same path as the host, with the same flags. Such a link is shown as a link:
// programs look for their files beside where they really are. Sources has, for
// each mount, where it leads; empty for what is no tree of the host.
func linked(v *namespaces.View, sources []string) []int {
	var out []int
	for i, real := range sources {
		m := v.Mounts[i]
		if real == "" || real == m.From || m.Path != m.From {
			continue
		}
		for j, o := range v.Mounts {
			if j != i && o.Path == o.From && sources[j] == o.From && o.Writable == m.Writable && o.Exec == m.Exec && within(real, o.Path) {
				out = append(out, i)
				break
			}
		}
	}
	return out
}

// showLinks takes linked mounts out of a view and its sources, and puts links in
// their place. What was granted at the link is granted where it leads. It gives
// the reals of the mounts that are left.
func showLinks(v *namespaces.View, host *namespaces.Host, reals []string) []string {
	drop := linked(v, reals)
	if len(drop) == 0 {
		return reals
	}
	v.Landlock.Paths = slices.Clone(v.Landlock.Paths)
	var mounts []namespaces.Mount
	var sources []namespaces.Source
	var left []string
	for i, m := range v.Mounts {
		if !slices.Contains(drop, i) {
			mounts, sources, left = append(mounts, m), append(sources, host.Sources[i]), append(left, reals[i])
			continue
		}
		v.Symlinks = append(v.Symlinks, namespaces.Symlink{Path: m.Path, Target: reals[i]})
		for r := range v.Landlock.Paths {
			if v.Landlock.Paths[r].Path == m.Path {
				v.Landlock.Paths[r].Path = reals[i]
			}
		}
	}
	v.Mounts, host.Sources = mounts, sources
	return left
}

// covers tells whether outer already shows what inner would.
func covers(outer, inner *namespaces.Mount) bool {
	rest, ok := strings.CutPrefix(inner.Path, strings.TrimSuffix(outer.Path, "/"))
	return ok && strings.HasPrefix(rest, "/") && !outer.Optional && path.Join(outer.From, rest) == inner.From &&
		outer.Writable == inner.Writable && outer.Exec == inner.Exec
}

func rule(v *namespaces.View, p string, access []string) {
	v.Landlock.Paths = append(v.Landlock.Paths, namespaces.PathRule{Path: p, Access: access})
}

// standard is the same in every profile: /plugin, /data, /tmp, /dev, /proc and
// the few files of /etc that programs ask for.
func standard(v *namespaces.View, r Request) {
	p := r.Plan
	if r.Bundle != "" {
		v.Mounts = append(v.Mounts, namespaces.Mount{Path: "/plugin", From: r.Bundle, Exec: true})
		rule(v, "/plugin", runRights)
	}
	data := namespaces.Mount{Path: "/data", Writable: true, Owned: true, Mode: 0o700, Size: p.Data.Size, Inodes: p.Data.Inodes}
	if p.Data.Persistent { // its bounds are the file system's that it lies on
		data.From, data.Size, data.Inodes = r.Data, 0, 0
	}
	scratch(v, data, socketRights)
	scratch(v, namespaces.Mount{Path: "/tmp", Writable: true, Mode: 0o1777, Size: p.Tmp.Size, Inodes: p.Tmp.Inodes}, socketRights)
	scratch(v, namespaces.Mount{Path: "/dev/shm", Writable: true, Mode: 0o1777, Size: p.Shm.Size, Inodes: p.Shm.Inodes}, writeRights)
	for _, d := range p.Devices {
		rule(v, "/dev/"+d, deviceRights)
	}
	if v.Proc.Mode == "pid" || v.Proc.Mode == "full" {
		rule(v, "/proc", readRights)
	}
	for _, f := range v.Files {
		rule(v, f.Path, readRights)
	}
}

// scratch is one writable place, if it has a size or a home.
func scratch(v *namespaces.View, m namespaces.Mount, rights []string) {
	if m.From == "" && m.Size == 0 {
		return
	}
	v.Mounts = append(v.Mounts, m)
	rule(v, m.Path, rights)
}

// etcFiles answer who the plugin is and what localhost means.
func etcFiles(p *plan.Plan) []namespaces.File {
	uid, gid := itoa(p.Process.UID), itoa(p.Process.GID)
	text := func(path, data string) namespaces.File {
		return namespaces.File{Path: path, Data: []byte(data), Mode: fs.FileMode(0o444)}
	}
	files := []namespaces.File{
		text("/etc/passwd", "plugin:x:"+uid+":"+gid+":plugin:/data:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
		text("/etc/group", "plugin:x:"+gid+":\nnogroup:x:65534:\n"),
		text("/etc/hosts", hosts(p)),
	}
	if len(p.Network.Egress) == 0 {
		return append(files, text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"))
	}
	return append(files,
		text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
		text("/etc/resolv.conf", "nameserver "+layout.Answerer().Addr().String()+"\noptions attempts:1\n"))
}

// hosts names what the plugin reaches by name.
func hosts(p *plan.Plan) string {
	text := "127.0.0.1 localhost\n::1 localhost\n"
	for _, n := range layout.Of(p.Network.Egress).Names {
		text += n.Addr.String() + " " + n.Host + "\n"
	}
	return text
}

// rootLinks are those of a merged /usr, unless a grant stands there.
func rootLinks(p *plan.Plan) []namespaces.Symlink {
	var links []namespaces.Symlink
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		taken := slices.ContainsFunc(p.Files, func(f plan.File) bool {
			return f.Path == "/"+name || strings.HasPrefix(f.Path, "/"+name+"/")
		})
		if !taken {
			links = append(links, namespaces.Symlink{Path: "/" + name, Target: "usr/" + name})
		}
	}
	return links
}
