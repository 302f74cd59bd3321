package integration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/control"
)

// newChaos starts a daemon whose state lies on a small disk of its own: a tmpfs
// in a mount namespace that ends with the process that holds it, so that nothing
// is left of it however the test ends.
func newChaos(t *testing.T, r *rand.Rand, points uint64) *chaos {
	t.Helper()
	c := &chaos{daemon: newDaemon(t), rand: r, held: map[string]bool{}, seen: map[string]int{}, kinds: chaosPointKinds}
	c.movableClock()
	state := c.dir + "/state"
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("mount -t tmpfs -o size=%dk,mode=0700 chaos %s && echo up && exec sleep 1000000", (64<<10)+256*points, state)
	holder := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script)
	holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatalf("cannot make a disk to fill: %v", err)
	}
	t.Cleanup(func() { _, _ = holder.Process.Kill(), holder.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
		t.Fatalf("cannot make a disk to fill: %v", err)
	}
	c.wrap = []string{"nsenter", "--mount", "--target", fmt.Sprint(holder.Process.Pid), "--"}
	c.disk = fmt.Sprintf("/proc/%d/root%s", holder.Process.Pid, state)
	c.start()
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("the daemon's last words:\n%s", c.log)
		}
	})
	return c
}

// movableClock takes a daemon whose clock can be set without setting everybody's.
// It is built here; a guest, which has no Go, is spared that kind of point.
func (c *chaos) movableClock() {
	c.t.Helper()
	if os.Getenv("CORDON_BIN") != "" {
		c.kinds = slices.DeleteFunc(slices.Clone(c.kinds), func(kind string) bool { return kind == "clock jump" })
		return
	}
	c.program, c.clock = c.dir+"/cordond", c.dir+"/clock"
	cmd := exec.Command("go", "build", "-tags", "netgo osusergo walltest", "-o", c.program, "../cmd/cordond")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("cannot build a daemon with a clock to set: %v: %s", err, out)
	}
	c.t.Setenv("CORDON_TEST_CLOCK", c.clock)
}

// clockJump sets the daemon's clock: by seconds or by years, forth or back, but
// never further than ten years from the machine's.
func (c *chaos) clockJump(deeds int64) {
	c.t.Helper()
	const years = 10 * 365 * 86400
	load := c.load()
	load.after(deeds, 0)
	by := int64(1) << c.rand.IntN(29)
	if c.rand.IntN(2) == 0 {
		by = -by
	}
	c.moved = max(-years, min(years, c.moved+by))
	if err := os.WriteFile(c.clock+".new", []byte(fmt.Sprint(c.moved)), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(c.clock+".new", c.clock); err != nil {
		c.t.Fatal(err)
	}
	load.after(deeds+10, 0)
	if c.rand.IntN(2) == 0 { // what was written by the one clock is read by the other
		c.kill()
	}
	load.end()
}

// tear does to the files of a killed daemon what a power cut in the middle of
// its next writes would have done: half a meta page, half a record.
func (c *chaos) tear() {
	c.t.Helper()
	f, err := os.OpenFile(c.disk+"/state.db", os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	// A meta page, bbolt's: page header 16 bytes; magic, version, page size,
	// flags, 4 bytes each; root 16, free list 8, high water 8; transaction at 64.
	var head [16]byte
	var size [4]byte
	if _, err := f.ReadAt(size[:], 24); err != nil {
		c.t.Fatal(err)
	}
	page := int64(binary.LittleEndian.Uint32(size[:]))
	next, newest := int64(0), uint64(0)
	for i := range int64(2) {
		if _, err := f.ReadAt(head[:8], i*page+64); err != nil {
			c.t.Fatal(err)
		}
		if tx := binary.LittleEndian.Uint64(head[:8]); tx > newest {
			next, newest = 1-i, tx // the transaction after the newest writes the other one
		}
	}
	junk := make([]byte, 1+c.rand.IntN(72))
	for i := range junk {
		junk[i] = byte(c.rand.IntN(256))
	}
	if _, err := f.WriteAt(junk, next*page+int64(c.rand.IntN(16))); err != nil {
		c.t.Fatal(err)
	}
	record := `{"seq":18446744073709551615,"time":"2030-01-01T00:00:00Z","plugin":"wild","kind":"released"`
	log, err := os.OpenFile(c.auditLog(), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = log.WriteString(record[:c.rand.IntN(len(record))])
		err = errors.Join(err, log.Close())
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// fullDisk lets plugins work and attack while nothing can be written. What was
// shown as quarantined must be so when the daemon is killed and comes back.
func (c *chaos) fullDisk(deeds int64) {
	c.t.Helper()
	ballast := c.disk + "/ballast"
	f, err := os.Create(ballast)
	if err != nil {
		c.t.Fatal(err)
	}
	size := int64(0)
	for piece := int64(64 << 20); piece >= 4096; {
		if err := unix.Fallocate(int(f.Fd()), 0, size, piece); err == nil {
			size += piece
		} else {
			piece /= 2
		}
	}
	_ = f.Close()
	load := c.load()
	load.after(deeds, 0)
	c.attack("attack")
	load.end()
	for _, s := range c.list() {
		c.held[s.Name] = s.State == control.Quarantined
	}
	if c.rand.IntN(2) == 0 {
		c.kill()
	}
	if err := os.Remove(ballast); err != nil {
		c.t.Fatal(err)
	}
}

// attack tells the wild plugin to do something and waits for no answer.
func (c *chaos) attack(method string) {
	c.t.Helper()
	client := c.client()
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	_, _ = client.CallPlugin(ctx, control.CallParams{Name: "wild", Method: method, Timeout: 5 * time.Second})
}

// noDescriptors leaves the daemon hardly any for a while.
func (c *chaos) noDescriptors(deeds int64) {
	c.t.Helper()
	pid := c.cmd.Process.Pid
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		c.t.Fatal(err)
	}
	var before unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		c.t.Fatal(err)
	}
	load := c.load()
	few := unix.Rlimit{Cur: uint64(len(open) + c.rand.IntN(12)), Max: before.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		c.t.Fatal(err)
	}
	load.after(deeds, 0)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		c.t.Fatal(err)
	}
	load.end()
}

// inTheMiddle kills the daemon in the middle of something: of a call that the
// listener gave it and that it has not answered, of a frame that it reads, of
// one that it writes.
func (c *chaos) inTheMiddle(what string, spin time.Duration) {
	c.t.Helper()
	ended := make(chan struct{})
	call := func(method string, params string) {
		defer close(ended)
		client, err := control.Dial(c.t.Context(), c.dir+"/run/cordon.sock")
		if err != nil {
			return
		}
		defer func() { _ = client.Close() }()
		_, _ = client.CallPlugin(c.t.Context(), control.CallParams{Name: "wild", Method: method, Params: []byte(params), Timeout: 5 * time.Second})
	}
	switch what {
	case "taken call":
		c.takenCall()
		close(ended)
	case "half a frame in":
		go call("half", "[]")
		spin *= 3
	case "half a frame out":
		dozing := make(chan struct{})
		go func() {
			defer close(dozing)
			c.attackQuietly("doze")
		}()
		go call("ping", `["`+strings.Repeat("x", 200<<10)+`"]`) // more than a pipe holds
		defer func() { <-dozing }()
		spin *= 10
	}
	for began := time.Now(); time.Since(began) < spin; {
	}
	c.kill()
	<-ended
}

// attackQuietly is attack for a daemon that may have gone.
func (c *chaos) attackQuietly(method string) {
	client, err := control.Dial(c.t.Context(), c.dir+"/run/cordon.sock")
	if err != nil {
		return
	}
	defer func() { _ = client.Close() }()
	_, _ = client.CallPlugin(c.t.Context(), control.CallParams{Name: "wild", Method: method, Timeout: 5 * time.Second})
}

// takenCall stops the daemon, lets the wild plugin come to its wall, and lets
// the daemon go on to take the call.
func (c *chaos) takenCall() {
	c.t.Helper()
	pid := 0
	for _, s := range c.list() {
		if s.Name == "wild" && s.State == control.Running {
			pid = s.PID
		}
	}
	if pid == 0 { // it is quarantined: a kill like any other
		return
	}
	c.attack("soon")
	_ = syscall.Kill(c.cmd.Process.Pid, syscall.SIGSTOP)
	c.eventually("the plugin stands at its wall, or was stopped there", func() bool {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		frozen := err == nil && strings.HasPrefix(string(call), fmt.Sprint(unix.SYS_MOUNT)+" ")
		return err != nil || frozen || c.frozen(pid)
	})
	_ = syscall.Kill(c.cmd.Process.Pid, syscall.SIGCONT)
}

// frozen says whether the daemon was fast enough to freeze it.
func (c *chaos) frozen(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return true
	}
	_, group, _ := strings.Cut("\n"+string(text), "\n0::")
	group, _, _ = strings.Cut(group, "\n")
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if events, err := os.ReadFile(root + group + "/cgroup.events"); err == nil {
			return strings.Contains(string(events), "frozen 1")
		}
	}
	return false
}

// amidUpgrade has the loaded daemon become its program anew, and kills it at some
// moment of that, or lets it be done.
func (c *chaos) amidUpgrade(deeds int64, spin time.Duration) {
	c.t.Helper()
	load := c.load()
	load.after(deeds, 0)
	over := make(chan error, 1)
	go func() {
		_, err := c.upgrade(c.program)
		over <- err
	}()
	if c.rand.IntN(3) == 0 {
		if err := <-over; err != nil {
			c.t.Errorf("the upgrade failed: %v", err)
		}
		load.end()
		return
	}
	select {
	case <-time.After(spin):
		c.kill()
		<-over
	case <-over:
		c.kill()
	}
	load.end()
}

// amidSwap has a plugin's process replaced by another under load, and kills the
// daemon, its keeper or a process of the two at some moment of that, or lets it be
// done.
func (c *chaos) amidSwap(deeds int64, spin time.Duration) {
	c.t.Helper()
	name := chaosPlugins[c.rand.IntN(len(chaosPlugins))]
	victim := []string{"", "", "cordond", "cordond", "cordon-keeper", "cordon-reaper", "main"}[c.rand.IntN(7)]
	load := c.load()
	load.after(deeds, 0)
	over := make(chan struct{})
	go func() {
		defer close(over)
		client, err := control.Dial(c.t.Context(), c.dir+"/run/cordon.sock")
		if err != nil {
			return
		}
		defer func() { _ = client.Close() }()
		ctx, cancel := context.WithTimeout(c.t.Context(), patience())
		defer cancel()
		_, _ = client.Swap(ctx, control.SwapParams{Name: name, Drain: 5 * time.Second}) // the load may be restarting it
	}()
	if victim != "" {
		select {
		case <-time.After(spin):
		case <-over:
		}
	}
	switch victim {
	case "":
	case "cordond":
		c.kill()
	default:
		c.killOne(victim)
	}
	<-over
	load.end()
}

// bothAtOnce kills the daemon and its keeper together, so that nobody is left
// who could hold or end a plugin but its reaper.
func (c *chaos) bothAtOnce(deeds int64, spin time.Duration) {
	c.t.Helper()
	load := c.load()
	load.after(deeds, spin)
	tree := below(c.cmd.Process.Pid)
	_ = syscall.Kill(c.cmd.Process.Pid, syscall.SIGSTOP) // or it would see the other go
	for _, p := range tree {
		if p.name == "cordon-keeper" {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	c.kill()
	load.end()
}

// standingStill freezes a plugin as its daemon would have, and kills the daemon
// and sometimes the keeper, before anything is written down of why.
func (c *chaos) standingStill(deeds int64) {
	c.t.Helper()
	pid := 0
	for _, s := range c.list() {
		if s.Name == "wild" && s.State == control.Running {
			pid = s.PID
		}
	}
	if pid == 0 {
		c.bothAtOnce(deeds, 0)
		return
	}
	tree, both := below(c.cmd.Process.Pid), c.rand.IntN(2) == 0
	_ = syscall.Kill(c.cmd.Process.Pid, syscall.SIGSTOP)
	freeze(c.t, pid)
	for _, p := range tree {
		if both && p.name == "cordon-keeper" {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
	c.kill()
	if !both {
		c.still = true // the next daemon does not know better
	}
}
