package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// wantedPackages are those of the host that the guest gets, with what they
// depend on: shells and tools that tests call, interpreters that plugins need,
// and the C compiler with which tests make the smallest programs.
var wantedPackages = []string{
	"bash", "dash", "coreutils", "findutils", "grep", "sed", "mawk", "hostname", "procps", "netbase",
	"util-linux", "mount", "e2fsprogs", "kmod", "libc-bin", "python3", "tar", "gcc", "libc6-dev", "stress-ng",
}

// unwanted packages are depended on and not needed there.
var unwanted = []string{"debconf", "dpkg", "perl-base", "perl", "adduser", "passwd", "init-system-helpers", "libasan8", "libtsan2", "liblsan0", "libubsan1", "media-types", "libegl-mesa0", "libgl1-mesa-dri", "libglapi-mesa", "libx11-data", "xkb-data"}

// unwantedFiles are left out of every package.
var unwantedFiles = []string{"/usr/share/doc", "/usr/share/man", "/usr/share/info", "/usr/share/locale", "/usr/share/lintian", "/usr/share/bash-completion", "/etc"}

// unwantedEnds are large and of no use to a compiler of small programs.
var unwantedEnds = []string{"/lto1", "-lto-dump-12", "/libasan.a", "/libtsan.a", "/liblsan.a", "/libubsan.a", "/libhwasan.a", "-dwp", "-ld.gold", "/libgprofng.so.0.0.0"}

// addPackages copies the files of the host's packages to where they really are:
// a package may list /bin/sh where /bin is a link to /usr/bin.
func addPackages(ctx context.Context, a *stage) error {
	list, err := closure(ctx)
	if err != nil {
		return err
	}
	out, err := output(command(ctx, "dpkg-query", append([]string{"-L"}, list...)...))
	if err != nil {
		return err
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		if target, err := os.Readlink("/" + link); err == nil {
			a.link(link, target)
		}
	}
	real := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		file := s.Text()
		if !strings.HasPrefix(file, "/") || file == "/." || slices.ContainsFunc(unwantedFiles, func(dir string) bool { return strings.HasPrefix(file, dir) }) || slices.ContainsFunc(unwantedEnds, func(end string) bool { return strings.HasSuffix(file, end) }) {
			continue
		}
		if err := addFile(a, file, real); err != nil {
			return err
		}
	}
	// Links that packages make when they are installed, and not as files.
	for _, name := range []string{"/usr/bin/sh", "/usr/bin/awk", "/usr/bin/which"} {
		if target, err := filepath.EvalSymlinks(name); err == nil {
			a.link(name, target)
		}
	}
	return a.err
}

// addFile copies one file; real remembers what directories really are.
func addFile(a *stage, file string, real map[string]string) error {
	dir := path.Dir(file)
	if _, ok := real[dir]; !ok {
		resolved, err := filepath.EvalSymlinks(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // such as what was diverted or removed by hand
		}
		if err != nil {
			return err
		}
		real[dir] = resolved
	}
	file = path.Join(real[dir], path.Base(file))
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
		return nil // directories come with what is in them
	}
	if err != nil {
		return err
	}
	if !a.have[strings.TrimPrefix(file, "/")] {
		a.copy(file, file)
		addCompiled(a, file)
	}
	return a.err
}

// addCompiled adds what Python made of a module when its package was installed:
// without it each start compiles them anew, which takes seconds in a guest.
func addCompiled(a *stage, file string) {
	stem, ok := strings.CutSuffix(path.Base(file), ".py")
	if !ok {
		return
	}
	compiled, _ := filepath.Glob(path.Join(path.Dir(file), "__pycache__", stem+".cpython-*.pyc"))
	for _, c := range compiled {
		a.copy(c, c)
	}
}

// closure is the wanted packages and what they depend on, as installed here.
func closure(ctx context.Context) ([]string, error) {
	out, err := output(command(ctx, "dpkg-query", "-W", "-f=${db:Status-Abbrev}\t${binary:Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n"))
	if err != nil {
		return nil, err
	}
	depends, provider := map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 4 || !strings.HasPrefix(f[0], "ii") {
			continue
		}
		name := bare(f[1])
		depends[name] = f[2]
		provider[name] = name
		for _, p := range strings.Split(f[3], ",") {
			if virtual := bare(p); virtual != "" && provider[virtual] == "" {
				provider[virtual] = name
			}
		}
	}
	var list []string
	for todo := slices.Clone(wantedPackages); len(todo) > 0; {
		name := provider[todo[0]]
		if name == "" && slices.Contains(wantedPackages, todo[0]) {
			return nil, fmt.Errorf("cannot build the guest's root: package %s is not installed here (.ci/setup vm installs it)", todo[0])
		}
		todo = todo[1:]
		if name == "" || slices.Contains(list, name) || slices.Contains(unwanted, name) {
			continue
		}
		list = append(list, name)
		for _, d := range strings.FieldsFunc(depends[name], func(r rune) bool { return r == ',' || r == '|' }) {
			if on := bare(d); on != "" {
				todo = append(todo, on)
			}
		}
	}
	return list, nil
}

// bare is a package's name without version and architecture.
func bare(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexAny(s, " (:"); i >= 0 {
		s = s[:i]
	}
	return s
}
