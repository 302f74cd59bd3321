//go:build walltest

package escape

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/launch"
)

const (
	// base is the attacked host's directory: everything that an attack aims at.
	base = "/mnt"
	// program is the attacks', at the same path inside and outside.
	program = base + "/attack"
	// inside says that this is the process on the machine of its own, and by
	// which number its cgroups and uids go.
	inside = "CORDON_ESCAPE_MACHINE"
)

// machine numbers this run.
var machine int

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("cannot test the walls without root")
		return 1
	}
	number, err := strconv.Atoi(os.Getenv(inside))
	if err != nil {
		return onMachine()
	}
	machine = number
	if os.Getpid() == 1 {
		return first()
	}
	if err := furnish(); err != nil {
		fmt.Println("cannot furnish the machine:", err)
		return 1
	}
	if shared, err = launcher(); err != nil {
		fmt.Println(err)
		return 1
	}
	code := m.Run()
	if err := shared.Close(); err != nil {
		fmt.Println(err)
		return 1
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/" + root() + "*"); len(left) > 0 {
		fmt.Println("left behind after all tests:", left)
		return 1
	}
	return code
}

// shared starts every plugin of the trials.
var shared *launch.Launcher

// onMachine runs the tests again in namespaces of their own and gives their
// status. With the first process there everything ends.
func onMachine() int {
	dir, err := os.MkdirTemp("", "cordon-escape-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", inside, rand.IntN(1<<20)), "CORDON_ESCAPE_DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if err := cmd.Start(); err != nil {
		fmt.Println("cannot make a machine of its own:", err)
		return 1
	}
	go func() {
		for range signals {
			_ = cmd.Process.Kill()
		}
	}()
	var status *exec.ExitError
	err = cmd.Wait()
	if err != nil && !errors.As(err, &status) {
		fmt.Println(err)
	}
	return cmd.ProcessState.ExitCode()
}

// first is the machine's first process: it runs the tests, and reaps what
// nobody else does.
func first() int {
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
		unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
	); err != nil {
		fmt.Println("cannot mount the machine's /proc:", err)
		return 1
	}
	tests, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		fmt.Println("cannot run the tests:", err)
		return 1
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			fmt.Println("cannot wait for the tests:", err)
			return 1
		case pid == tests.Pid && status.Exited():
			return status.ExitStatus()
		case pid == tests.Pid:
			fmt.Println("the tests were ended by", status.Signal())
			return 1
		}
	}
}

// furnish makes the namespaces look like a host.
func furnish() error {
	dir := os.Getenv("CORDON_ESCAPE_DIR")
	for _, step := range []func() error{
		// Set-id bits, devices and programs mean there what they mean on a disk,
		// however the directory of temporary files is mounted.
		func() error { return unix.Mount(dir, base, "", unix.MS_BIND, "") },
		func() error { return unix.Mount("", base, "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		func() error { return os.Chmod(base, 0o755) },
		buildAttacks,
		loopbackUp,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// buildAttacks compiles the attacks; the program is static, so that it needs
// nothing of the host inside.
func buildAttacks() error {
	sources, err := filepath.Glob("testdata/attack/*.c")
	if err != nil {
		return err
	}
	args := []string{"-std=gnu11", "-static", "-O1", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-o", program}
	out, err := exec.Command("gcc", append(args, sources...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot compile the attacks: %w: %s", err, out)
	}
	return os.Chmod(program, 0o755)
}

// loopbackUp is what an init does first; netdevice(7).
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // it answers from here on
	if err != nil {
		return err
	}
	return l.Close()
}
