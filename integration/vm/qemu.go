package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cordonhq/cordon/integration/vm/stream"
)

const (
	accelKVM = "kvm"
	accelTCG = "tcg"
	// kvmDeadline is how long a kernel may take to its first word under KVM. A
	// working one takes under two seconds; some hosts have a /dev/kvm on which
	// it never comes.
	kvmDeadline = 5 * time.Second
	// guestMemory is in MiB.
	guestMemory = 3072
	// suiteDeadline ends a guest that hangs.
	suiteDeadline = 40 * time.Minute
)

// An emulated machine spends most of its time on translating code and on walking
// page tables. What is left out of it guards a processor or hides addresses, and
// is nothing that Cordon's walls are made of. A string operation is emulated byte
// by byte, and a kernel that is told that they are fast clears pages so. With
// randomised addresses each process has its libraries translated again: a fork
// and an exec cost four times as much. A tenth of the instructions of a kernel's
// start try its own ciphers out.
const (
	emulated        = "max,-la57,-smap,-pku,-pks,-erms"
	emulatedQuicker = "norandmaps mitigations=off init_on_alloc=0 randomize_kstack_offset=off cryptomgr.notests=1"
)

// emulatedClock has a guest's clock go on by 4 ns (2 to the power of 2) with each
// instruction, and as the host's does only while the guest is idle. So it makes
// 250 million instructions a second by its own clock, however slow and loaded
// the host is: no deadline passes because the host had no time for it.
// With fewer nanoseconds an instruction what looks around by the clock does so
// more rarely, and what spins by it spins for longer.
const emulatedClock = 2

// machine is one guest: no network, one disk.
type machine struct {
	kernel, accel string
	disk          string   // what the kernel mounts as its root, unless it is empty; never changed
	log           string   // the console, in a file
	more          []string // of QEMU's arguments
	clock         int      // of an emulated guest: 2 to this power are the nanoseconds of an instruction
	skip          int      // tiers that are not run, from the first on
	// spent is told the guest's processor time with each message of the suite.
	spent func(time.Duration)
}

// kernelDied is a guest whose kernel panicked: console is the end of what it said.
type kernelDied struct{ console string }

// Error has one line of what matters, and then the console.
func (e *kernelDied) Error() string {
	var told []string
	for line := range strings.Lines(e.console) {
		if complaint.MatchString(line) && len(told) < complaintsShown {
			told = append(told, strings.TrimSpace(sinceBoot.ReplaceAllString(line, "")))
		}
	}
	return "the guest's kernel died: " + strings.Join(told, "; ") + "\n" + e.console
}

const complaintsShown = 8

var (
	// complaint is what a dying kernel says of the reason.
	complaint = regexp.MustCompile(`BUG:|Oops|RIP: 0010|Kernel panic|watchdog|CPU: \d+ PID`)
	sinceBoot = regexp.MustCompile(`^\[ *[0-9.]+\] *`)
)

// spentBy is the processor time of a process; proc(5), fields 14 and 15.
func spentBy(pid int) time.Duration {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if err != nil || len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

// threadsOf says where each thread of an emulator stands that does not end: its
// name, state and processor time (proc(5), stat) and where it waits in the kernel.
func threadsOf(pid int) string {
	var out strings.Builder
	threads, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*")
	for _, thread := range threads {
		stat, _ := os.ReadFile(thread + "/stat") // nothing of one that has gone
		stack, _ := os.ReadFile(thread + "/stack")
		fmt.Fprintf(&out, "emulator: %s%s\n", stat, stack)
	}
	return out.String()
}

func (m machine) args() []string {
	// One processor. With two in a thread of their own each, the kernel dies when
	// it patches its own code on one while the other runs it ("Oops: int3"); with
	// two that take turns, 6.1 waits for the second for ever, and 6.12 finds its
	// own memory corrupt once in several runs.
	cpu, accel, quicker, processors := emulated, "tcg,thread=single,tb-size=1024", " "+emulatedQuicker, 1
	if m.accel == accelKVM {
		cpu, accel, quicker, processors = "host", accelKVM, "", 2
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none",
		"-accel", accel, "-cpu", cpu, "-smp", strconv.Itoa(processors), "-m", strconv.Itoa(guestMemory) + "M",
		"-kernel", m.kernel,
		// An emulated timer may be late, which a kernel that checks takes for a broken one.
		"-append", "no_timer_check console=ttyS0 quiet panic=-1 oops=panic cgroup_no_v1=all random.trust_cpu=on root=/dev/nvme0n1 rootfstype=ext4 rw init=/init" + quicker,
		"-serial", "file:" + m.log, // ttyS0: the kernel's own words
		"-serial", "stdio", // ttyS1: the suite's
	}
	if m.skip > 0 {
		args[slices.Index(args, "-append")+1] += " " + stream.Skip + strconv.Itoa(m.skip)
	}
	if m.accel == accelTCG {
		args = append(args, "-icount", "shift="+strconv.Itoa(m.clock))
	}
	if m.disk != "" { // NVMe and ext4 are what both kernels have built in
		args = append(args, "-drive", "file="+m.disk+",format=raw,if=none,id=root,snapshot=on", "-device", "nvme,drive=root,serial=root")
	}
	return append(args, m.more...)
}

// boot runs the guest to its end and calls line for each line that the suite
// writes. Its end is no error; a kernel that died is.
func (m machine) boot(ctx context.Context, line func(string)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, suiteDeadline, fmt.Errorf("it took longer than %v", suiteDeadline))
	defer cancel()
	cmd := command(ctx, "qemu-system-x86_64", m.args()...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	late := ""
	cmd.Cancel = func() error {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			late = threadsOf(cmd.Process.Pid)
		}
		return cmd.Process.Kill()
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start a guest: %w (.ci/setup vm installs qemu-system-x86)", err)
	}
	eachLine(out, func(text string) {
		if m.spent != nil && strings.HasPrefix(text, stream.Mark) {
			m.spent(spentBy(cmd.Process.Pid))
		}
		line(text)
	})
	err = cmd.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("cannot run the guest to its end: %w; its console says:\n%s\n%s", cause, tail(m.log), late)
	}
	if err != nil {
		return fmt.Errorf("cannot run the guest: %w: %s", err, complaint.String())
	}
	if text, _ := os.ReadFile(m.log); bytes.Contains(text, []byte("Kernel panic")) {
		return &kernelDied{tail(m.log)}
	}
	return nil
}

func eachLine(r io.Reader, line func(string)) {
	b := bufio.NewReader(r)
	for {
		text, err := b.ReadString('\n')
		if text = strings.TrimRight(text, "\r\n"); text != "" || err == nil {
			line(text)
		}
		if err != nil {
			return
		}
	}
}

// tail is the end of a log.
func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// chooseAccel is KVM where a kernel comes up under it in time, else emulation.
// The kernel is booted without a root: its panic for want of one is its word.
func chooseAccel(ctx context.Context, dir string, k *image) string {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return accelTCG
	}
	_ = f.Close()
	// Without it /dev/kvm runs guests that were made for that, and no other.
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil && !virtualizes(string(text)) {
		say("/dev/kvm is there, and the processor has no hardware virtualization: emulating")
		return accelTCG
	}
	ctx, cancel := context.WithTimeout(ctx, kvmDeadline)
	defer cancel()
	m := machine{kernel: k.vmlinuz, accel: accelKVM, log: dir + "/console-kvm.log"}
	err = m.boot(ctx, func(string) {})
	if text, _ := os.ReadFile(m.log); ctx.Err() == nil && bytes.Contains(text, []byte("Kernel panic")) {
		return accelKVM
	}
	say("%s does not come up under KVM here within %v (%v): emulating", k.release, kvmDeadline, firstLine(err))
	return accelTCG
}

// virtualizes says whether a processor has Intel's or AMD's extensions, by the
// words of /proc/cpuinfo.
func virtualizes(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "flags" {
			all := strings.Fields(flags)
			return slices.Contains(all, "vmx") || slices.Contains(all, "svm")
		}
	}
	return false
}

func firstLine(err error) string {
	if err == nil {
		return "it ended"
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}
