package namespaces

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// landlockRight is one access right by Landlock's own name and the ABI that it
// came in with (landlock(7), "ABI versions").
type landlockRight struct {
	name string
	bit  uint64
	abi  int
}

// landlockFiles is the ladder of file rights.
var landlockFiles = []landlockRight{
	{"execute", unix.LANDLOCK_ACCESS_FS_EXECUTE, 1},
	{"write_file", unix.LANDLOCK_ACCESS_FS_WRITE_FILE, 1},
	{"read_file", unix.LANDLOCK_ACCESS_FS_READ_FILE, 1},
	{"read_dir", unix.LANDLOCK_ACCESS_FS_READ_DIR, 1},
	{"remove_dir", unix.LANDLOCK_ACCESS_FS_REMOVE_DIR, 1},
	{"remove_file", unix.LANDLOCK_ACCESS_FS_REMOVE_FILE, 1},
	{"make_char", unix.LANDLOCK_ACCESS_FS_MAKE_CHAR, 1},
	{"make_dir", unix.LANDLOCK_ACCESS_FS_MAKE_DIR, 1},
	{"make_reg", unix.LANDLOCK_ACCESS_FS_MAKE_REG, 1},
	{"make_sock", unix.LANDLOCK_ACCESS_FS_MAKE_SOCK, 1},
	{"make_fifo", unix.LANDLOCK_ACCESS_FS_MAKE_FIFO, 1},
	{"make_block", unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK, 1},
	{"make_sym", unix.LANDLOCK_ACCESS_FS_MAKE_SYM, 1},
	{"refer", unix.LANDLOCK_ACCESS_FS_REFER, 2},
	{"truncate", unix.LANDLOCK_ACCESS_FS_TRUNCATE, 3},
	{"ioctl_dev", unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, 5},
	{"resolve_unix", unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX, 9}, // of sockets that others made; a plugin's own need no rule
}

// landlockOfFiles are the rights that the kernel accepts for a path that is no
// directory.
const landlockOfFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
	unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV |
	unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX

// landlockNet and landlockScopes are handled whole where the ABI has them.
const (
	landlockNet    = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP // ABI 4
	landlockScopes = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL    // ABI 6
)

// LandlockABI is the running kernel's, 0 without Landlock.
func LandlockABI() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// handledFiles are all file rights that an ABI knows.
func handledFiles(abi int) uint64 {
	var bits uint64
	for _, r := range landlockFiles {
		if r.abi <= abi {
			bits |= r.bit
		}
	}
	return bits
}

// AccessNames lists Landlock's names of file rights.
func AccessNames() []string {
	names := make([]string, len(landlockFiles))
	for i, r := range landlockFiles {
		names[i] = r.name
	}
	return names
}

// accessBits turns names into bits; an unknown name is an error, as a right that
// was meant and not given would be found out in production.
func accessBits(names []string) (uint64, error) {
	var bits uint64
	for _, name := range names {
		i := slices.IndexFunc(landlockFiles, func(r landlockRight) bool { return r.name == name })
		if i < 0 {
			return 0, fmt.Errorf("cannot find the access %q: Landlock knows %s", name, strings.Join(AccessNames(), ", "))
		}
		bits |= landlockFiles[i].bit
	}
	return bits, nil
}

// fileRights is the reverse of accessBits, for people: Landlock's own names.
func fileRights(bits uint64) string {
	names := make([]string, 0, len(landlockFiles))
	for _, r := range landlockFiles {
		if bits&r.bit != 0 {
			names = append(names, r.name)
		}
	}
	return strings.Join(names, " ")
}
