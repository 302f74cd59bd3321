// Command cuts is what a guest does whose power goes: on a disk that keeps its
// state it brings up a daemon, says what that has kept and what it makes of it,
// and then has plugins quarantined, released, installed and removed without end,
// and says of each when it was asked for and when it was told that it is so.
//
// What it says are the lines of integration/vm/outage; the host's side judges.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/integration/vm/outage"
	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/control"
)

const (
	disk      = "/data"
	device    = "/dev/nvme1n1"
	config    = "/etc/cordond.toml"
	socket    = "/run/cordon/cordon.sock"
	daemonLog = "/run/cordond.log"
	log       = disk + "/state/audit.jsonl"
	profile   = "/profiles/patient.toml"
	// patience is the guest's own time, which goes on as it works.
	patience = 2 * time.Minute
)

func main() {
	if err := run(context.Background()); err != nil {
		for line := range strings.Lines(posture()) { // of who may stand still
			fmt.Print(line)
		}
		say(outage.Failed, strings.ReplaceAll(err.Error(), "\n", " | "))
	}
	select {} // the power goes when it goes
}

// daemon is the process that was started; 0 for none.
var daemon atomic.Int64

// posture is where each thread of the daemon waits in the kernel, where its
// goroutines stand, and what it has logged. It ends the daemon.
func posture() string {
	pid := int(daemon.Load())
	if pid == 0 {
		return ""
	}
	var out strings.Builder
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, thread := range threads {
		stack, _ := os.ReadFile(thread + "/stack") // nothing of one that has gone
		fmt.Fprintf(&out, "%s: %s\n", thread, strings.ReplaceAll(strings.TrimSpace(string(stack)), "\n", ", "))
	}
	_ = unix.Kill(pid, unix.SIGQUIT)
	<-time.After(time.Second) // it writes them and ends
	text, _ := os.ReadFile(daemonLog)
	out.Write(text[max(0, len(text)-64<<10):])
	return out.String()
}

var saying sync.Mutex

func say(words ...string) {
	saying.Lock()
	defer saying.Unlock()
	fmt.Println(outage.Format(words...))
}

func run(ctx context.Context) error {
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return err
	}
	loop, err := honest()
	if err != nil {
		return fmt.Errorf("cannot use the disk: %w", err)
	}
	say(outage.Mounting)
	if err := unix.Mount(loop, disk, "ext4", 0, ""); err != nil {
		return fmt.Errorf("cannot mount the disk: %w", err)
	}
	if err := startDaemon(ctx); err != nil {
		return err
	}
	list, err := look(ctx)
	if err != nil {
		return err
	}
	if err := wake(ctx, list); err != nil {
		return err
	}
	say(outage.Up)
	return work(ctx)
}

// honest is the disk without the promise to write single blocks through its cache:
// QEMU's NVMe makes that promise and does not keep it. A loop device makes none,
// so that the kernel flushes instead.
func honest() (name string, err error) {
	module, err := os.Open("/loop.ko")
	if err != nil {
		return "", err
	}
	defer module.Close()
	if err := unix.FinitModule(int(module.Fd()), "", 0); err != nil {
		return "", fmt.Errorf("cannot load the loop device: %w", err)
	}
	below, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer below.Close()
	name = "/dev/loop0"
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	c := unix.LoopConfig{Fd: uint32(below.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_DIRECT_IO}}
	return name, unix.IoctlLoopConfigure(int(f.Fd()), &c)
}

// startDaemon waits until it answers.
func startDaemon(ctx context.Context) error {
	said, err := os.Create(daemonLog)
	if err != nil {
		return err
	}
	cmd := exec.Command("/bin/cordond", "--config", config)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		return err
	}
	daemon.Store(int64(cmd.Process.Pid))
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	for end := time.Now().Add(patience); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		client, err := control.Dial(ctx, socket)
		if err == nil {
			return client.Close()
		}
		select {
		case err := <-gone:
			text, _ := os.ReadFile(said.Name())
			return fmt.Errorf("a fresh start fails: %w: %s", err, text)
		default:
		}
	}
	text, _ := os.ReadFile(said.Name())
	return fmt.Errorf("the daemon does not answer: %s", text)
}

// look says what was kept, and holds that nothing runs but what shall.
func look(ctx context.Context) ([]control.Status, error) {
	client, err := control.Dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	list, err := client.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		say(outage.State, s.Name, string(s.State))
	}
	counts := map[[2]string]int{}
	found, err := audit.Read(log, "", func(ev control.Event) {
		if ev.Kind == "quarantined" || ev.Kind == "released" {
			counts[[2]string{ev.Plugin, ev.Kind}]++
		}
	})
	if err != nil {
		return nil, err
	}
	for of, n := range counts {
		say(outage.Recorded, of[0], of[1], strconv.Itoa(n))
	}
	say(outage.Verified, strconv.FormatUint(found.Last, 10))
	for _, pattern := range []string{"/*.new", "/bundles/.tmp-*", "/filters/*tmp*"} {
		if left, err := filepath.Glob(disk + "/state" + pattern); err != nil || len(left) > 0 {
			return nil, fmt.Errorf("left behind: %v (%w)", left, errors.Join(err, fs.ErrExist))
		}
	}
	return list, nil
}

// wake starts what may be: a quarantined one is refused, any other starts and
// answers, and no other process of a plugin is there.
func wake(ctx context.Context, list []control.Status) error {
	client, err := control.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	var pids []int
	for _, s := range list {
		status, err := client.Start(ctx, s.Name)
		var refused *control.Error
		if s.State == control.Quarantined {
			if !errors.As(err, &refused) || refused.Code != ipc.CodeQuarantined {
				return fmt.Errorf("the quarantined %s was started: %w", s.Name, err)
			}
			continue
		}
		if err == nil {
			_, err = client.CallPlugin(ctx, control.CallParams{Name: s.Name, Method: "ping", Timeout: patience})
		}
		if err != nil {
			return fmt.Errorf("a fresh start of %s: %w", s.Name, err)
		}
		pids = append(pids, status.PID)
	}
	for _, pid := range programs() {
		if !slices.Contains(pids, pid) {
			return fmt.Errorf("process %d is a plugin's and nobody watches it: %v run", pid, pids)
		}
	}
	return nil
}

// programs are the plugins' own processes.
func programs() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if name, _ := os.ReadFile("/proc/" + e.Name() + "/comm"); err == nil && string(name) == "main\n" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// work goes on until the power goes.
func work(ctx context.Context) error {
	failed := make(chan error, 3)
	for _, name := range []string{"wild-0", "wild-1"} {
		go func() { failed <- quarantineAgain(ctx, name) }()
	}
	go func() { failed <- installAgain(ctx) }()
	return <-failed
}

// ensure installs a plugin that is not there.
func ensure(ctx context.Context, client *control.Client, name string) error {
	list, err := client.List(ctx)
	if err != nil || slices.ContainsFunc(list, func(s control.Status) bool { return s.Name == name }) {
		return err
	}
	say(outage.Asks, outage.Install, name)
	if _, err := client.Install(ctx, control.InstallParams{Dir: "/plugin", As: name, Profile: profile}); err != nil {
		return err
	}
	say(outage.Told, outage.Install, name)
	return nil
}

// quarantineAgain has one plugin quarantined and released in turns.
func quarantineAgain(ctx context.Context, name string) error {
	client, err := control.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if err := ensure(ctx, client, name); err != nil {
		return err
	}
	for {
		s, err := statusOf(ctx, client, name)
		if err != nil {
			return err
		}
		if s.State == control.Quarantined {
			say(outage.Asks, outage.Release, name)
			if err := eventually(func() error {
				_, err := client.Release(ctx, control.ReleaseParams{Name: name, Reason: "go on"})
				return err
			}); err != nil {
				return err
			}
			say(outage.Told, outage.Release, name)
		}
		if _, err := client.Start(ctx, name); err != nil {
			return err
		}
		say(outage.Asks, outage.Quarantine, name)
		_, _ = client.CallPlugin(ctx, control.CallParams{Name: name, Method: "attack", Timeout: patience})
		if err := eventually(func() error {
			s, err := statusOf(ctx, client, name)
			if err == nil && s.State != control.Quarantined {
				err = fmt.Errorf("%s attacked and is %s", name, s.State)
			}
			return err
		}); err != nil {
			return err
		}
		say(outage.Told, outage.Quarantine, name)
	}
}

func statusOf(ctx context.Context, client *control.Client, name string) (control.Status, error) {
	list, err := client.List(ctx)
	if err != nil {
		return control.Status{}, err
	}
	for _, s := range list {
		if s.Name == name {
			return s, nil
		}
	}
	return control.Status{}, fmt.Errorf("%s is gone", name)
}

func eventually(try func() error) (err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if err = try(); err == nil {
			return nil
		}
	}
	return err
}

// installAgain installs and removes plugins.
func installAgain(ctx context.Context) error {
	client, err := control.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	for {
		name := fmt.Sprintf("guest-%d", rand.IntN(3)) // #nosec G404 -- a test's
		list, err := client.List(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list, func(s control.Status) bool { return s.Name == name }) {
			if err := ensure(ctx, client, name); err != nil {
				return err
			}
			continue
		}
		if _, err := client.Stop(ctx, name); err != nil {
			return err
		}
		say(outage.Asks, outage.Remove, name)
		if err := client.Remove(ctx, name); err != nil {
			return err
		}
		say(outage.Told, outage.Remove, name)
	}
}
