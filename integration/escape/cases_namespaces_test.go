//go:build walltest

package escape

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/plan"
)

func namespaceCases() []escape {
	flags := func(call string, bits int) func(*trial) []string {
		return func(*trial) []string { return []string{call, fmt.Sprint(bits)} }
	}
	return inCategory("namespaces", []escape{
		{
			name: "a user namespace by unshare", walls: []string{"seccomp", "user namespace"}, reports: "seccomp unshare",
			args: flags("unshare", unix.CLONE_NEWUSER), escaped: apart("user"),
		},
		{
			name: "a user namespace by clone", walls: []string{"seccomp", "user namespace"}, reports: "seccomp clone",
			args: flags("clone", unix.CLONE_NEWUSER), escaped: apart("user"),
		},
		{
			name: "a user namespace by clone3", walls: []string{"seccomp", "user namespace"}, // ENOSYS: programs probe for it
			args: flags("clone3", unix.CLONE_NEWUSER), escaped: apart("user"),
		},
		{
			name: "a mount namespace", walls: []string{"seccomp", privileged}, reports: "seccomp unshare",
			args: flags("unshare", unix.CLONE_NEWNS), escaped: apart("mnt"),
		},
		{
			name: "a network namespace", walls: []string{"seccomp", privileged}, reports: "seccomp unshare",
			args: flags("unshare", unix.CLONE_NEWNET), escaped: apart("net"),
		},
		{
			name: "join the host's network namespace", walls: []string{"seccomp", privileged, "pid namespace+mount namespace"},
			with: []string{"keeper", "landlock"},
			// The namespace of a process outside, by a number that means another inside.
			args:   func(*trial) []string { return []string{"join", "/proc/" + fmt.Sprint(os.Getpid()) + "/ns/net"} },
			change: func(_ *trial, p *plan.Plan) { p.Proc = "full" }, reports: "seccomp setns",
			escaped: func(t *trial) string {
				ours, err := os.Readlink("/proc/self/ns/net")
				t.must(err)
				for _, pid := range t.procs() {
					if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && ns == ours {
						return "it is in the host's network"
					}
				}
				return ""
			},
		},
		{
			name: "mount over the host", walls: []string{"seccomp", privileged, "mount namespace"}, reports: "seccomp mount",
			prepare: func(t *trial) { t.folder("in") }, grants: one("in", reading), with: []string{"landlock"},
			args:    func(t *trial) []string { return []string{"mount", t.fileIn("in"), "tmpfs", "size=4k"} },
			escaped: mountedOutside,
		},
		{
			name: "mount through shared propagation", walls: []string{"seccomp", privileged, "private propagation"}, reports: "seccomp mount",
			prepare: func(t *trial) {
				dir := t.folder("shared")
				t.must(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
				t.cleanup(func() { t.must(unix.Unmount(dir, unix.MNT_DETACH)) })
				t.must(unix.Mount("", dir, "", unix.MS_SHARED, ""))
				t.must(os.Mkdir(dir+"/in", 0o755))
			},
			grants: one("shared", reading), with: []string{"landlock"},
			args:    func(t *trial) []string { return []string{"mount", t.fileIn("shared/in"), "tmpfs", "size=4k"} },
			escaped: mountedOutside,
		},
		{
			name: "make the root writable again", walls: []string{"seccomp", privileged}, reports: "seccomp mount",
			args: func(*trial) []string { return []string{"remount", "/"} },
			escaped: func(t *trial) string {
				for _, pid := range t.procs() {
					for _, line := range strings.Split(mounts(fmt.Sprint(pid)), "\n") {
						if f := strings.Fields(line); len(f) > 5 && f[4] == "/" && strings.HasPrefix(f[5], "rw") {
							return "its root is mounted " + f[5]
						}
					}
				}
				return ""
			},
			with: []string{"landlock"},
		},
		{
			name: "a file system by the new mount calls", walls: []string{"seccomp", privileged}, reports: "seccomp fsopen",
			args: func(*trial) []string { return []string{"fsopen", "tmpfs"} }, escaped: holds("fscontext"),
		},
		{
			name: "the host's name", walls: []string{"uts namespace"},
			prepare: func(t *trial) { t.must(unix.Sethostname([]byte(t.token))) },
			args:    func(*trial) []string { return []string{"host-name"} }, escaped: leaked,
		},
		{
			name: "System V shared memory of the host", walls: []string{"seccomp", "ipc namespace"}, reports: "seccomp shmget",
			prepare: func(t *trial) {
				id, err := unix.SysvShmGet(shmKey, 4096, unix.IPC_CREAT|0o666)
				t.must(err)
				t.cleanup(func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
				t.host, err = unix.SysvShmAttach(id, 0, 0)
				t.must(err)
			},
			args: func(t *trial) []string { return []string{"shared-memory", fmt.Sprint(shmKey), t.token} },
			escaped: func(t *trial) string {
				if strings.Contains(string(t.host.([]byte)), t.token) {
					return "the host's memory was written"
				}
				return ""
			},
		},
	})
}

const shmKey = 0x636f7265

// mountedOutside: the host has a mount that it has not made.
func mountedOutside(t *trial) string {
	for _, line := range strings.Split(mounts("self"), "\n") {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], t.dir) && strings.HasSuffix(f[4], "/in") {
			t.must(unix.Unmount(f[4], unix.MNT_DETACH))
			return "the host has a mount at " + f[4]
		}
	}
	return ""
}
