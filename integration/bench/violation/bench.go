package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/control"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// victim is the plugin: it touches so many MiB, has so many children, answers
// every request, and at "attack" hits the wall, by a call whose fourth argument
// says what time it is.
const victim = `#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>
static char line[65536];
int main(int argc, char **argv) {
	for (int i = 4; i < argc; i++) { // the groups of the bare one, before it has memory
		int fd = open(argv[i], O_WRONLY);
		if (fd < 0 || write(fd, "0", 1) != 1) return 1;
		close(fd);
	}
	size_t n = (size_t)atoi(argv[1]) << 20;
	char *p = malloc(n + 1);
	memset(p, 1, n + 1);
	for (int i = atoi(argv[2]); i > 0; i--)
		if (fork() == 0) for (;;) pause();
	if (argc > 3) { puts("up"); fflush(stdout); for (;;) pause(); }
	while (fgets(line, sizeof line, stdin)) {
		char *id = strstr(line, "\"id\":");
		if (strstr(line, "attack")) {
			struct timespec t;
			clock_gettime(CLOCK_MONOTONIC, &t);
			mount("none", "/tmp", "tmpfs", t.tv_sec * 1000000000ul + t.tv_nsec, 0);
		}
		if (!id || strstr(line, "$/cancelRequest")) continue;
		id += 5;
		id[strcspn(id, ",}\n")] = 0;
		printf("{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":1}\n", id);
		fflush(stdout);
	}
	return p[n];
}
`

// patience bounds every wait.
const patience = time.Minute

// bench is a daemon of its own, with the plugins of all sizes installed, each
// once with a profile that quarantines and once with one that kills.
type bench struct {
	dir, group string
	daemon     *exec.Cmd
	saved      chan int64 // when quarantines were said to be on the disk
	client     *control.Client
	bare       string   // the directory of the bare process's group
	others     []string // its groups in hierarchies of v1
	file       *os.File
}

func newBench(bin string) (b *bench, err error) {
	b = &bench{group: fmt.Sprintf("cordon-bench-%d", os.Getpid())}
	if b.dir, err = os.MkdirTemp("", "cordon-bench-"); err != nil {
		return nil, err
	}
	for _, step := range []func() error{b.furnish, func() error { return b.start(bin) }, b.install, b.makeBare} {
		if err := step(); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	return b, nil
}

// furnish writes the configuration, the profiles and the victim.
func (b *bench) furnish() error {
	config := fmt.Sprintf("[daemon]\nstate_dir = %q\nruntime_dir = %q\nprofiles_dir = %q\ncgroup_root = %q\nuid_base = 1940100000\nuid_count = 64\n",
		b.dir+"/state", b.dir+"/run", b.dir+"/profiles", b.group)
	profile := "extends = [\"builtin:static\"]\n[lifecycle]\nrestart = \"no\"\n[violation]\nseccomp = %q\n"
	for name, text := range map[string]string{
		"cordond.toml": config, "profiles/quarantine.toml": fmt.Sprintf(profile, "quarantine"), "profiles/kill.toml": fmt.Sprintf(profile, "kill"), "victim.c": victim,
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(b.dir, name)), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", b.dir+"/victim", b.dir+"/victim.c").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot compile the victim: %w: %s", err, out)
	}
	return nil
}

func (b *bench) start(bin string) (err error) {
	b.daemon = exec.Command(filepath.Join(bin, "cordond"), "--config", b.dir+"/cordond.toml", "--log-format", "json")
	b.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	b.daemon.Stderr = write
	if err := errors.Join(b.daemon.Start(), write.Close()); err != nil {
		return err
	}
	b.saved = make(chan int64, 1)
	go readLog(read, b.saved)
	return wait("the daemon to answer", func() bool {
		b.client, err = control.Dial(context.Background(), b.dir+"/run/cordon.sock")
		return err == nil
	})
}

// readLog notes when the daemon says that a quarantine is on the disk, and shows
// its complaints.
func readLog(log *os.File, saved chan<- int64) {
	defer log.Close()
	for lines := bufio.NewScanner(log); lines.Scan(); {
		now, line := monotonic(), lines.Text()
		switch {
		case strings.Contains(line, `"msg":"the quarantine is saved"`):
			saved <- now
		case strings.Contains(line, `"level":"ERROR"`):
			fmt.Fprintln(os.Stderr, "the daemon says:", line)
		}
	}
}

// wait asks until the answer is yes, or patience ends.
func wait(what string, is func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if is() {
			return nil
		}
	}
	return fmt.Errorf("cannot wait longer than %v for %s", patience, what)
}

func (b *bench) install() error {
	for _, s := range sizes {
		for _, profile := range []string{"quarantine", "kill"} {
			name := pluginName(profile, s)
			dir := filepath.Join(b.dir, "bundles", name)
			manifest := fmt.Sprintf("schema = 1\n[plugin]\nname = %q\nversion = \"1.0.0\"\nexec = [\"./victim\", \"%d\", \"%d\"]\nprotocol = \"jsonrpc\"\n", name, s.mib, s.children)
			program, err := os.ReadFile(b.dir + "/victim")
			if err := errors.Join(err, os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/victim", program, 0o755),
				os.WriteFile(dir+"/plugin.toml", []byte(manifest), 0o644)); err != nil {
				return err
			}
			if _, err := b.client.Install(context.Background(), control.InstallParams{Dir: dir, Profile: b.dir + "/profiles/" + profile + ".toml"}); err != nil {
				return err
			}
		}
	}
	return nil
}

// quarantines says whether a plugin's profile does.
func quarantines(name string) bool { return strings.HasPrefix(name, "quarantine") }

func pluginName(profile string, s size) string {
	return profile + "-" + strings.ToLower(strings.ReplaceAll(s.name, "_", "-"))
}

// makeBare has the bare process be in a group of each hierarchy that plugins have
// one in: to give back memory costs more where it is counted.
func (b *bench) makeBare() (err error) {
	b.bare = filepath.Join(unified(), b.group+"-bare")
	own, err := filepath.Glob("/sys/fs/cgroup/*/" + b.group)
	if err != nil {
		return err
	}
	for _, dir := range own {
		if filepath.Dir(dir) == unified() {
			continue
		}
		if err := os.Mkdir(dir+"-bare", 0o755); err != nil {
			return err
		}
		b.others = append(b.others, dir+"-bare")
	}
	b.file, err = os.Create(filepath.Join(b.dir, "state/bare"))
	return err
}

// unified is where cgroup v2 is mounted.
func unified() string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "/sys/fs/cgroup"
	}
	return "/sys/fs/cgroup/unified"
}

// close ends the daemon and leaves nothing.
func (b *bench) close() error {
	var errs []error
	if b.client != nil {
		errs = append(errs, b.client.Close())
	}
	if b.daemon != nil && b.daemon.Process != nil {
		errs = append(errs, b.daemon.Process.Signal(syscall.SIGTERM), b.daemon.Wait())
	}
	if b.file != nil {
		errs = append(errs, b.file.Close())
	}
	for _, dir := range b.others {
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir))...)
}

// run measures: every size in turn, round by round. The first round warms up.
func (b *bench) run(rounds int) (map[string]*samples, error) {
	all := map[string]*samples{}
	for round := range rounds + 1 {
		for _, s := range sizes {
			if round <= 1 {
				all[s.name] = &samples{}
			}
			if err := b.round(s, all[s.name]); err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", s.name, round, err)
			}
		}
	}
	return all, nil
}

func (b *bench) round(s size, into *samples) error {
	quarantined, err := b.violate(pluginName("quarantine", s))
	if err != nil {
		return err
	}
	into.told = append(into.told, quarantined.told)
	into.contained = append(into.contained, quarantined.contained)
	into.persisted = append(into.persisted, quarantined.persisted)
	into.quarantinedDead = append(into.quarantinedDead, quarantined.dead)
	for range s.pairs {
		if err := b.deaths(s, into); err != nil {
			return err
		}
	}
	began := monotonic()
	if _, err := b.file.Write(make([]byte, 4096)); err != nil {
		return err
	}
	if err := b.file.Sync(); err != nil {
		return err
	}
	into.fsync = append(into.fsync, micros(monotonic()-began))
	return nil
}

// deaths has a plugin and a bare process of the same size killed. Both are there
// before either is, and take turns to be the first to come and the first to go:
// what was touched long ago, and is in no cache any more, takes longer to be given
// back.
func (b *bench) deaths(s size, into *samples) (err error) {
	name := pluginName("kill", s)
	if err := os.Mkdir(b.bare, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.leaveBare()) }()
	var w *watch
	var bare *bareProcess
	defer func() {
		if w != nil {
			w.close()
		}
		if bare != nil {
			bare.close()
		}
	}()
	come := []func() error{
		func() error {
			watching, err := b.startPlugin(name)
			if err == nil {
				w = watching
			}
			return err
		},
		func() (err error) { bare, err = b.startBare(s); return err },
	}
	leave := []func() error{
		func() error {
			killed, err := b.attack(name, w)
			into.killedDead = append(into.killedDead, killed.dead)
			return err
		},
		func() error {
			took, err := b.kill(bare)
			into.bareDead = append(into.bareDead, took)
			return err
		},
	}
	if len(into.bareDead)%2 == 1 {
		slices.Reverse(come)
		slices.Reverse(leave)
	}
	for _, step := range append(come, leave...) {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// violate lets a plugin hit the wall once, and says when what was seen.
func (b *bench) violate(name string) (seen, error) {
	w, err := b.startPlugin(name)
	if err != nil {
		return seen{}, err
	}
	defer w.close()
	return b.attack(name, w)
}

// startPlugin starts it and watches it. The caller closes the watch.
func (b *bench) startPlugin(name string) (*watch, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := b.client.Start(ctx, name)
	if err != nil {
		return nil, err
	}
	return newWatch(st.PID, quarantines(name))
}

// attack has a plugin that was started hit the wall.
func (b *bench) attack(name string, w *watch) (seen, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	attacked := make(chan struct{})
	go func() {
		defer close(attacked)
		_, _ = b.client.CallPlugin(ctx, control.CallParams{Name: name, Method: "attack", Timeout: patience}) // it is never answered
	}()
	result, err := w.run()
	<-attacked
	if err != nil {
		return seen{}, err
	}
	if quarantines(name) {
		select {
		case saved := <-b.saved:
			result.persisted = float64(saved)
		case <-ctx.Done():
			return seen{}, fmt.Errorf("no quarantine of %s is saved: %w", name, ctx.Err())
		}
	}
	err = wait(name+" to be at rest", func() bool {
		if !quarantines(name) {
			list, err := b.client.List(ctx)
			for _, s := range list {
				if s.Name == name && s.State == control.Failed {
					return err == nil
				}
			}
			return false
		}
		_, err := b.client.Release(ctx, control.ReleaseParams{Name: name, Reason: "bench"})
		return err == nil
	})
	if err != nil {
		return seen{}, err
	}
	hits, err := b.client.Why(ctx, name)
	if err != nil {
		return seen{}, err
	}
	began, told, err := newest(hits)
	at := result.since(began)
	at.told = micros(told + monotonic() - time.Now().UnixNano() - began)
	return at, err
}

// newest is when the last violation began, as the plugin says by the call's
// fourth argument, and when it was reported, by the clock of the day.
func newest(hits []violation.Violation) (began, told int64, err error) {
	for _, v := range hits {
		if at := v.Time.UnixNano(); at > told && len(v.RawArgs) > 3 {
			began, told = int64(v.RawArgs[3]), at
		}
	}
	if told == 0 {
		return 0, 0, errors.New("no violation was recorded")
	}
	return began, told, nil
}

// bareProcess is one that waits to be killed.
type bareProcess struct {
	*watch
	cmd *exec.Cmd
}

// startBare starts a bare process of a size in a group that is fresh: kernels from
// 6.13 on kill at once what is cloned into one that was killed before. The caller
// closes it.
func (b *bench) startBare(s size) (*bareProcess, error) {
	args := []string{strconv.Itoa(s.mib), strconv.Itoa(s.children), "bare"}
	for _, dir := range b.others {
		args = append(args, dir+"/cgroup.procs")
	}
	cmd := exec.Command(b.dir+"/victim", args...)
	dir, err := os.Open(b.bare)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := out.Read(make([]byte, 3)); err != nil {
		return nil, fmt.Errorf("the bare process said nothing: %w (%w)", err, cmd.Wait())
	}
	w, err := newWatch(cmd.Process.Pid, false)
	p := &bareProcess{w, cmd}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// close ends it, if nobody did.
func (p *bareProcess) close() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // killed
	p.watch.close()
}

// leaveBare removes the group.
func (b *bench) leaveBare() error {
	return wait("the bare group to be empty", func() bool { return os.Remove(b.bare) == nil })
}

// kill ends a bare process by cgroup.kill, and says how long that took.
func (b *bench) kill(p *bareProcess) (float64, error) {
	kill, err := os.OpenFile(b.bare+"/cgroup.kill", os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer kill.Close()
	began := monotonic()
	if _, err := kill.WriteString("1"); err != nil {
		return 0, err
	}
	result, err := p.run()
	return result.since(began).dead, err
}

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // it has this clock
	return ts.Nano()
}

func micros(ns int64) float64 { return float64(ns) / 1000 }
