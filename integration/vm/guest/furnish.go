package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// furnish makes the initramfs a machine like others.
func furnish() error {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"switch the root", switchRoot},
		{"mount the usual file systems", mountAll},
		{"load the modules", loadModules},
		{"make a disk for /tmp", makeDisk},
		{"set the rest", settle},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("cannot %s: %w", step.what, err)
		}
	}
	return nil
}

// switchRoot makes a mount over the initramfs the root, as every init does that
// comes from one: pivot_root(2) refuses the first mount itself, which has no
// parent. The files are not copied.
func switchRoot() error {
	const at = "/newroot"
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Chdir(at); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	// Others may write to the top of an initramfs, as to any tmpfs.
	return unix.Chmod("/", 0o755)
}

func mountAll() error {
	for _, m := range []struct {
		source, at, fstype string
		flags              uintptr
		data               string
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate,memory_recursiveprot"},
		{"bpf", "/sys/fs/bpf", "bpf", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=0700"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.at, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("%s: %w", m.at, err)
		}
	}
	// As systemd has it: what is mounted below is seen by all who share it.
	return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "")
}

// program runs one of the host's own.
func program(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func loadModules() error {
	modules, err := filepath.Glob("/modules/*")
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := program("/usr/sbin/insmod", m); err != nil {
			return err
		}
	}
	return nil
}

// makeDisk puts /tmp on a file system of the kind that hosts have: on tmpfs,
// kernels before 6.3 cannot map the ids of a mount.
func makeDisk() error {
	const image = "/disk"
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(image, 512<<20); err != nil {
		return err
	}
	if err := program("/usr/sbin/mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", image); err != nil {
		return err
	}
	if err := program("/usr/bin/mount", "-o", "loop,nosuid,nodev", image, "/tmp"); err != nil {
		return err
	}
	return os.Chmod("/tmp", 0o1777|os.ModeSticky)
}

// settle sets what an init sets.
func settle() error {
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return err
	}
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return err
	}
	r.Cur, r.Max = 1024, 1<<19
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &r)
}
