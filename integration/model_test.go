package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cordonhq/cordon/seccomp"
)

// modelProfiles is how many profiles are made; each is asked about 50 questions.
var modelProfiles = map[bool]int{false: 18, true: 2}[slow]

// TestModelAgreesWithKernel makes profiles and questions, asks cordon profile
// can, and has a probe try the same inside the real walls.
func TestModelAgreesWithKernel(t *testing.T) {
	probe := buildProbe(t)
	asked, denied, startless := map[string]int{}, map[string]int{}, 0
	for seed := range uint64(modelProfiles) { // #nosec G115 -- a few
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := newModelCase(t, probe, seed)
			if why := c.startless(); why != "" {
				startless++
				c.mustNotStart(why)
				return
			}
			models, kernels := c.can(), c.probe()
			for i, q := range c.questions {
				model, kernel := models[i], kernels[i]
				asked[q.kind]++
				if !kernel.can {
					denied[q.kind]++
				}
				if model.Can != kernel.can {
					t.Errorf("%s: the model says %v, %v, on the way %v; the kernel says %s\n%s", strings.Join(q.words, " "), model.Can, model.Why, model.Path, kernel.text, c.profile)
				}
			}
		})
	}
	t.Logf("asked %v, denied %v; %d profiles of which nothing starts", asked, denied, startless)
	for _, kind := range []string{"file", "call", "quota", "identity"} {
		if asked[kind] < 50*modelProfiles/18 || denied[kind]*10 < asked[kind]*4 && kind != "identity" || asked[kind] == denied[kind] {
			t.Errorf("%s: %d questions, %d of them denied, are no test", kind, asked[kind], denied[kind])
		}
	}
}

func buildProbe(t *testing.T) string {
	t.Helper()
	probe := filepath.Join(t.TempDir(), "probe")
	if out, err := exec.Command("gcc", "-static", "-O1", "-o", probe, "testdata/model/probe.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return probe
}

// question is one of a plugin, in the words of cordon profile can.
type question struct {
	kind  string
	words []string
	// probe are the words for the probe, if others.
	probe []string
}

// modelCase is one profile with its files and questions.
type modelCase struct {
	t         *testing.T
	r         *rand.Rand
	dir       string
	profile   string
	questions []question
	unique    int
}

func newModelCase(t *testing.T, probe string, seed uint64) *modelCase {
	t.Helper()
	c := &modelCase{t: t, r: rand.New(rand.NewPCG(seed, 20)), dir: t.TempDir()}
	c.files(probe)
	c.writeProfile(probe)
	c.ask()
	return c
}

// The owners of the trees; a plugin acts as modelUser in what is granted "rw".
const modelUser = 12345

// files makes trees with everything that is hard about paths.
func (c *modelCase) files(probe string) {
	program, err := os.ReadFile(probe)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, tree := range []string{"ro", "rw", "over", "open"} {
		c.dirs(tree+":755", tree+"/dir:755", tree+"/closed:700", tree+"/sticky:777", tree+"/mine:755")
		for name, mode := range map[string]os.FileMode{
			"plain": 0o644, "secret": 0o600, "dir/in": 0o644, "dir/" + tree: 0o644, "closed/x": 0o644,
			"sticky/x": 0o644, "theirs": 0o666, "shared": 0o666, "mine/x": 0o664, "writeonly": 0o222,
		} {
			c.write(tree+"/"+name, []byte("x\n"), mode)
		}
		c.write(tree+"/prog", program, 0o755)
		c.write(tree+"/onlyroot", program, 0o700)
		for i := range 8 {
			c.write(fmt.Sprintf("%s/victim%d", tree, i), nil, 0o644)
			c.dirs(fmt.Sprintf("%s/empty%d:755", tree, i))
		}
		for name, target := range map[string]string{
			"abs": "/b/plain", "up": "../b/plain", "dangling": "/nowhere", "loop": "loop", "tools": "dir", "self": ".",
			"deep": "self/self/tools/in", "etc": "/etc/passwd", "root": "/",
		} {
			c.must(os.Symlink(target, filepath.Join(c.dir, tree, name)))
		}
		c.must(os.Chmod(filepath.Join(c.dir, tree, "sticky"), 0o777|os.ModeSticky))
	}
	c.must(os.Link(c.at("rw/plain"), c.at("ro/hard")), os.Link(c.at("ro/prog"), c.at("rw/hard")))
	c.must(os.Link(c.at("rw/shared"), c.at("over/hard")), os.Link(c.at("ro/plain"), c.at("open/hard")))
	c.own("rw", "theirs", "hard")
	c.own("over", "theirs", "hard")
	c.must(os.Chmod(c.at("open"), 0o777), os.Chown(c.at("open"), modelUser+1, modelUser+1))
	c.write("single", []byte("x\n"), 0o644)
	c.must(os.Chown(c.at("single"), modelUser, modelUser))
}

func (c *modelCase) at(name string) string { return filepath.Join(c.dir, name) }

func (c *modelCase) must(errs ...error) {
	c.t.Helper()
	if err := errors.Join(errs...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *modelCase) dirs(specs ...string) {
	for _, spec := range specs {
		name, text, _ := strings.Cut(spec, ":")
		mode, err := strconv.ParseUint(text, 8, 32)
		c.must(err, os.MkdirAll(c.at(name), 0o755), os.Chmod(c.at(name), os.FileMode(mode)))
	}
}

func (c *modelCase) write(name string, data []byte, mode os.FileMode) {
	c.must(os.WriteFile(c.at(name), data, mode), os.Chmod(c.at(name), mode))
}

// own gives a tree to the user, but for some names in it.
func (c *modelCase) own(tree string, not ...string) {
	c.must(filepath.WalkDir(c.at(tree), func(name string, _ os.DirEntry, err error) error {
		if err != nil || slices.Contains(not, filepath.Base(name)) {
			return err
		}
		return os.Lchown(name, modelUser, modelUser)
	}))
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// accesses of what may be written, and of what may not.
var (
	readAccess  = []string{`"r"`, `"rx"`, `["read_file"]`, `["read_dir"]`, `["execute", "read_file"]`, `["execute"]`, `["ioctl_dev", "read_file"]`, `["read_dir", "resolve_unix"]`}
	writeAccess = []string{
		`"rw"`, `"rw"`, `["read_file", "write_file"]`, `["write_file", "truncate", "read_dir"]`, `["make_reg", "write_file", "read_file"]`, `["read_file", "remove_file", "make_dir"]`,
		`["read_file", "read_dir", "write_file", "make_reg", "make_sym", "remove_dir", "refer"]`, `["truncate", "read_file", "make_sym"]`,
		`["make_dir", "remove_dir", "make_sock", "make_fifo"]`, `["write_file", "truncate", "ioctl_dev"]`, `["remove_dir", "remove_file", "refer"]`,
	}
)

func (c *modelCase) grant(at, from string) string {
	access := pick(c.r, readAccess...)
	if from != "ro" && c.r.IntN(3) > 0 {
		access = pick(c.r, writeAccess...)
	}
	return fmt.Sprintf("[[files]]\npath = %q\nfrom = %q\naccess = %s\n", at, c.at(from), access)
}

// The calls that a profile may say something of. The probe does without them.
var modelCalls = []string{
	"getppid", "sched_yield", "madvise", "mlock", "munlock", "getpriority", "socket", "mount", "umount2", "ptrace", "keyctl",
	"bpf", "perf_event_open", "unshare", "setns", "chroot", "shmget", "msgget", "semget", "memfd_create", "personality",
	"splice", "tee", "eventfd2", "timerfd_create", "epoll_create1", "inotify_init1", "open_by_handle_at", "sysinfo", "uname",
	"getcpu", "times", "ioctl", "prctl", "process_vm_readv", "init_module", "reboot", "swapon", "sethostname", "syslog", "umask",
}

func (c *modelCase) writeProfile(probe string) {
	var b strings.Builder
	var allow, deny []string
	errnos := map[string]string{}
	var rules strings.Builder
	for _, name := range modelCalls {
		switch c.r.IntN(7) {
		case 0, 1:
			allow = append(allow, strconv.Quote(name))
		case 2:
			deny = append(deny, strconv.Quote(name))
		case 3:
			errnos[name] = pick(c.r, "EXDEV", "EL2HLT")
		case 4:
			action := pick(c.r, "SCMP_ACT_ALLOW\"", "SCMP_ACT_KILL_PROCESS\"", "SCMP_ACT_ERRNO\"\nerrno = \"EXDEV\"")
			if nr, ok := seccomp.Number(name); !ok || seccomp.ArgBits(nr, 0) == 0 || slices.Contains(argless, name) {
				continue
			}
			op := pick(c.r, "EQ", "NE", "LT", "GE")
			fmt.Fprintf(&rules, "[[seccomp.rule]]\nnames = [%q]\nargs = [{ index = 0, op = \"SCMP_CMP_%s\", value = %d }]\naction = \"%s\n", name, op, pick(c.r, 1, 2, 16), action)
		}
	}
	fmt.Fprintf(&b, "extends = [\"builtin:%s\"]\n[seccomp]\nallow = [\"setuid\", \"capget\", %s]\ndeny = [%s]\n[seccomp.errno]\n", pick(c.r, "static", "go", "node"), strings.Join(allow, ", "), strings.Join(deny, ", "))
	for name, errno := range errnos {
		fmt.Fprintf(&b, "%s = %q\n", name, errno)
	}
	b.WriteString(rules.String())
	fmt.Fprintf(&b, "[violation]\nseccomp = \"deny\"\npids = \"deny\"\nmemory = \"deny\"\n")
	fmt.Fprintf(&b, "[resources]\nmemory.max = \"%dM\"\npids.max = %d\nrlimit.nofile = { soft = %d, hard = %d }\n", 48+c.r.IntN(4)*16, 8+c.r.IntN(20), 10+c.r.IntN(10), 20+c.r.IntN(50))
	fmt.Fprintf(&b, "[tmp]\nsize = \"%dK\"\n[data]\nsize = \"%dK\"\n[shm]\nsize = \"%dK\"\ninodes = 64\n[identity]\nuid = %d\n", 64+c.r.IntN(64)*4, 64+c.r.IntN(64)*4, c.r.IntN(2)*256, 1000+c.r.IntN(3))
	fmt.Fprintf(&b, "[[files]]\npath = \"/probe\"\nfrom = %q\naccess = \"rx\"\n", probe)
	for at, access := range map[string]string{"/one": `["read_file"]`, "/two": `"r"`} { // Landlock's rules are of inodes
		fmt.Fprintf(&b, "[[files]]\npath = %q\nfrom = %q\naccess = %s\n", at, c.at("ro"), access)
	}
	tree := pick(c.r, "ro", "rw", "open", "rw")
	b.WriteString(c.grant("/a", tree))
	b.WriteString(c.grant("/b", pick(c.r, "ro", "rw", "over", tree, tree))) // one inode, two grants
	if c.r.IntN(4) > 0 {
		b.WriteString(c.grant("/a/dir", pick(c.r, "over", "rw", "ro")))
	}
	if c.r.IntN(2) > 0 {
		b.WriteString(c.grant("/b/closed", "over"))
	}
	if c.r.IntN(2) > 0 {
		b.WriteString(c.grant("/single", "single"))
	}
	for _, place := range []string{"/tmp/in", "/a/dir/deep", "/b/tools", "/b/mine", "/tmp", "/a/plain"} { // over tmpfs, trees, a link, a file
		if c.r.IntN(12) == 0 {
			b.WriteString(c.grant(place, pick(c.r, "ro", "rw", "over", "single")))
		}
	}
	c.profile = b.String()
	c.must(os.WriteFile(c.at("profile.toml"), []byte(c.profile), 0o600))
}

// argless take no argument that a rule could be about.
var argless = []string{"getppid", "sched_yield"}

// places are paths in a tree, plain and not.
var places = []string{
	"plain", "secret", "prog", "onlyroot", "dir", "dir/in", "dir/ro", "dir/rw", "dir/over", "dir/plain", "closed/x", "closed/plain",
	"sticky/x", "theirs", "shared", "mine/x", "writeonly", "hard", "abs", "up", "dangling", "loop", "tools/in", "tools/plain", "deep",
	"etc", "root/b/plain", "dir/../plain", "tools/../plain", "../b/plain", "self/self/plain", "nothing", "plain/x", "plain/", "./prog", "",
	"dir/", "tools/", "self/", "abs/", "dangling/", "loop/", "dir/.", "dir/..", "dir/../", "deep/", "//plain", "tools/./in", "tools", "mine", "up/..",
}

// elsewhere are paths that every plugin sees, or none.
var elsewhere = []string{
	"/etc/passwd", "/etc/shadow", "/etc/hostname", "/dev/null", "/dev/zero", "/dev", "/dev/mem", "/", "/tmp", "/data", "/usr/bin/env",
	"/proc/self/status", "/proc/sys/kernel/hostname", "/root/.bashrc", "/single", "/probe", "/a", "/b", "/sys", "/dev/fd",
}

func (c *modelCase) file() string {
	switch c.r.IntN(5) {
	case 0:
		return pick(c.r, elsewhere...)
	case 1:
		return "/b/" + pick(c.r, places...)
	case 2:
		return pick(c.r, "/a/dir/", "/b/closed/") + pick(c.r, places...)
	}
	return "/a/" + pick(c.r, places...)
}

// fresh is a name that no other question is about, in a directory.
func (c *modelCase) fresh(name string) string {
	c.unique++
	dir := pick(c.r, "/a", "/b", "/a/dir", "/tmp/in", "/b/mine", "/a/sticky", "/b/mine", "/tmp", "/data", "/a/self", "/b/tools", "/", "/a/closed", "/nowhere")
	return fmt.Sprintf("%s/%s%d", strings.TrimSuffix(dir, "/"), name, c.unique)
}

// ask makes the questions; what changes files comes last and is about names of
// its own.
func (c *modelCase) ask() {
	add := func(kind string, words ...string) {
		c.questions = append(c.questions, question{kind: kind, words: words})
	}
	for range 14 {
		add("file", pick(c.r, "read", "list", "write", "execute", "read", "write"), c.file())
	}
	for _, dir := range []string{"/a", "/b", "/a/dir", "/one"} {
		add("file", "list", dir)
	}
	for range 6 {
		add("file", pick(c.r, "read", "write"), pick(c.r, "/a/", "/b/")+pick(c.r, "plain", "theirs", "hard", "shared", "mine/x", "up", "prog"))
	}
	for range 8 {
		c.askCall()
	}
	c.askQuotas()
	for _, uid := range []string{"0", "1000", "1001", "1002", "65534"} {
		add("identity", "become", uid)
	}
	number, name := 0, ""
	number = c.r.IntN(2)*21 + c.r.IntN(2)
	name = map[int]string{0: "cap_chown", 1: "cap_dac_override", 21: "cap_sys_admin", 22: "cap_sys_boot"}[number]
	c.questions = append(c.questions, question{kind: "identity", words: []string{"hold", name}, probe: []string{"hold", strconv.Itoa(number)}})
	add("file", "truncate", c.file())
	for range 3 {
		add("file", "create", c.fresh("new"))
	}
	add("file", "mkdir", c.fresh("newdir"))
	add("file", "symlink", c.fresh("link"))
	slash := pick(c.r, "/", "//", "/.", "/..", "/")
	add("file", pick(c.r, "create", "mkdir", "mkdir", "symlink"), c.fresh("ending")+slash)
	add("file", pick(c.r, "create", "mkdir", "symlink"), pick(c.r, "/a/", "/b/")+pick(c.r, "dangling", "dangling/", "abs/", "loop/", "self/.", "dir/..", "plain"))
	add("file", "rmdir", pick(c.r, "/a", "/b", "/a/dir", "/a/self", "/tmp/in")+fmt.Sprintf("/empty%d", c.r.IntN(4))+pick(c.r, "", "/", "/."))
	add("file", "rmdir", pick(c.r, "/a", "/b", "/b/tools/..")+pick(c.r, "/plain", "/self", "/self/", "/nothing", "/empty7", "/dangling"))
	for i := range 4 {
		add("file", "remove", pick(c.r, "/a", "/b", "/a/dir", "/a/self", "/b/closed")+fmt.Sprintf("/victim%d", i))
	}
}

// callArgs are arguments that do no harm whatever the filter says, and that the
// kernel answers otherwise than the filter would.
var callArgs = map[string][]string{
	"socket": {"1 1 0", "16 3 0", "2 1 0", "4294967297 1 0"},
	"ioctl":  {"-1 0x5401", "-1 0x5412", "-1 0x1234", "-1 0x541b"},
	"prctl":  {"3", "4 0", "7", "16 0", "22 0", "38 1", "23 0"},
	"personality": {
		"0xffffffff", "8", "0",
	},
	"madvise": {"0 0 0", "4096 0 0"}, "eventfd2": {"0 0", "1 0", "2 0", "16 0"}, "timerfd_create": {"1 0", "2 0", "16 0"},
	"shmget": {"1 0 0", "17 0 0"}, "ptrace": {"16 -1 0 0"}, "umask": {"18", "2", "1"}, "reboot": {"0 0 0 0", "16 0 0 0"},
	"splice": {"-1 0 -1 0 0 0"}, "tee": {"-1 -1 0 0"}, "sysinfo": {"0", "1", "16"}, "mlock": {"0 0", "16 0"},
	"perf_event_open": {"0 0 -1 -1 0"}, "setns": {"-1 0", "1 0"}, "syslog": {"99 0 0", "1 0 0"},
}

func (c *modelCase) askCall() {
	name := pick(c.r, modelCalls...)
	if c.r.IntN(4) == 0 {
		name = pick(c.r, "socket", "ioctl", "prctl", "personality", "eventfd2")
	}
	words := []string{name}
	if list := callArgs[name]; list != nil {
		words = append(words, strings.Fields(pick(c.r, list...))...)
	} else if !slices.Contains(argless, name) {
		words = append(words, pick(c.r, "0", "1", "2", "16"))
	}
	nr, ok := seccomp.Number(name)
	if !ok {
		c.t.Fatalf("there is no call %s", name)
	}
	if len(words) == 1 {
		words = append(words, "0") // without arguments, can answers for all of them
	}
	probe := append([]string{"call", strconv.Itoa(nr)}, words[1:]...)
	for _, q := range c.questions { // one violation must be one question's
		if slices.Equal(q.probe, probe) {
			return
		}
	}
	c.questions = append(c.questions, question{kind: "call", words: append([]string{"call"}, words...), probe: probe})
}

// askQuotas asks below and above each bound; a few processes, and a few pages of
// the program itself, are the slack.
func (c *modelCase) askQuotas() {
	size := func(text string, factor int) string {
		n, err := strconv.Atoi(strings.Trim(text, "KM"))
		c.must(err)
		unit := map[byte]int{'K': 1 << 10, 'M': 1 << 20}[text[len(text)-1]]
		return strconv.Itoa(n * unit / 4 * factor)
	}
	add := func(what, amount string) {
		c.questions = append(c.questions, question{kind: "quota", words: []string{"use", what, amount}})
	}
	field := func(before string) string {
		_, after, _ := strings.Cut(c.profile, before)
		text, _, _ := strings.Cut(after, "\n")
		return strings.Trim(text, "\" =")
	}
	add("tmp", size(field("[tmp]\nsize"), 4))
	add("tmp", size(field("[tmp]\nsize"), 5))
	add("data", size(field("[data]\nsize"), pick(c.r, 3, 6)))
	add("shm", pick(c.r, "4096", "262144", "300000"))
	add("memory", size(field("memory.max"), pick(c.r, 2, 8)))
	n, err := strconv.Atoi(field("pids.max"))
	c.must(err)
	add("pids", strconv.Itoa(pick(c.r, n-3, n+1, 2*n)))
	_, hard, _ := strings.Cut(field("rlimit.nofile"), "hard = ")
	n, err = strconv.Atoi(strings.Trim(hard, " }"))
	c.must(err)
	add("files", strconv.Itoa(pick(c.r, n, n+1, n+20)))
}

// modelAnswer is what cordon profile can --json prints.
type modelAnswer struct {
	Can bool
	Why []struct{ Wall, Text, Origin string }
	// Path is the way to a file, Mount what it was computed for, Time when.
	Path  []string
	Mount string
	Time  time.Time
}

// startless is why the model says that nothing would start; empty if something
// would.
func (c *modelCase) startless() string {
	out, err := exec.Command(bin+"/cordon", "profile", "can", c.at("profile.toml"), "call", "getpid").CombinedOutput()
	if text := string(out); err != nil && strings.Contains(text, "nothing would start") {
		return text
	}
	return ""
}

// mustNotStart holds that the launcher finds the same.
func (c *modelCase) mustNotStart(why string) {
	c.t.Helper()
	cmd := exec.Command(bin+"/cordon", "run", "--profile", c.at("profile.toml"), "--", "/probe")
	cmd.Env = append(os.Environ(), "CORDON_CGROUP_ROOT=cordon-it-model")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 125 {
		c.t.Errorf("the model says %s; it starts (%v): %s\n%s", why, err, out, c.profile)
	}
}

// can asks the model, before the probe changes any file.
func (c *modelCase) can() []modelAnswer {
	c.t.Helper()
	answers := make([]modelAnswer, len(c.questions))
	for i, q := range c.questions {
		cmd := exec.Command(bin+"/cordon", append([]string{"profile", "can", "--json", c.at("profile.toml"), "--"}, q.words...)...)
		var out, complaint bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaint
		err := cmd.Run()
		if status := cmd.ProcessState.ExitCode(); status > 1 {
			c.t.Fatalf("cordon profile can %v: %v %s\n%s", q.words, err, complaint.String(), c.profile)
		}
		c.must(json.Unmarshal(out.Bytes(), &answers[i]))
		if answers[i].Time.IsZero() || (q.kind == "file") != (answers[i].Mount != "") {
			c.t.Errorf("%v: the answer is for mount %q at %v", q.words, answers[i].Mount, answers[i].Time)
		}
		if answers[i].Can != (cmd.ProcessState.ExitCode() == 0) {
			c.t.Errorf("%v: %v with exit status %d", q.words, answers[i].Can, cmd.ProcessState.ExitCode())
		}
	}
	return answers
}

// found is what the probe found.
type found struct {
	can  bool
	text string
}

// probe runs the probe inside the walls. A call that the filter refused is known
// by its violation, its signal, or an errno that the kernel has not for it.
func (c *modelCase) probe() []found {
	c.t.Helper()
	var in, out, complaint bytes.Buffer
	for _, q := range c.questions {
		words := q.words
		if q.probe != nil {
			words = q.probe
		}
		in.WriteString(strings.Join(words, " ") + "\n")
	}
	report := c.at("report")
	cmd := exec.Command(bin+"/cordon", "run", "--profile", c.at("profile.toml"), "--report", report, "--", "/probe")
	cmd.Env = append(os.Environ(), "CORDON_CGROUP_ROOT=cordon-it-model")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &complaint
	err := cmd.Run()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err != nil || len(lines) != len(c.questions) {
		c.t.Fatalf("%d answers to %d questions, %v: %s\n%s", len(lines), len(c.questions), err, complaint.String(), c.profile)
	}
	violated := c.violations(report)
	answers := make([]found, len(lines))
	for i, line := range lines {
		_, text, _ := strings.Cut(line, " ")
		answers[i] = c.judge(c.questions[i], text, violated)
	}
	return answers
}

func (c *modelCase) judge(q question, text string, violated map[string]bool) found {
	if q.kind != "call" {
		return found{text == "ok", text}
	}
	refusals := []string{"errno " + strconv.Itoa(int(syscall.EXDEV)), "errno " + strconv.Itoa(int(syscall.EL2HLT)), "killed " + strconv.Itoa(int(syscall.SIGSYS))}
	switch q.words[1] {
	case "ioctl":
		refusals = append(refusals, "errno "+strconv.Itoa(int(syscall.ENOTTY)))
	case "prctl":
		refusals = append(refusals, "errno "+strconv.Itoa(int(syscall.EINVAL)))
	case "socket":
		refusals = append(refusals, "errno "+strconv.Itoa(int(syscall.EAFNOSUPPORT)))
	case "chown", "lchown", "fchown":
		refusals = append(refusals, "errno "+strconv.Itoa(int(syscall.EPERM)))
	}
	if violated[strings.Join(q.probe[1:], " ")] {
		return found{false, "violation, " + text}
	}
	return found{!slices.Contains(refusals, text), text}
}

// violations are the calls that were refused, as "NUMBER ARG...".
func (c *modelCase) violations(report string) map[string]bool {
	c.t.Helper()
	f, err := os.Open(report)
	c.must(err)
	defer f.Close()
	calls := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var v struct {
			Kind, Call string
			RawArgs    []uint64 `json:"raw_args"`
		}
		c.must(json.Unmarshal(lines.Bytes(), &v))
		if v.Kind != "violation" || v.Call == "" {
			continue
		}
		for _, q := range c.questions {
			if q.kind == "call" && q.words[1] == v.Call && sameArgs(q.probe[2:], v.RawArgs) {
				calls[strings.Join(q.probe[1:], " ")] = true
			}
		}
	}
	return calls
}

func sameArgs(words []string, args []uint64) bool {
	for i, w := range words {
		n, err := strconv.ParseInt(w, 0, 64)
		if err != nil || i >= len(args) || uint64(n) != args[i] {
			return false
		}
	}
	return true
}
