package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/supervisor/launch"
)

var background = context.Background()

// monotonic is the clock that the started program reads, too.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// pipe is where the program says when it began.
type pipe struct{ r, w *os.File }

func newPipe() (*pipe, error) {
	r, w, err := os.Pipe()
	return &pipe{r, w}, err
}

func (p *pipe) instant() (int64, error) {
	var word [8]byte
	if err := p.w.Close(); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(p.r, word[:])
	return int64(binary.LittleEndian.Uint64(word[:])), err
}

func (p *pipe) close() {
	_ = p.w.Close() // the second time where all went well
	_ = p.r.Close()
}

// driver is one process of floor.c: the floor itself, and what starts whole
// programs.
type driver struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startDriver(floor, config string, files ...*os.File) (*driver, error) {
	d := &driver{cmd: exec.Command(floor, config)}
	d.cmd.ExtraFiles, d.cmd.Stderr = files, os.Stderr
	var err error
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	d.out = bufio.NewScanner(out)
	return d, d.cmd.Start()
}

func (d *driver) close() {
	_ = d.in.Close()
	_ = d.cmd.Wait() // what it says went to standard error
}

// ask gives a command and reads its answer.
func (d *driver) ask(command string) (s sample, err error) {
	if err := d.line(command); err != nil {
		return s, err
	}
	if _, err := fmt.Sscan(d.out.Text(), &s.first, &s.reaped); err != nil {
		return s, fmt.Errorf("it %s; what it said stands on standard error", d.out.Text())
	}
	return s, nil
}

// line gives a command and has its answer in out.
func (d *driver) line(command string) error {
	if _, err := fmt.Fprintln(d.in, command); err != nil {
		return err
	}
	if !d.out.Scan() {
		return fmt.Errorf("the driver ended: %w", errors.Join(io.ErrUnexpectedEOF, d.out.Err()))
	}
	return nil
}

func (d *driver) command(c string) func() (sample, error) {
	return func() (sample, error) { return d.ask(c) }
}

// settings collects a driver's configuration.
type settings struct{ lines []string }

func (s *settings) add(words ...any) {
	line := make([]string, len(words))
	for i, w := range words {
		line[i] = fmt.Sprint(w)
	}
	s.lines = append(s.lines, strings.Join(line, "\t"))
}

func (s *settings) write(name string) error {
	return os.WriteFile(name, []byte(strings.Join(s.lines, "\n")+"\n"), 0o600)
}

// floors starts two drivers, and two that make ahead; the second of each is for
// starts in parallel. The plan is
// cordon's own, compiled for descriptors as the driver opens them.
func (b *bench) floors() (err error) {
	if b.keeper, err = namespaces.StartKeeper(); err != nil {
		return err
	}
	b.undo = append(b.undo, func() { _ = b.keeper.Close() })
	for n := range 4 {
		if err := b.floor(n); err != nil {
			return fmt.Errorf("cannot make the floor: %w", err)
		}
	}
	parallel := func(command string) func() (func() (sample, error), error) {
		return func() (func() (sample, error), error) { return b.drivers[1].command(command), nil }
	}
	b.add(contender{name: "floor", about: "a C program with the same plan: namespaces, groups and reaper made on the spot, the mounts that all starts of the plan share once", start: b.drivers[0].command("c"), parallel: parallel("c")})
	// As a pool is filled: behind the start that took from it, and not right before one.
	ahead := func(d *driver) func() (sample, error) {
		return func() (sample, error) {
			s, err := d.ask("p")
			if err == nil {
				_, err = d.ask("m")
			}
			return s, err
		}
	}
	for _, d := range b.drivers[2:] {
		if _, err := d.ask("m"); err != nil {
			return err
		}
	}
	b.add(contender{
		name: "pooled_floor", about: "the same with network namespace and groups made ahead, too", start: ahead(b.drivers[2]),
		parallel: func() (func() (sample, error), error) { return ahead(b.drivers[3]), nil },
	})
	return nil
}

func (b *bench) floor(n int) error {
	uid := uint32(uidBase + 32 + 2*n)
	line := fmt.Sprintf("%d %d 1\n", b.plan.Process.UID, uid)
	ns, err := b.keeper.UserNS(background, line, line)
	if err != nil {
		return err
	}
	b.undo = append(b.undo, func() { _ = ns.Close() })
	config, message := filepath.Join(b.dir, fmt.Sprintf("floor-%d", n)), filepath.Join(b.dir, fmt.Sprintf("plan-%d", n))
	s := &settings{}
	s.add("keeper", filepath.Join(b.dir, "keeper"))
	s.add("filter", filepath.Join(b.dir, "filter"))
	tree, err := cgroups.Open(fmt.Sprintf("cordon-test-floor-%d-%d", os.Getpid(), n), nil)
	if err != nil {
		return err
	}
	b.undo = append(b.undo, func() {
		_, err := tree.Sweep() // of a driver that was interrupted in a start
		if err := errors.Join(err, tree.Close()); err != nil {
			fmt.Fprintln(os.Stderr, "cannot remove the floor's groups:", err)
		}
	})
	model, err := tree.New("model", b.plan.Limits)
	if err != nil {
		return err
	}
	defer func() { _ = model.Remove() }()
	if err := b.describe(s, model, message, uid); err != nil {
		return err
	}
	b.spawns(s, n)
	if err := errors.Join(s.write(config), os.WriteFile(filepath.Join(b.dir, "filter"), b.peerFilter, 0o600)); err != nil {
		return err
	}
	d, err := startDriver(filepath.Join(b.dir, "floor"), config, ns)
	if err != nil {
		return err
	}
	b.drivers = append(b.drivers, d)
	b.undo = append(b.undo, d.close)
	return nil
}

// describe says how the driver makes the groups and files of a start, and
// writes the plan for them, and the one of the template that it enters a copy of.
func (b *bench) describe(s *settings, model *cgroups.Group, message string, uid uint32) error {
	host := namespaces.Host{LandlockABI: namespaces.LandlockABI(), Kill: namespaces.NoFile, UID: uid, GID: uid, Filter: b.filter, MemfdNoexec: true, ExecOnce: b.plan.Seccomp.ExecOnce, Prepared: true}
	host.FilterFlags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	l := namespaces.Launch{CgroupFile: namespaces.NoFile, NetNSFile: namespaces.NoFile, ReaperUID: uid + 1, ReaperGID: uid + 1}
	view, _, err := launch.Preview(b.plan, host.LandlockABI, func(string, []string) launch.Found { return launch.Found{} })
	if err != nil {
		return err
	}
	trees := b.template(s, view, &host, message+"-template")
	files := 0
	file := func(words ...any) int {
		s.add(words...)
		files++
		return files - 1
	}
	s.add("plan", message)
	host.UserNS = file("inherited", 3)
	host.Descriptors = []namespaces.Descriptor{{File: file("null"), Number: 0}, {File: file("output"), Number: 1}, {File: 1, Number: 2}}
	paths := model.Paths()
	for i := len(paths) - 1; i >= 0; i-- { // made in the reverse of the order of removal
		at := len(paths) - 1 - i
		v2 := exists(paths[i] + "/cgroup.kill")
		s.add("group", map[bool]string{true: "v2", false: "v1"}[v2], strings.TrimSuffix(paths[i], "model")+"floor")
		limits(s, paths[i])
		if v2 {
			l.CgroupFile = file("dir", at)
		} else {
			host.Joins = append(host.Joins, file("tasks", at))
		}
	}
	steps, err := namespaces.Compile(view, host)
	if err != nil {
		return err
	}
	shared, own := namespaces.Part(steps)
	for i := range own {
		if own[i].Op == namespaces.OpTemplate {
			own[i].File = file("copy")
		}
	}
	l.Steps, b.steps = own, own
	data, err := l.Message(files)
	if err != nil {
		return err
	}
	l.Steps = shared
	template, err := l.TemplateMessage(trees)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(message, data, 0o600), os.WriteFile(message+"-template", template, 0o600))
}

// template names the trees of the view, all of which are in the template, as
// the plan grants nothing to write.
func (b *bench) template(s *settings, view namespaces.View, host *namespaces.Host, message string) (trees int) {
	s.add("template", message)
	for _, m := range view.Mounts {
		if m.From == "" {
			host.Sources = append(host.Sources, namespaces.Source{File: namespaces.NoFile})
			continue
		}
		attr := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_RDONLY
		if !m.Exec {
			attr |= unix.MOUNT_ATTR_NOEXEC
		}
		s.add("tree", attr, m.From)
		host.Sources = append(host.Sources, namespaces.Source{File: trees})
		trees++
	}
	return trees
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// limits copies what cordon wrote into a group.
func limits(s *settings, dir string) {
	for _, name := range []string{
		"pids.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_quota_us",
		"memory.max", "memory.swap.max", "cpu.max",
	} {
		if value, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			s.add("set", name, strings.TrimSpace(string(value)))
		}
	}
	if exists(filepath.Join(dir, "devices.deny")) {
		s.add("set", "devices.deny", "a *:* rwm")
		for _, minor := range []int{3, 5, 7, 8, 9} {
			s.add("set", "devices.allow", fmt.Sprintf("c 1:%d rwm", minor))
		}
	}
}
