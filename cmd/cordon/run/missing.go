package run

import (
	"bufio"
	"bytes"
	"debug/elf"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// maxInterpreters is how often a program may name another that runs it.
const maxInterpreters = 5

// notShown says which file kept a command from being executed: the program, or
// what it says that it is run by. It knows where the host has them; ok is false
// if all of them are granted, or are not there.
func notShown(p *plan.Plan, argv0 string) (v violation.Violation, ok bool) {
	name := program(p, argv0)
	for range maxInterpreters {
		if name == "" {
			break
		}
		host, shown := onHost(p, name)
		if _, err := os.Stat(host); err != nil {
			break
		}
		if !shown {
			return violation.Violation{Wall: violation.Files, What: "execute " + name, Path: name, Access: "execute"}, true
		}
		if real, err := filepath.EvalSymlinks(host); err == nil && real != host && host == name {
			if _, shown := onHost(p, real); !shown && !grantedItself(p, name) {
				return violation.Violation{Wall: violation.Files, What: "execute " + real, Path: real, Access: "execute"}, true
			}
		}
		name = interpreter(host)
	}
	return v, false
}

// program is the path of a command inside, as far as the host has it.
func program(p *plan.Plan, argv0 string) string {
	if strings.Contains(argv0, "/") {
		return merged(path.Join("/", map[bool]string{true: "", false: p.Process.Cwd}[path.IsAbs(argv0)], argv0))
	}
	search := ""
	for _, pair := range p.Process.Env {
		if value, ok := strings.CutPrefix(pair, "PATH="); ok {
			search = value
		}
	}
	for _, dir := range filepath.SplitList(search) {
		name := merged(path.Join(dir, argv0))
		host, _ := onHost(p, name)
		if info, err := os.Stat(host); err == nil && info.Mode().IsRegular() {
			return name
		}
	}
	return ""
}

// merged goes through the links at the root of every plugin.
func merged(name string) string {
	for _, link := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(name, link) {
			return "/usr" + name
		}
	}
	return name
}

// onHost is what a path inside would be on the host, and whether a grant shows
// it there to be executed.
func onHost(p *plan.Plan, name string) (host string, shown bool) {
	host, deepest := name, -1
	for _, f := range p.Files {
		rest, ok := strings.CutPrefix(name, f.Path)
		if !ok || rest != "" && rest[0] != '/' || len(f.Path) <= deepest {
			continue
		}
		host, deepest, shown = path.Join(f.From, rest), len(f.Path), slices.Contains(f.Access, "execute")
	}
	return host, shown
}

func grantedItself(p *plan.Plan, name string) bool {
	return slices.ContainsFunc(p.Files, func(f plan.File) bool { return f.Path == name })
}

// maxHeader bounds what is read of a script's first line; execve(2).
const maxHeader = 256

// interpreter is what runs a program by its own words: the first line of a
// script, or the loader that a dynamic program names; "" if there is none.
func interpreter(host string) string {
	f, err := os.Open(host)
	if err != nil {
		return ""
	}
	defer f.Close()
	if head, err := bufio.NewReaderSize(f, maxHeader).Peek(2); err == nil && string(head) == "#!" {
		line := make([]byte, maxHeader)
		n, _ := f.ReadAt(line, 2) // what there is of it
		first, _, _ := bytes.Cut(line[:n], []byte("\n"))
		if words := strings.Fields(string(first)); len(words) > 0 {
			return merged(words[0])
		}
		return ""
	}
	program, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, part := range program.Progs {
		if part.Type != elf.PT_INTERP {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(part.Open(), 4096))
		if err != nil {
			return ""
		}
		return merged(strings.TrimRight(string(text), "\x00"))
	}
	return ""
}
