package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cordonhq/cordon/seccomp"
)

// runCache is where cordon run keeps its filters.
const runCache = "/var/cache/cordon/filters"

// program is a launcher that is started as a whole process.
type program struct {
	name, about string
	argv        []string
	before      func() error // of each start, untimed; may be nil
}

// spawns tells driver n of the programs, in their order. Containers of two
// drivers need names of their own.
func (b *bench) spawns(s *settings, n int) {
	for _, p := range b.peers() {
		words := []any{"spawn"}
		if p.name == "crun" && exists("/sys/fs/cgroup/unified/cgroup.controllers") {
			words[0] = "spawn_v1"
		}
		for _, w := range p.argv {
			words = append(words, strings.ReplaceAll(w, "CONTAINER", fmt.Sprintf("cordon-bench-%d-%d", os.Getpid(), n)))
		}
		s.add(words...)
	}
}

// programs makes contenders of the launchers that are installed.
func (b *bench) programs() error {
	for n, p := range b.peers() {
		if _, err := os.Stat(p.argv[0]); err != nil {
			b.missing = append(b.missing, contender{name: p.name, about: "not installed"})
			continue
		}
		c := contender{name: p.name, about: p.about, start: b.spawn(0, n, p.before)}
		c.parallel = func() (func() (sample, error), error) { return b.spawn(1, n, p.before), nil }
		b.add(c)
	}
	return nil
}

func (b *bench) spawn(driver, n int, before func() error) func() (sample, error) {
	return func() (sample, error) {
		if before != nil {
			if err := before(); err != nil {
				return sample{}, err
			}
		}
		return b.drivers[driver].ask("s" + strconv.Itoa(n))
	}
}

// path is where a program is, or its bare name where it is not.
func path(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	return name
}

// peers are the programs, each with as many of the walls as it has. What each
// lacks is said beside it.
func (b *bench) peers() []program {
	run := []string{b.cordon, "run", "--ro", b.program + ":/first", "--", "/first"}
	oci := filepath.Join(b.dir, "oci")
	return []program{
		{"run_cached", "cordon run, whole process, its filter in the cache", run, nil},
		{"run_uncached", "the same, its filter compiled anew", run, forgetFilters},
		{"bubblewrap", "all namespaces, seccomp; no cgroup, no Landlock", []string{
			path("bwrap"), "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--ro-bind", b.program, "/first",
			"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/data", "--hostname", "cordon", "--seccomp", "9", "/first",
		}, nil},
		{"crun", "all namespaces but user, seccomp, memory and pids limits; no Landlock; on a host with both kinds of cgroups, which it refuses, it is shown those of v1 alone", []string{path("crun"), "run", "--bundle", oci, "CONTAINER"}, nil},
		{"runc", "the same", []string{path("runc"), "run", "--bundle", oci, "CONTAINER"}, nil},
		{"firejail", "namespaces, seccomp; no cgroup, no Landlock", []string{
			path("firejail"), "--quiet", "--noprofile", "--net=none", "--ipc-namespace", "--caps.drop=all", "--nonewprivs", "--seccomp", "--private-dev", b.program,
		}, nil},
		{"minijail", "all namespaces; no cgroup, no Landlock", []string{path("minijail0"), "-v", "-p", "-l", "-e", "-N", "-n", "--uts", "-c", "0", b.program}, nil},
		{"nsjail", "all namespaces; no Landlock", []string{path("nsjail"), "-Mo", "-Q", "--chroot", "/", "--", b.program}, nil},
	}
}

// forgetFilters empties cordon run's cache.
func forgetFilters() error {
	entries, err := os.ReadDir(runCache)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e := os.Remove(filepath.Join(runCache, e.Name())); !errors.Is(e, fs.ErrNotExist) { // two forget at a time
			err = errors.Join(err, e)
		}
	}
	return err
}

// bundle makes an OCI bundle of the program for crun and runc.
func (b *bench) bundle() error {
	rootfs := filepath.Join(b.dir, "oci", "rootfs")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"proc", "dev", "tmp", "data"} {
		if err := os.Mkdir(filepath.Join(rootfs, dir), 0o755); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(b.program)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(rootfs, "first"), data, 0o755); err != nil {
		return err
	}
	config, err := b.ociConfig()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.dir, "oci", "config.json"), config, 0o600)
}

// ociConfig is as much of the plan as an OCI runtime can do; runtime-spec.
func (b *bench) ociConfig() ([]byte, error) {
	type object = map[string]any
	calls, err := b.plan.Seccomp.Calls()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range calls {
		if last := c.Arms[len(c.Arms)-1]; last.Action == seccomp.ActAllow {
			names = append(names, c.Name)
		}
	}
	namespaces := []object{}
	for _, n := range []string{"pid", "network", "ipc", "uts", "mount", "cgroup"} {
		namespaces = append(namespaces, object{"type": n})
	}
	mount := func(dest, kind string, options ...string) object {
		return object{"destination": dest, "type": kind, "source": kind, "options": options}
	}
	return json.Marshal(object{
		"ociVersion": "1.0.2", "hostname": "cordon",
		"process": object{
			"args": []string{"/first"}, "cwd": "/", "env": []string{"PATH=/"}, "noNewPrivileges": true,
			"user": object{"uid": uidBase + 40, "gid": uidBase + 40}, "capabilities": object{},
		},
		"root":   object{"path": "rootfs", "readonly": true},
		"mounts": []object{mount("/proc", "proc"), mount("/dev", "tmpfs", "nosuid", "mode=755", "size=64k"), mount("/tmp", "tmpfs", "nosuid", "nodev", "noexec"), mount("/data", "tmpfs", "nosuid", "nodev", "noexec")},
		"linux": object{
			"namespaces": namespaces,
			"resources":  object{"memory": object{"limit": 256 << 20}, "pids": object{"limit": 64}},
			"seccomp": object{
				"defaultAction": "SCMP_ACT_ERRNO", "architectures": []string{"SCMP_ARCH_X86_64"},
				"syscalls": []object{{"names": append(names, "execve", "write", "clock_gettime", "exit_group"), "action": "SCMP_ACT_ALLOW"}},
			},
		},
	})
}

// check says early what the measured command line lacks.
func (b *bench) check(cordon string) (err error) {
	if b.cordon, err = filepath.Abs(cordon); err != nil {
		return err
	}
	for _, name := range []string{b.cordon, filepath.Join(filepath.Dir(b.cordon), "cordond")} {
		if _, err := os.Stat(name); err != nil {
			return fmt.Errorf("cannot measure cordon run: %w; make build", err)
		}
	}
	return nil
}
