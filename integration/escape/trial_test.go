//go:build walltest

package escape

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/seccomp/compile"
	"github.com/cordonhq/cordon/supervisor/launch"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// patience is no timing: it is the end of waiting for what must come. It is
// longer where the machine itself is emulated.
var patience = map[bool]time.Duration{true: 5 * time.Minute, false: time.Minute}[os.Getenv("CORDON_TEST_SLOW") != ""]

var programs = seccomp.NewCache("", compile.Compile)

// escape is one case of the corpus.
type escape struct {
	category, name string
	// after is what it is modelled on.
	after string
	// walls are those that stop it. Each of them does it alone; several that do
	// it only together are joined by a plus.
	walls []string
	// with is off beside them where a wall is seen alone, and where all are off.
	with []string
	// lacks gives why one of the walls cannot stop it alone on this kernel, or "".
	lacks func(wall string) string
	// reports is the violation that must be told of, as "wall what"; none where
	// it is empty. "$dir" stands for the trial's directory.
	reports string
	// unable gives why this host cannot show the attack, or "".
	unable func() string

	allow   []string // calls that the profile allows beside "static"
	watch   bool     // opens are observed
	prepare func(*trial)
	grants  func(*trial) []plan.File
	change  func(*trial, *plan.Plan)
	request func(*trial, *launch.Request)
	args    func(*trial) []string
	// escaped says from outside what the attack got, or "": while it still runs
	// (or was ended by a violation).
	escaped func(*trial) string
	// outlived says it after the plugin was ended.
	outlived func(*trial) string
	// refused: behind all walls it does not even start.
	refused bool
	// try does all of it where a single run is not enough.
	try func(*trial) string
}

// trial is one run of a case with some walls off.
type trial struct {
	*testing.T
	c   *escape
	off []string
	// dir is a directory of the host of its own; token is what nobody can know
	// who has not got hold of it.
	dir, token string
	launcher   *launch.Launcher
	name       string // of its group
	process    *launch.Process
	startError error
	host       any // what prepare made

	mu         sync.Mutex
	out        bytes.Buffer
	violations []violation.Violation
	said       chan struct{} // closed when the attack is done, or at the end of its output
	closed     chan struct{} // closed at the end of its output
	cleanups   []func()
}

var trials int

// run makes the trial of a case with walls off, and gives what was got.
func (c *escape) run(t *testing.T, off []string) (string, *trial) {
	t.Helper()
	t.Setenv("CORDON_WALLS_OFF", strings.Join(off, ","))
	secret := make([]byte, 12)
	if _, err := rand.Read(secret); err != nil {
		t.Fatal(err)
	}
	trials++
	tr := &trial{T: t, c: c, off: off, dir: fmt.Sprintf("%s/%d", base, trials), token: "token-" + hex.EncodeToString(secret)}
	defer func() {
		for _, undo := range slices.Backward(tr.cleanups) {
			undo()
		}
		tr.must(os.RemoveAll(tr.dir))
	}()
	tr.must(os.Mkdir(tr.dir, 0o755))
	tr.launcher, tr.name = shared, fmt.Sprintf("trial-%d", trials)
	if tr.isOff("keeper") {
		tr.launcher = tr.unconfined()
	}
	if c.prepare != nil {
		c.prepare(tr)
	}
	if c.try != nil {
		return c.try(tr), tr
	}
	tr.start(c.args(tr))
	got := ""
	if tr.startError != nil {
		return "", tr
	}
	if c.escaped != nil {
		got = c.escaped(tr)
	}
	tr.end()
	if c.outlived != nil && got == "" {
		got = c.outlived(tr)
	}
	return got, tr
}

// must ends the test at an error of its own.
func (t *trial) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t *trial) cleanup(undo func()) { t.cleanups = append(t.cleanups, undo) }

func (t *trial) isOff(wall string) bool { return slices.Contains(t.off, wall) }

// eventually waits for what has no event to wait for, and says whether it came.
func eventually(ok func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if ok() {
			return true
		}
	}
	return false
}

// launcher is one for all trials, as a daemon's is for all plugins.
func launcher() (*launch.Launcher, error) {
	return launch.New(launch.Config{
		CgroupRoot: root(), UIDBase: uint32(1_910_000_000 + machine%1024*256), UIDCount: 256,
		RuntimeDir: base + "/run", Templates: 4, Compile: programs.Program,
	})
}

// unconfined is a launcher of this trial's own, whose keeper has no walls.
func (t *trial) unconfined() *launch.Launcher {
	t.Helper()
	l, err := launcher()
	t.must(err)
	t.cleanup(func() { t.must(l.Close()) })
	return l
}

// root is the group of all trials.
func root() string { return fmt.Sprintf("cordon-test-escape-%d", machine) }

// plan is the narrow profile for static programs, and what the case adds.
func (t *trial) plan(args []string) *plan.Plan {
	t.Helper()
	p, err := profiles.Builtin("static")
	t.must(err)
	files := []plan.File{{Path: program, From: program, Access: []string{"read_file", "execute"}}}
	if t.c.grants != nil {
		files = append(files, t.c.grants(t)...)
	}
	resolved, err := profiles.Resolve(profiles.Input{
		Profile: p, Ceiling: profiles.DefaultCeiling(), Argv: append([]string{program}, args...), Files: files,
		Watch: t.c.watch, Env: []string{"TRIAL=" + t.mark()},
	})
	t.must(err)
	if len(t.c.allow) > 0 {
		resolved.Seccomp.Rules = append(resolved.Seccomp.Rules, seccomp.Rule{Names: t.c.allow, Action: seccomp.ActAllow})
	}
	if t.c.change != nil {
		t.c.change(t, resolved)
	}
	return resolved
}

// mark stands in the environment of everything that the attack starts; it is
// not the token, which an attack must get hold of.
func (t *trial) mark() string { return "trial-" + filepath.Base(t.dir) + "-" + strconv.Itoa(machine) }

// start runs the attack until it is done trying, was contained, or ended.
func (t *trial) start(args []string) {
	t.Helper()
	r, w, err := os.Pipe()
	t.must(err)
	t.said = make(chan struct{})
	t.closed = make(chan struct{})
	request := launch.Request{Name: t.name, Plan: t.plan(args), Stdout: w, Stderr: w, OnViolation: t.violated}
	t.cleanup(func() {
		t.end()
		select {
		case <-t.closed:
		case <-time.After(patience):
			t.Error("something of the attack still has its output open")
		}
		_ = r.Close()
	})
	if t.c.request != nil {
		t.c.request(t, &request)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	process, err := t.launcher.Start(ctx, request)
	t.mu.Lock()
	t.process, t.startError = process, err
	t.mu.Unlock()
	t.must(w.Close())
	go func() {
		defer close(t.closed)
		t.collect(r)
	}()
	if t.startError != nil {
		return
	}
	select {
	case <-t.said:
	case <-t.process.Done():
		<-t.said
	case <-time.After(patience):
		t.Fatalf("the attack does not end: %s", t.output())
	}
}

// violated does what an owner does: whoever is contained is killed.
func (t *trial) violated(v violation.Violation) {
	t.mu.Lock()
	t.violations = append(t.violations, v)
	t.mu.Unlock()
	if v.Action == violation.Kill || v.Action == violation.Quarantine {
		go func() {
			if eventually(func() bool { return t.started() != nil }) {
				_ = t.started().Kill()
			}
		}()
	}
}

// started is the process once Start has returned.
func (t *trial) started() *launch.Process {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.process
}

// collect keeps what the attack prints, and hears when it is done.
func (t *trial) collect(r io.Reader) {
	told := false
	tell := func() {
		if !told {
			told = true
			close(t.said)
		}
	}
	defer tell()
	buf := make([]byte, 1<<16)
	for {
		n, err := r.Read(buf)
		t.mu.Lock()
		if t.out.Len() < 1<<20 {
			t.out.Write(buf[:n])
		}
		ready := bytes.Contains(t.out.Bytes(), []byte("ready\n"))
		t.mu.Unlock()
		if ready {
			tell()
		}
		if err != nil {
			return
		}
	}
}

func (t *trial) output() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.out.String()
}

// end ends the plugin as its owner does, once.
func (t *trial) end() {
	t.Helper()
	p := t.started()
	if p == nil {
		return
	}
	t.must(p.Kill())
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("the plugin does not end")
	}
	if err := t.release(p); err != nil {
		t.Errorf("cannot release the plugin: %v", err)
	}
}

var released sync.Map

// release gives back what the process had; again, it does nothing.
func (t *trial) release(p *launch.Process) error {
	if _, done := released.LoadOrStore(p, true); done {
		return nil
	}
	return p.Release()
}

// told are the violations in the words of the cases.
func (t *trial) told() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []string
	for _, v := range t.violations {
		list = append(list, string(v.Wall)+" "+v.What)
	}
	return list
}

// groupFile is a file of the plugin's group, in the hierarchy of a controller.
func (t *trial) groupFile(controller, name string) string {
	for _, dir := range []string{"/sys/fs/cgroup/" + controller, "/sys/fs/cgroup"} {
		if _, err := os.Stat(dir + "/cgroup.procs"); err == nil {
			return filepath.Join(dir, root(), t.name, name)
		}
	}
	return ""
}
