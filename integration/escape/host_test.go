//go:build walltest

package escape

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// privileged are the walls that keep a plugin from being root, together: each
// of them leaves some of root's powers to take.
const privileged = "capabilities+identity+user namespace"

// unowned is the wall of what is mounted for reading: nobody inside owns any of
// it, so nobody can write to it, be it a file or a socket, nor run it as its
// owner.
const unowned = "sockets"

// outsideCommand is an attack without walls.
func outsideCommand(args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"NEIGHBOUR=1"}
	return cmd
}

// outside runs an attack of an ordinary user of the host, without walls, until
// the function it gives is called; it has said "ready" by then.
func (t *trial) outside(args ...string) (stop func()) {
	t.Helper()
	return t.runAs(owner, args...)
}

// neighbour is a process of the host that belongs to another user: an attack's
// victim. It has said "ready".
func (t *trial) neighbour(stdin *os.File, args ...string) (cmd *exec.Cmd, stop func()) {
	t.Helper()
	cmd = outsideCommand(args...)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: otherUser - 1, Gid: otherUser - 1}, Pdeathsig: syscall.SIGKILL}
	return cmd, t.untilReady(cmd)
}

// untilReady starts an attack without walls and waits until it is done trying.
func (t *trial) untilReady(cmd *exec.Cmd) (stop func()) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	t.must(err)
	t.must(cmd.Start())
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if said = append(said, lines.Text()); strings.HasSuffix(lines.Text(), "ready") {
			return stop
		}
	}
	stop()
	t.Fatalf("%v did not come up: %q", cmd.Args, said)
	return nil
}
