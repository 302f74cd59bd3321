package record

import (
	"bytes"
	"debug/elf"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/seccomp"
)

// maxInterpreters bounds how far scripts name scripts; the kernel's bound is
// four (BINPRM's recursion).
const maxInterpreters = 4

// needs are the paths that the kernel opens by itself to execute a program: the
// program, the interpreter of a script, the loader of a dynamic one. host says
// where a path is on the host.
func needs(host func(string) string, program string, env []string) []string {
	file := find(host, program, env)
	var out []string
	for range maxInterpreters {
		if file = plain(file); file == "" || slices.Contains(out, file) {
			break
		}
		out = append(out, file)
		at := host(file)
		// A program looks for its own beside where it really lies.
		if real, err := filepath.EvalSymlinks(at); err == nil && at == file && real != file && host(real) == real && !slices.Contains(out, real) {
			out = append(out, real)
		}
		file = interpreter(at)
	}
	return out
}

// find looks a program up as execvp(3) does.
func find(host func(string) string, program string, env []string) string {
	if strings.Contains(program, "/") {
		return program
	}
	dirs := "/usr/local/bin:/usr/bin:/bin"
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			dirs = value
		}
	}
	for _, dir := range filepath.SplitList(dirs) {
		file := path.Join(dir, program)
		if info, err := os.Stat(host(file)); err == nil && info.Mode().IsRegular() {
			return file
		}
	}
	return ""
}

// interpreter is what the kernel executes a file by; "" if by itself.
func interpreter(file string) string {
	f, err := os.Open(file) // #nosec G304 -- the operator's program
	if err != nil {
		return ""
	}
	defer f.Close()
	line := make([]byte, 256)
	n, err := io.ReadFull(f, line)
	if err != nil && n == 0 {
		return ""
	}
	if rest, ok := bytes.CutPrefix(line[:n], []byte("#!")); ok {
		first, _, _ := bytes.Cut(rest, []byte("\n"))
		if words := strings.Fields(string(first)); len(words) > 0 {
			return words[0]
		}
		return ""
	}
	program, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz <= 4096 {
			name, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
			if err == nil {
				return strings.TrimRight(string(name), "\x00")
			}
		}
	}
	return ""
}

// Coverage is what a program's code could call against what was seen. It bounds
// nothing: a function may make calls that nobody knows of.
type Coverage struct {
	// Unknown is why nothing can be said; the rest is empty then.
	Unknown string `json:"unknown,omitempty"`
	// Could are the calls behind the functions that the program imports, Seen
	// those of them that were seen, Unseen the others.
	Could, Seen int
	Unseen      []string
}

// interpreters are programs whose code is what they read.
var interpreters = []string{
	"python", "node", "nodejs", "java", "ruby", "perl", "sh", "bash", "dash", "busybox", "lua", "luajit", "php", "deno", "bun", "awk", "gawk", "mawk",
	"tclsh", "guile", "Rscript", "julia", "erl", "dotnet", "mono", "pypy", "wasmtime", "qemu",
}

// Cover tells how much of what a program could call a recording has seen. file
// is the program on the host.
func Cover(r *Recording, file string) Coverage {
	if why := uncoverable(file); why != "" {
		return Coverage{Unknown: why}
	}
	program, err := elf.Open(file)
	if err != nil {
		return Coverage{Unknown: "it is not an ELF file"}
	}
	defer program.Close()
	symbols, err := program.ImportedSymbols()
	if err != nil || len(symbols) == 0 {
		return Coverage{Unknown: "it is linked statically, and imports no function whose name would tell"}
	}
	could := map[string]bool{}
	for _, s := range symbols {
		if why := openEnded[s.Name]; why != "" {
			return Coverage{Unknown: "it imports " + s.Name + ", " + why}
		}
		for _, call := range behind(s.Name) {
			could[call] = true
		}
	}
	return r.against(could)
}

func (r *Recording) against(could map[string]bool) Coverage {
	c := Coverage{Could: len(could)}
	for call := range could {
		if r.Calls[call] != nil || slices.Contains(seccomp.AlwaysAllowed(), call) {
			c.Seen++
			continue
		}
		c.Unseen = append(c.Unseen, call)
	}
	slices.Sort(c.Unseen)
	return c
}

// uncoverable is why a program's imports say nothing of what it does.
func uncoverable(file string) string {
	if file == "" {
		return "the program was not found"
	}
	if by := interpreter(file); by != "" && !isELF(file) {
		return "it is a script: what " + path.Base(by) + " does depends on what it reads"
	}
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return "the program cannot be read"
	}
	name := strings.TrimRight(path.Base(real), "0123456789.-")
	if slices.Contains(interpreters, name) {
		return "it is an interpreter: what it does depends on what it reads"
	}
	return ""
}

func isELF(file string) bool {
	f, err := elf.Open(file)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// openEnded are functions after which imports tell nothing.
var openEnded = map[string]string{
	"syscall": "which makes any call by number",
	"dlopen":  "which loads code that is not named in the program",
	"dlmopen": "which loads code that is not named in the program",
}

// behind are the system calls behind a function of the C library, as far as
// names tell: the call of that name, or those of a table of what wraps others.
// Sources: the manual pages of section 3, glibc.
func behind(function string) []string {
	function, _, _ = strings.Cut(function, "@")
	if calls, ok := wrapped[function]; ok {
		return calls
	}
	name := strings.TrimSuffix(strings.TrimPrefix(function, "__"), "64")
	if calls, ok := wrapped[name]; ok {
		return calls
	}
	if knownCall(name) {
		return []string{name}
	}
	return nil
}

var wrapped = map[string][]string{
	"open": {"openat"}, "creat": {"creat"}, "fopen": {"openat", "close", "newfstatat", "read", "write"}, "freopen": {"openat"}, "opendir": {"openat"},
	"readdir": {"getdents64"}, "scandir": {"openat", "getdents64"}, "stat": {"newfstatat"}, "lstat": {"newfstatat"}, "fstat": {"newfstatat"},
	"xstat": {"newfstatat"}, "fxstat": {"newfstatat"}, "lxstat": {"newfstatat"}, "fstatat": {"newfstatat"},
	"fork": {"clone"}, "vfork": {"vfork"}, "system": {"clone", "wait4"}, "popen": {"clone", "pipe2"}, "posix_spawn": {"clone"}, "posix_spawnp": {"clone"},
	"wait": {"wait4"}, "waitpid": {"wait4"}, "pthread_create": {"clone", "mmap", "mprotect"}, "pthread_join": {"futex"}, "sem_wait": {"futex"},
	"pthread_mutex_lock": {"futex"}, "pthread_cond_wait": {"futex"}, "signal": {"rt_sigaction"}, "sigaction": {"rt_sigaction"},
	"sigprocmask": {"rt_sigprocmask"}, "pthread_sigmask": {"rt_sigprocmask"}, "raise": {"tgkill"}, "abort": {"tgkill"}, "pthread_kill": {"tgkill"},
	"recv": {"recvfrom"}, "send": {"sendto"}, "select": {"pselect6"}, "pselect": {"pselect6"}, "epoll_wait": {"epoll_wait"},
	"malloc": {"brk"}, "calloc": {"brk"}, "realloc": {"brk"}, "printf": {"write"}, "puts": {"write"}, "putchar": {"write"}, "fwrite": {"write"}, "fflush": {"write"},
	"printf_chk": {"write"}, "fprintf": {"write"}, "fprintf_chk": {"write"}, "fread": {"read"}, "fgets": {"read"}, "getline": {"read"}, "scanf": {"read"},
	"sleep": {"clock_nanosleep"}, "usleep": {"clock_nanosleep"}, "nanosleep": {"clock_nanosleep"}, "exit": {"exit_group"}, "_exit": {"exit_group"},
	"execl": {"execve"}, "execlp": {"execve"}, "execv": {"execve"}, "execvp": {"execve"}, "fexecve": {"execveat"}, "getaddrinfo": {"socket", "connect"},
	"gethostbyname": {"socket", "connect"}, "getpwnam": {"socket", "connect", "openat"}, "getpwuid": {"socket", "connect", "openat"},
	"isatty": {"ioctl"}, "tcgetattr": {"ioctl"}, "tcsetattr": {"ioctl"}, "remove": {"unlink"}, "tmpfile": {"openat"}, "mkstemp": {"openat"}, "mkdtemp": {"mkdir"},
	"shm_open": {"openat"}, "sem_open": {"openat"}, "getcwd": {"getcwd"}, "realpath": {"readlink"}, "fseek": {"lseek"}, "rewind": {"lseek"}, "inotify_init": {"inotify_init1"},
	"sysconf": nil, "time": nil, "gettimeofday": nil, "clock_gettime": nil, "getcpu": nil, // answered without a call (vdso(7)), or from memory
}
