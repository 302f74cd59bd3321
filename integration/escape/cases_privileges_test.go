//go:build walltest

package escape

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles/plan"
)

// victim is a process of another user of the host.
type victim struct {
	cmd    *exec.Cmd
	secret *os.File
}

func withVictim(t *trial) {
	f, err := os.Open(t.put("secret", t.token, 0o600))
	t.must(err)
	cmd, stop := t.neighbour(f, "unbound", "a command line that is long enough to hold what an attack writes to it")
	t.cleanup(stop)
	t.cleanup(func() { _ = f.Close() })
	t.host = victim{cmd, f}
}

func (t *trial) victim() int { return t.host.(victim).cmd.Process.Pid }

// anyUser lets a wall be seen alone that does not care who asks.
const anyUser = "identity+capabilities"

func privilegeCases() []escape {
	// With no_new_privs off neither filter nor Landlock can be put up.
	bare := []string{"landlock", "seccomp"}
	return inCategory("privileges", []escape{
		{
			name: "a set-user-id program", walls: []string{"nosuid", "no_new_privs", "user namespace", unowned}, with: bare,
			prepare: func(t *trial) {
				t.put("secret", t.token, 0o600)
				t.copyProgram("suid", 0o4755)
			},
			grants: func(t *trial) []plan.File {
				return []plan.File{grant(t.fileIn("suid"), []string{"read_file", "execute"}), grant(t.fileIn("secret"), reading)}
			},
			args: func(t *trial) []string { return []string{"by-program", t.fileIn("suid"), t.fileIn("secret")} }, escaped: leaked,
		},
		{
			name: "a program with capabilities of its own", walls: []string{"nosuid", "no_new_privs", "user namespace", "capabilities", unowned}, with: bare,
			prepare: func(t *trial) {
				t.put("secret", t.token, 0o600)
				t.must(os.Chown(t.fileIn("secret"), owner+7, owner+7))
				file := t.copyProgram("capable", 0o755)
				// security.capability, version 2: effective, CAP_DAC_OVERRIDE permitted.
				value := make([]byte, 20)
				binary.LittleEndian.PutUint32(value[0:], 0x02000001)
				binary.LittleEndian.PutUint32(value[4:], 1<<unix.CAP_DAC_OVERRIDE)
				t.must(unix.Setxattr(file, "security.capability", value, 0))
			},
			grants: func(t *trial) []plan.File {
				return []plan.File{grant(t.fileIn("capable"), []string{"read_file", "execute"}), grant(t.fileIn("secret"), reading)}
			},
			args: func(t *trial) []string { return []string{"by-program", t.fileIn("capable"), t.fileIn("secret")} }, escaped: leaked,
		},
		{
			name: "a set-user-id file for others to run", walls: []string{"seccomp"}, reports: "seccomp openat",
			prepare: func(t *trial) { t.folder("w") }, grants: one("w", writing),
			args: func(t *trial) []string { return []string{"set-id", t.fileIn("w/tool")} },
			escaped: func(t *trial) string {
				entries, err := os.ReadDir(t.fileIn("w"))
				t.must(err)
				for _, e := range entries {
					if info, err := e.Info(); err == nil && info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 && !info.IsDir() {
						return fmt.Sprintf("the host has %s, %v", e.Name(), info.Mode())
					}
				}
				return ""
			},
		},
		{
			name: "another user's id", walls: []string{"seccomp", "capabilities", "identity", "user namespace"}, reports: "seccomp setresuid",
			args:    func(*trial) []string { return []string{"become", fmt.Sprint(otherUser)} },
			escaped: shows("Uid", func(v string) bool { return strings.Contains(v, fmt.Sprint(otherUser)) }),
		},
		{
			name: "trace a process of the host", walls: []string{"seccomp", "landlock", "pid namespace", privileged}, with: []string{"keeper"}, reports: "seccomp ptrace",
			prepare: withVictim, args: func(t *trial) []string { return []string{"trace", fmt.Sprint(t.victim())} },
			escaped: func(t *trial) string { return traced(t.victim()) },
		},
		{
			name: "trace its own first process", after: "CVE-2020-5291", walls: []string{"seccomp", "landlock", privileged}, reports: "seccomp ptrace",
			args:    func(*trial) []string { return []string{"trace", "1"} },
			escaped: func(t *trial) string { return traced(t.reaper()) },
		},
		{
			name: "write a neighbour's memory", walls: []string{"seccomp", "landlock", "pid namespace", privileged}, with: []string{"keeper"}, reports: "seccomp process_vm_writev",
			prepare: withVictim,
			args: func(t *trial) []string {
				return []string{"write-memory", fmt.Sprint(t.victim()), fmt.Sprint(argumentsOf(t.victim())), t.token}
			},
			escaped: func(t *trial) string {
				line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", t.victim()))
				if strings.Contains(string(line), t.token) {
					return "the neighbour's memory was written"
				}
				return ""
			},
		},
		{
			name: "take a neighbour's descriptor", walls: []string{"seccomp", "landlock", "pid namespace", privileged}, with: []string{"keeper"}, reports: "seccomp pidfd_getfd",
			prepare: withVictim,
			args:    func(t *trial) []string { return []string{"steal-descriptor", fmt.Sprint(t.victim()), "0"} }, escaped: leaked,
		},
		{
			name: "kill a neighbour", walls: []string{"landlock", "pid namespace", privileged}, with: []string{"keeper"}, lacks: landlockFrom(6),
			prepare: withVictim,
			args:    func(t *trial) []string { return []string{"kill", fmt.Sprint(t.victim())} },
			escaped: func(t *trial) string {
				dead := func() bool { return !alive(t.victim()) }
				refused := strings.Contains(t.output(), "kill:")
				if dead() || !refused && eventually(dead) { // a signal that was sent takes a moment
					return "the neighbour is dead"
				}
				return ""
			},
		},
		{
			name: "a key of the host's keyring", walls: []string{"seccomp"}, reports: "seccomp keyctl",
			prepare: withKey, args: func(t *trial) []string { return []string{"read-key", fmt.Sprint(t.host)} }, escaped: leaked,
		},
		{
			name: "secrets in the daemon's environment", walls: []string{"environment"},
			prepare: func(t *trial) { t.Setenv("DATABASE_PASSWORD", t.token) },
			args:    func(*trial) []string { return []string{"environment"} }, escaped: leaked,
		},
	})
}

// otherUser is a uid that no test gives to anyone.
const otherUser = 64999

// copyProgram makes a program of the host, root's, that can do what attacks can.
func (t *trial) copyProgram(name string, mode uint32) string {
	t.Helper()
	data, err := os.ReadFile(program)
	t.must(err)
	file := t.put(name, string(data), 0o755)
	t.must(unix.Chmod(file, mode))
	return file
}

func traced(pid int) string {
	if by := status(pid, "TracerPid"); by != "" && by != "0" {
		return fmt.Sprintf("process %d is traced by %s", pid, by)
	}
	return ""
}

// argumentsOf is where a process has its command line: field 48 of
// proc_pid_stat(5), which root may see.
func argumentsOf(pid int) uint64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(data), ") ")
	if f := strings.Fields(rest); len(f) > 45 {
		n, _ := strconv.ParseUint(f[45], 10, 64)
		return n
	}
	return 0
}

// reaper is the first process of the plugin's pid namespace: its brother, for
// the keeper made both.
func (t *trial) reaper() int {
	if t.process == nil {
		return 0
	}
	parent := status(t.process.PID(), "PPid")
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && status(pid, "Name") == "cordon-reaper" && status(pid, "PPid") == parent && parent != "" {
			return pid
		}
	}
	return 0
}

// withKey has a key that anyone who can name it may read.
func withKey(t *trial) {
	id, err := unix.AddKey("user", t.token, []byte(t.token), unix.KEY_SPEC_PROCESS_KEYRING)
	t.must(err)
	t.must(unix.KeyctlSetperm(id, 0x3f3f3f3f))
	t.host = id
}
