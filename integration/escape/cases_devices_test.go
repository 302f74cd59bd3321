//go:build walltest

package escape

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func deviceCases() []escape {
	// The kernel's log: it may be opened for writing without harm, and is none of
	// the devices that a plugin gets.
	kmsg := unix.Mkdev(1, 11)
	return inCategory("devices", []escape{
		{
			name: "make a device", walls: []string{"seccomp", privileged, "landlock+cgroup"}, reports: "seccomp mknodat",
			args: func(*trial) []string { return []string{"device", "/tmp/log", fmt.Sprint(kmsg)} },
			escaped: func(t *trial) string {
				if st, ok := t.sees("/tmp/log"); ok && st.Mode&unix.S_IFMT == unix.S_IFCHR {
					return "it has made a device"
				}
				return ""
			},
		},
		{
			name: "a device in a granted directory", walls: []string{"nodev", "cgroup"},
			prepare: func(t *trial) {
				t.folder("in")
				t.must(unix.Mknod(t.fileIn("in/log"), unix.S_IFCHR|0o666, int(kmsg)))
				t.must(os.Chmod(t.fileIn("in/log"), 0o666))
				t.must(os.Chown(t.fileIn("in/log"), owner, owner))
			},
			grants: one("in", append([]string{"write_file"}, reading...)), with: []string{"landlock"},
			lacks: closedDevices,
			args: func(t *trial) []string {
				return []string{"keep-open", t.fileIn("in/log"), fmt.Sprint(unix.O_WRONLY)}
			},
			escaped: holds("in/log"),
		},
		{
			name: "a device of the host", walls: []string{"mount namespace", "cgroup"}, with: []string{"landlock"}, lacks: closedDevices,
			args:    func(*trial) []string { return []string{"keep-open", "/dev/ptmx", fmt.Sprint(unix.O_RDWR)} },
			escaped: func(t *trial) string { return holds("/ptmx")(t) },
		},
		{
			name: "replace a device", walls: []string{"sealed root", "landlock", anyUser},
			with: []string{"user namespace"},
			args: func(*trial) []string { return []string{"replace-device", "/dev/null"} },
			escaped: func(t *trial) string {
				if st, ok := t.sees("/dev/null"); len(t.procs()) > 0 && (!ok || st.Mode&unix.S_IFMT != unix.S_IFCHR) {
					return "/dev/null is what it made"
				}
				return ""
			},
		},
	})
}

// closedDevices: hosts without any device controller have one wall less.
func closedDevices(string) string { return "" }
