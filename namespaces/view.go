// Package namespaces turns a view spec (what a plugin sees of the machine, as
// whom, and under which in-process walls) into launch steps, and runs them
// through the keeper, the small C program that makes and parents every plugin.
//
// Sources: clone3(2), mount_setattr(2), move_mount(2), pivot_root(2),
// user_namespaces(7), capabilities(7), landlock(7), pidfd_open(2).
package namespaces

import "os"

// View is what one plugin sees: plain data, the same on every host but for
// Mount.From. Paths are absolute and clean, inside the plugin's private root.
type View struct {
	Hostname string
	// Mounts are attached in the order given, so a parent comes before its
	// child.
	Mounts []Mount
	// Files are small files that are written into the private root before it
	// becomes read-only (/etc/passwd and the like).
	Files []File
	// Symlinks are made in the private root, Target as given.
	Symlinks []Symlink
	// Devices are names below /dev: null, zero, full, random, urandom.
	Devices []string
	Proc    Proc
	// UID and GID are what the plugin sees itself as. Zero is refused.
	UID, GID uint32
	Rlimits  []Rlimit
	Landlock Landlock
	Process  Process
	// ExecutableScratch takes the noexec off every fresh tmpfs. Only test
	// builds set it, to show what the wall holds back.
	ExecutableScratch bool
}

// Mount is one tree or file of the host, or one fresh tmpfs, attached at Path.
type Mount struct {
	Path string
	// From is the host's path; empty means a fresh tmpfs.
	From string
	// Writable, Exec: everything is nosuid and nodev always, read-only unless
	// Writable, noexec unless Exec. Writable and Exec together are refused.
	Writable, Exec bool
	// Size and Inodes bound a fresh tmpfs, in bytes and inodes.
	Size, Inodes int64
	// Mode is the mode of a fresh tmpfs, such as 01777.
	Mode os.FileMode
	// Optional mounts whose From does not exist on the host are left out.
	Optional bool
	// Owned marks what belongs to the plugin's own uid: a fresh tmpfs is made
	// so, a tree of the host is already.
	Owned bool
}

// File is one small file written into the private root, at most 64 KiB.
type File struct {
	Path string
	Data []byte
	Mode os.FileMode
}

// Symlink is one symbolic link in the private root.
type Symlink struct {
	Path, Target string
}

// Proc is how /proc looks inside.
type Proc struct {
	// Mode "none" has no /proc, "pid" shows processes only (subset=pid),
	// "full" everything but Masked. Always with hidepid=invisible.
	Mode string
	// Masked are covered: a file by /dev/null, a directory by an empty
	// read-only tmpfs.
	Masked []string
}

// Rlimit is one resource limit, in the kernel's unit for it; setrlimit(2).
// Name is the lower-case name without the prefix, such as "nofile".
type Rlimit struct {
	Name       string `json:"name"`
	Soft, Hard uint64
}

// Landlock is the second wall behind the mount and network namespaces.
type Landlock struct {
	// MinABI below the kernel's refuses the start. Rights that the kernel's ABI
	// does not know are left to the first wall and reported.
	MinABI int
	Paths  []PathRule
	// BindTCP, ConnectTCP are ports; all others are refused (ABI 4).
	BindTCP, ConnectTCP []uint16
}

// PathRule gives rights beneath Path, by Landlock's own names ("read_file").
type PathRule struct {
	Path   string
	Access []string
	// Optional rules whose path is not in the view are left out.
	Optional bool
}

// Process is what runs behind the walls.
type Process struct {
	// Argv[0] without a slash is looked up in the PATH of Env, inside.
	Argv []string
	Env  []string
	Cwd  string
	// Umask is 022 unless set.
	Umask uint32
}
