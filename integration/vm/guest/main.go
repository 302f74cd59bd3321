// Command guest is the first program of a VM run's guest: it makes a
// kernel with a root look like a host (the usual file systems, cgroup v2), runs the
// suite's tiers one after the other, says on the second serial port what they
// say, and ends the machine.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/integration/vm/stream"
)

const (
	port  = "/dev/ttyS1"
	suite = "/suite.json" // the tiers, made by the host's side
)

func main() {
	if filepath.Base(os.Args[0]) == "gcc" {
		os.Exit(gcc(os.Args[1:]))
	}
	if os.Getpid() == 1 {
		first()
		return
	}
	if err := runSuite(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

// first is pid 1: it furnishes the machine, starts this program again to run
// the suite, reaps what nobody else does, and ends the machine after it.
func first() {
	err := furnish()
	if err == nil {
		var cmd *exec.Cmd
		if cmd, err = startSuite(); err == nil {
			err = reapUntil(cmd.Process.Pid)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	unix.Sync()
	// The host's side asked QEMU to end where others reboot.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func startSuite() (*exec.Cmd, error) {
	tty, err := openPort()
	if err != nil {
		return nil, err
	}
	defer tty.Close()
	cmd := exec.Command("/init")
	cmd.Stdout, cmd.Stderr = tty, tty
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TMPDIR=/tmp"}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	return cmd, cmd.Start()
}

// reapUntil waits for every child, as pid 1 must, until one has ended.
func reapUntil(pid int) error {
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("cannot wait for the suite: %w", err)
		case ended == pid && status != 0:
			return fmt.Errorf("the suite ended with status %#x", int(status))
		case ended == pid:
			return nil
		}
	}
}

// openPort opens the serial port so that bytes go through it unchanged.
func openPort() (*os.File, error) {
	f, err := os.OpenFile(port, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	t.Iflag &^= unix.IXON | unix.ICRNL
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func tell(m stream.Message) {
	line, err := stream.Format(m)
	if err != nil {
		line = "guest: " + err.Error()
	}
	fmt.Println(line)
}

// skipped is how many of the tiers another guest has run, by the kernel's command
// line.
func skipped(tiers int) (int, error) {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return 0, err
	}
	for _, word := range strings.Fields(string(text)) {
		if number, ok := strings.CutPrefix(word, stream.Skip); ok {
			n, err := strconv.Atoi(number)
			if err != nil || n < 0 || n > tiers {
				return 0, fmt.Errorf("%s: want 0 to %d", word, tiers)
			}
			return n, nil
		}
	}
	return 0, nil
}

func runSuite() error {
	text, err := os.ReadFile(suite)
	if err != nil {
		return err
	}
	var tiers []stream.Tier
	if err := json.Unmarshal(text, &tiers); err != nil {
		return fmt.Errorf("cannot read %s: %w", suite, err)
	}
	skip, err := skipped(len(tiers))
	if err != nil {
		return err
	}
	tell(stream.Message{Kind: stream.Ready, Text: describe()})
	for _, t := range tiers[skip:] {
		tell(stream.Message{Kind: stream.Begin, Tier: t})
		started, idled := time.Now(), idle()
		why := ""
		if err := runTier(t); err != nil {
			why = err.Error()
		}
		tellAsked()
		tell(stream.Message{Kind: stream.End, Text: why, Seconds: time.Since(started).Seconds(), Idle: idle() - idled})
	}
	tell(stream.Message{Kind: stream.Done})
	return nil
}

// idle is for how many seconds the processors had nothing to do, all together;
// proc(5), /proc/uptime.
func idle() float64 {
	var up, idle float64
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(text), &up, &idle); err != nil {
		return 0
	}
	return idle
}

// describe says what the guest is.
func describe() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	return "Linux " + unix.ByteSliceToString(u.Release[:]) + ", cgroup v2: " + strings.TrimSpace(string(controllers))
}

// runTier runs one tier; its output ends with a whole line.
func runTier(t stream.Tier) error {
	cmd := exec.Command(t.Argv[0], t.Argv[1:]...)
	cmd.Dir = t.Dir
	cmd.Env = append(os.Environ(), t.Env...)
	if !t.Test {
		return runProgram(cmd)
	}
	out := &lines{to: os.Stdout}
	cmd.Stdout, cmd.Stderr = out, out
	// What a tier leaves running must not keep its output open, nor go on
	// beside the next one.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	_ = unix.Kill(-1, unix.SIGKILL) // everything but this and pid 1
	out.complete()
	return err
}

// runProgram runs what is no Go test, and says of it what a Go test would.
func runProgram(cmd *exec.Cmd) error {
	name := "Test" + strings.ToUpper(filepath.Base(cmd.Path)[:1]) + filepath.Base(cmd.Path)[1:]
	fmt.Printf("\x16=== RUN   %s\n", name)
	started := time.Now()
	out := &lines{to: os.Stdout}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	out.complete()
	word := "PASS"
	if err != nil {
		word = "FAIL"
		fmt.Println(err)
	}
	fmt.Printf("\x16--- %s: %s (%.2fs)\n\x16%s\n", word, name, time.Since(started).Seconds(), word)
	return err
}

// lines passes output on and can complete its last line.
type lines struct {
	to   io.Writer
	open bool
}

func (l *lines) Write(b []byte) (int, error) {
	if len(b) > 0 {
		l.open = b[len(b)-1] != '\n'
	}
	return l.to.Write(b)
}

func (l *lines) complete() {
	if l.open {
		_, _ = io.WriteString(l.to, "\n")
	}
}
