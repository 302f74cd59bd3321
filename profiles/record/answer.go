package record

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/seccomp"
)

// telling are the arguments that make one call many, by the manual pages of
// section 2. Those of calls with a guard are kept to see whether it holds.
var telling = map[string][]uint{
	"socket": {0, 1, 2}, "socketpair": {0, 1, 2}, "ioctl": {1}, "fcntl": {1}, "prctl": {0}, "arch_prctl": {0},
	"personality": {0}, "prlimit64": {1}, "setsockopt": {1, 2}, "getsockopt": {1, 2},
	"clone": {0}, "mmap": {2, 3}, "mprotect": {2}, "pkey_mprotect": {2},
}

// sockType are the bits of socket(2)'s type without its flags.
const sockType = 0xf

// withheld are the groups and calls that no recording lets through: a program
// that is not trusted yet would have them in reach, and one that needs them is
// not for a profile that wrote itself.
var withheld = []string{
	"@clock", "@cpu-emulation", "@debug", "@io-uring", "@keyring", "@module", "@mount", "@obsolete", "@privileged", "@raw-io", "@reboot", "@swap",
	"unshare", "setns", "bpf", "userfaultfd", "execveat", "seccomp", "memfd_secret", "open_by_handle_at", "name_to_handle_at", "landlock_restrict_self",
}

func knownCall(name string) bool {
	_, ok := seccomp.Number(name)
	return ok
}

// base is what a recording is made behind: everything but what is withheld,
// with its guards, and with what runtimes that compile need and sockets that
// lead nowhere.
func base() (string, error) {
	refuse, err := seccomp.Expand(withheld)
	if err != nil {
		return "", err
	}
	var allow []string
	for _, r := range seccomp.KnownRanges() {
		for nr := r.First; nr <= r.Last; nr++ {
			if name := seccomp.Name(nr); knownCall(name) && !slices.Contains(refuse, name) {
				allow = append(allow, strconv.Quote(name))
			}
		}
	}
	return fmt.Sprintf(`description = "what a recording is made behind"
[seccomp]
allow = [%s]
[[seccomp.rule]]
names = ["mmap", "mprotect", "pkey_mprotect"]
action = "SCMP_ACT_ALLOW"
[[seccomp.rule]]
names = ["socket"]
args = [{ index = 0, op = "SCMP_CMP_EQ", value = 2 }]
action = "SCMP_ACT_ALLOW"
[[seccomp.rule]]
names = ["socket"]
args = [{ index = 0, op = "SCMP_CMP_EQ", value = 10 }]
action = "SCMP_ACT_ALLOW"
[[seccomp.rule]]
names = ["socket"]
args = [{ index = 0, op = "SCMP_CMP_EQ", value = 16 }, { index = 2, op = "SCMP_CMP_EQ", value = 0 }]
action = "SCMP_ACT_ALLOW"
[proc]
mode = "full"
[tmp]
size = "1G"
inodes = 262144
[shm]
size = "256M"
inodes = 4096
[data]
size = "1G"
inodes = 262144
[resources]
memory.max = "max"
pids.max = "max"
cpu.max = "max"
rlimit.nofile = 65536
rlimit.data = "max"
[violation]
seccomp = "log"
`, strings.Join(allow, ", ")), nil
}

// Base is the profile that a recording is made behind. Resolve it with the
// paths that the program may see; NewRecorder changes the plan.
func Base() (*profiles.Profile, error) {
	text, err := base()
	if err != nil {
		return nil, err
	}
	return profiles.ParseProfile("recording.toml", []byte(text))
}

// Recorder notes what one run does. Its methods may be called from everywhere.
type Recorder struct {
	calls map[string][]seccomp.Arm // of Base, with its grants
	plan  *plan.Plan

	mu    sync.Mutex
	rec   *Recording
	tasks map[int]bool
}

// NewRecorder prepares a plan of Base for being recorded: every call goes to
// Answer.
func NewRecorder(p *plan.Plan) (*Recorder, error) {
	r := &Recorder{plan: p, rec: New(), calls: map[string][]seccomp.Arm{}, tasks: map[int]bool{}}
	p.Seccomp.ExecOnce = false
	calls, err := p.Seccomp.Calls()
	if err != nil {
		return nil, err
	}
	for _, c := range calls {
		r.calls[c.Name] = c.Arms
	}
	p.Seccomp = seccomp.Filter{Rules: []seccomp.Rule{}, ExecOnce: true}
	r.rec.Runs, r.rec.Commands = 1, [][]string{slices.Clone(p.Process.Argv)}
	for _, needed := range needs(r.host, p.Process.Argv[0], p.Process.Env) {
		r.rec.path(needed, r.host(needed), "", "execute", "read_file")
	}
	return r, nil
}

// Program is where the command's program is on the host; "" if it is not found.
func (r *Recorder) Program() string {
	return r.host(find(r.host, r.plan.Process.Argv[0], r.plan.Process.Env))
}

// Recording is what was noted. Call it after the run.
func (r *Recorder) Recording() *Recording {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rec.Tasks = max(r.rec.Tasks, len(r.tasks))
	return r.rec
}

// Ended notes how much the run used, and which limits it reached.
func (r *Recorder) Ended(memoryPeak int64, limits []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rec.MemoryPeak = max(r.rec.MemoryPeak, memoryPeak)
	for _, limit := range limits {
		r.rec.Limits = r.rec.name(r.rec.Limits, limit)
	}
}

// Answer decides one call by its registers, and notes it. It reads the
// program's memory for the notes, so it may wait for the program.
func (r *Recorder) Answer(n seccomp.Notification) seccomp.Verdict {
	args := tellingArgs(n)
	arm := decide(r.calls[n.Call], n)
	if n.Call == "execve" { // every call of it after the first comes here
		arm = seccomp.Arm{Action: seccomp.ActAllow}
	}
	switch arm.Action {
	case seccomp.ActAllow, seccomp.ActLog:
	case seccomp.ActErrno: // answered as the guard would, and no need of the program
		errno, _ := seccomp.ErrnoNumber(arm.Errno)
		r.mu.Lock()
		use(r.rec.Answered, n.Call, args)
		r.rec.Answered[n.Call].Errno = arm.Errno
		r.mu.Unlock()
		return seccomp.Verdict{Errno: errno}
	default:
		r.mu.Lock()
		use(r.rec.Refused, n.Call, args)
		r.mu.Unlock()
		return seccomp.Verdict{Errno: unix.EPERM}
	}
	note := r.look(n)
	if !n.StillValid() {
		return seccomp.Verdict{Continue: true} // gone; it will come again, or not
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tasks[n.PID] = true
	use(r.rec.Calls, n.Call, args)
	note()
	return seccomp.Verdict{Continue: true}
}

// decide finds the arm that decides; none is a violation.
func decide(arms []seccomp.Arm, n seccomp.Notification) seccomp.Arm {
	for _, a := range arms {
		if a.Holds(n.NR, n.Args) {
			return a
		}
	}
	return seccomp.Arm{Action: seccomp.ActNotify}
}

// tellingArgs are the arguments that matter, as the kernel reads them.
func tellingArgs(n seccomp.Notification) (out Args) {
	for _, i := range telling[n.Call] {
		out[i] = n.Args[i]
		if bits := seccomp.ArgBits(n.NR, i); bits < 64 {
			out[i] &= 1<<bits - 1
		}
		if i == 1 && strings.HasPrefix(n.Call, "socket") {
			out[i] &= sockType
		}
	}
	return out
}

// look reads what the call is about, and returns what is to be noted of it.
func (r *Recorder) look(n seccomp.Notification) (note func()) {
	switch n.Call {
	case "connect":
		if args, _ := seccomp.Describe(n); len(args) > 1 {
			return func() { r.rec.Connects = r.rec.name(r.rec.Connects, args[1]) }
		}
	case "mmap":
		data := dataSize(n.PID)
		file := ""
		if n.Args[2]&unix.PROT_EXEC != 0 && n.Args[3]&unix.MAP_ANONYMOUS == 0 {
			file, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.PID, int32(n.Args[4]))) // #nosec G115 -- a descriptor
		}
		return func() {
			r.rec.DataPeak = max(r.rec.DataPeak, data)
			if strings.HasPrefix(file, "/") {
				r.needsMapped(file)
			}
		}
	case "brk", "mprotect", "munmap":
		data := dataSize(n.PID)
		return func() { r.rec.DataPeak = max(r.rec.DataPeak, data) }
	case "execve":
		return r.lookExec(n)
	}
	if seccomp.IsWatchCall(n.Call) {
		file, access := seccomp.OpenAccess(n)
		return func() { r.needs(file, access) }
	}
	if asks(n.Call) {
		_, file := seccomp.Describe(n)
		return func() { r.asked(file) }
	}
	return func() {}
}

// asks tells whether a call only asks about a path.
func asks(call string) bool {
	return slices.Contains([]string{"stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"}, call)
}

func (r *Recorder) lookExec(n seccomp.Notification) func() {
	_, file := seccomp.Describe(n)
	named := path.Clean("/" + file)
	if file == "/proc/self/exe" {
		file, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", n.PID)) // what cannot be read is not granted
	}
	var all []string
	if info, err := os.Stat(r.host(file)); err == nil && info.Mode().IsRegular() {
		all = needs(r.host, file, nil)
	}
	return func() {
		r.rec.Execs = r.rec.name(r.rec.Execs, named) // a try alone is a call that must be let through
		for _, needed := range all {
			r.rec.path(needed, r.host(needed), "", "execute", "read_file")
		}
	}
}

// dataSize is the writable private memory of a process, in bytes: the sixth
// field of proc_pid_statm(5).
func dataSize(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if fields := strings.Fields(string(text)); err == nil && len(fields) > 5 {
		pages, err := strconv.ParseInt(fields[5], 10, 64)
		if err == nil {
			return pages * int64(os.Getpagesize())
		}
	}
	return 0
}

// own are the paths that are every plugin's.
func own(file string) bool {
	if file == "/" {
		return true
	}
	for _, dir := range []string{"/proc", "/dev", "/tmp", "/data", "/plugin", "/sys"} {
		if file == dir || strings.HasPrefix(file, dir+"/") {
			return true
		}
	}
	return slices.Contains([]string{"/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf"}, file)
}

// needs notes an opened path. What is not there, or not granted while it is
// recorded, is not needed.
func (r *Recorder) needs(file, access string) {
	file = plain(file)
	switch {
	case file == "":
		return
	case strings.HasPrefix(file, "/dev/shm/"), wholeProc(file):
		r.rec.path(file, "", "", "read_file")
		return
	case own(file):
		return
	}
	if g := r.writable(file); g != nil {
		r.rec.path(file, r.host(file), g.Path, "read_file", "write_file")
		return
	}
	info, err := os.Stat(r.host(file))
	if err != nil || access != "read" {
		return
	}
	right := "read_file"
	if info.IsDir() {
		right = "read_dir"
	}
	r.rec.path(file, r.host(file), "", right)
}

// wholeProc tells whether a path is of the machine and not of a process.
func wholeProc(file string) bool {
	rest, ok := strings.CutPrefix(file, "/proc/")
	if !ok || rest == "" {
		return false
	}
	first, _, _ := strings.Cut(rest, "/")
	return first != "self" && first != "thread-self" && strings.Trim(first, "0123456789") != ""
}

// asked notes a file that was asked about and is there: who finds it missing
// goes another way. Directories are there when anything in them is.
func (r *Recorder) asked(file string) {
	file = plain(file)
	if file == "" || own(file) || r.writable(file) != nil {
		return
	}
	if info, err := os.Stat(r.host(file)); err == nil && info.Mode().IsRegular() {
		r.rec.path(file, r.host(file), "", "read_file")
	}
}

// needsMapped notes a file that was mapped to be executed.
func (r *Recorder) needsMapped(file string) {
	file = plain(file)
	if file == "" || own(file) {
		return
	}
	if _, err := os.Stat(r.host(file)); err == nil {
		r.rec.path(file, r.host(file), "", "execute", "read_file")
	}
}

// plain is an absolute path without dots, below /usr where the root's links
// lead there.
func plain(file string) string {
	if !path.IsAbs(file) || strings.ContainsAny(file, "\\\x00") {
		return "" // escaped: no path of a profile
	}
	file = path.Clean(file)
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if file == dir || strings.HasPrefix(file, dir+"/") {
			return "/usr" + file
		}
	}
	return file
}

// grant is the innermost of the plan's that shows a path.
func (r *Recorder) grant(file string) *plan.File {
	var best *plan.File
	for i := range r.plan.Files {
		g := &r.plan.Files[i]
		if (file == g.Path || strings.HasPrefix(file, g.Path+"/")) && (best == nil || len(g.Path) > len(best.Path)) {
			best = g
		}
	}
	return best
}

func (r *Recorder) writable(file string) *plan.File {
	if g := r.grant(file); g != nil && slices.Contains(g.Access, "write_file") {
		return g
	}
	return nil
}

// host is where a path that the program sees lies on the host; "" where it is
// not granted.
func (r *Recorder) host(file string) string {
	file = plain(file)
	g := r.grant(file)
	if file == "" || g == nil {
		return ""
	}
	return filepath.Join(g.From, strings.TrimPrefix(file, g.Path))
}
