//go:build walltest

package launch

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// wallCase shows one wall: held says from the outcome whether it held. It must
// hold as built (with the walls in alone left out, where another wall of the
// pair would answer first) and must not when it is off, too.
type wallCase struct {
	wall   string
	alone  string // other walls to leave out, so that this one is seen
	script string // python
	change func(*plan.Plan)
	held   func(outcome, error) bool
}

// says holds if the script printed a line.
func says(line string) func(outcome, error) bool {
	return func(o outcome, err error) bool {
		return err == nil && strings.Contains("\n"+o.out, "\n"+line+"\n")
	}
}

// hits holds if a violation of the wall was reported first.
func hits(w violation.Wall) func(outcome, error) bool {
	return func(o outcome, err error) bool {
		return err == nil && len(o.violations) > 0 && o.violations[0].Wall == w
	}
}

func allow(names ...string) func(*plan.Plan) {
	return func(p *plan.Plan) {
		p.Seccomp.Rules = append(p.Seccomp.Rules, seccomp.Rule{Names: names, Action: seccomp.ActAllow})
	}
}

func number(n int64) *int64 { return &n }

func without(p *plan.Plan, rlimit string) {
	for i, r := range p.Rlimits {
		if r.Name == rlimit {
			p.Rlimits = append(p.Rlimits[:i:i], p.Rlimits[i+1:]...)
			return
		}
	}
}

const (
	shmKey  = 0x636f7264
	fileFor = "def try_(f):\n  try: return f()\n  except OSError as e: return 'errno %d' % e.errno\n"
	runCopy = `
import shutil, os
shutil.copy(os.path.realpath('/usr/bin/python3'), '/tmp/true'); os.chmod('/tmp/true', 0o755)
pid = os.fork()
if pid == 0:
  try: os.execv('/tmp/true', ['true', '-c', 'pass'])
  except OSError as e: os._exit(99)
print('refused' if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 99 else 'ran')
`
	runMemfd = `
import os
try: fd = os.memfd_create('x', 0)
except OSError:  # before Linux 6.3 there shall be none at all
  print('refused')
  raise SystemExit
os.write(fd, open('/usr/bin/python3', 'rb').read())
pid = os.fork()
if pid == 0:
  try: os.execv('/proc/self/fd/%d' % fd, ['true', '-c', 'pass'])
  except OSError as e: os._exit(99)
print('refused' if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 99 else 'ran')
`
)

func wallCases() []wallCase {
	status := func(field, value string) string {
		return "import re\nprint('held' if re.search(r'^" + field + `:\s+` + value + "$', open('/proc/self/status').read(), re.M) else 'open')"
	}
	return []wallCase{
		{wall: "user namespace", script: "print('held' if open('/proc/self/uid_map').read().split()[2] == '1' else 'open')", held: says("held")},
		{wall: "mount namespace", script: "import os\nprint('open' if os.path.lexists('/etc/shadow') else 'held')", held: says("held")},
		{wall: "pid namespace", script: "import os\nprint('held' if os.getpid() < 10 else 'open')", held: says("held")},
		{wall: "net namespace", script: "print('held' if open('/proc/self/net/dev').read().count(':') == 1 else 'open')", held: says("held")},
		{
			wall: "ipc namespace", change: allow("shmget"), held: says("held"),
			script: fmt.Sprintf("import ctypes\nprint('held' if ctypes.CDLL(None).shmget(%d, 0, 0) < 0 else 'open')", shmKey),
		},
		{wall: "uts namespace", script: "import os\nprint('held' if os.uname().nodename == 'cordon' else 'open')", held: says("held")},
		{wall: "cgroup namespace", script: "print('open' if 'cordon-test' in open('/proc/self/cgroup').read() else 'held')", held: says("held")},
		{wall: "capabilities", script: status("CapBnd", "0+"), held: says("held")},
		{wall: "no_new_privs", script: status("NoNewPrivs", "1"), held: says("held")},
		{wall: "identity", script: "import os\nprint('held' if os.getresuid() == (1000, 1000, 1000) else 'open')", held: says("held")},
		{wall: "landlock", script: "import os\n" + fileFor + "print('held' if try_(lambda: os.listdir('/')) == 'errno 13' else 'open')", held: says("held")},
		{wall: "seccomp", script: "import ctypes\nctypes.CDLL(None).unshare(0x10000000)\nprint('went on')", held: hits(violation.Seccomp)},
		{
			wall: "memory.max", script: "b = bytearray(200 << 20)\nprint('went on')", held: hits(violation.Memory),
			change: func(p *plan.Plan) { p.Limits.MemoryMax = number(64 << 20); without(p, "data") },
		},
		{
			wall: "pids.max", held: hits(violation.Pids),
			script: "import os, time\nfor i in range(20):\n  if os.fork() == 0: time.sleep(60)\nprint('went on')\nos.kill(-1, 9)",
			change: func(p *plan.Plan) { p.Limits.PidsMax = number(10) },
		},
		{
			wall: "cpu.max", script: "pass",
			held: func(o outcome, err error) bool {
				for _, w := range o.enforced.Walls {
					if w.Name == "cpu.max" {
						return err == nil && w.State == "enforced"
					}
				}
				return false
			},
		},
		{wall: "rlimits", script: "import resource\nprint('held' if resource.getrlimit(resource.RLIMIT_NOFILE)[1] == 1024 else 'open')", held: says("held")},
		{
			wall: "time.wall", script: "import time\ntime.sleep(1.5)", held: hits(violation.Time),
			change: func(p *plan.Plan) { p.Time.Wall = 300 * time.Millisecond },
		},
		{wall: "noexec", alone: "landlock", script: runCopy, held: says("refused")},
		{wall: "landlock", alone: "noexec", script: runCopy, held: says("refused")},
		{
			wall: "scratch size", held: says("errno 28"),
			script: fileFor + "print(try_(lambda: open('/tmp/f', 'wb', 0).write(bytes(3 << 20)) and open('/tmp/g', 'wb', 0).write(bytes(3 << 20)) and open('/tmp/h', 'wb').close()) or 'all written')",
			change: func(p *plan.Plan) { p.Tmp.Size = 2 << 20 },
		},
		{wall: "memfd_noexec", script: runMemfd, change: allow("memfd_create"), held: says("refused")},
	}
}

// TestEachWallAlone runs each case twice: the wall up, and off.
func TestEachWallAlone(t *testing.T) {
	id, err := unix.SysvShmGet(shmKey, 4096, unix.IPC_CREAT|0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) }()
	for _, c := range wallCases() {
		t.Run(strings.ReplaceAll(c.wall+" "+c.alone, " ", "_"), func(t *testing.T) {
			up, o, err := c.try(t, c.alone)
			if !up {
				t.Errorf("the wall does not hold: %v; status %v; violations %v; output:\n%s", err, o.exit.Status, o.violations, o.out)
			}
			up, o, _ = c.try(t, c.alone+","+c.wall)
			if up {
				t.Errorf("the wall holds although it is off: the test shows nothing; output:\n%s", o.out)
			}
		})
	}
}

func (c wallCase) try(t *testing.T, off string) (held bool, o outcome, err error) {
	t.Helper()
	t.Setenv("CORDON_WALLS_OFF", off)
	defer os.Unsetenv("CORDON_WALLS_OFF")
	p := testPlan(t, "python", nil, "python3", "-c", c.script)
	if c.change != nil {
		c.change(p)
	}
	o, err = run(t, testLauncher(t), p)
	return c.held(o, err), o, err
}
