package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cordonhq/cordon/integration/vm/outage"
	"github.com/cordonhq/cordon/integration/vm/stream"
	"github.com/cordonhq/cordon/integration/vm/volatile"
)

const (
	stateDisk = "64M"
	// outageMemory is of a guest whose power goes, in MiB; it has little to do.
	outageMemory = 512
	// bootDeadline ends a guest that does not get to where its power goes.
	bootDeadline = 10 * time.Minute
	// An outage comes so many writes, at most, after the disk was mounted, or
	// after the guest was up.
	writesAtStart, writesAtWork = 40, 600
)

// errOutage ends a guest.
var errOutage = errors.New("the power went")

// outages is guests one after the other on one disk, whose power goes again and
// again: the virtual machine is killed, and of what its disk was not told to
// flush any part is lost.
type outages struct {
	dir    string // where its files are
	m      machine
	disk   *volatile.Disk
	judge  *outage.Judge
	rand   *rand.Rand
	socket net.Listener
	// atStart is how many came while a guest started.
	kept, lost, atStart int
	said                []string // by the guest, through the last outages
}

// remembered is how many lines of a guest's are shown when a promise was broken.
const remembered = 1000

// runOutages has the power go n times. seed replays: the same moments, by the
// writes of the disk, though the guest schedules as it likes.
func runOutages(ctx context.Context, o options, n int, seed uint64) (err error) {
	k, err := fetchKernel(ctx, o.dir, o.kernels[0])
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cordon-outages-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	run := &outages{dir: dir, judge: outage.NewJudge(), rand: rand.New(rand.NewPCG(seed, 0))} // #nosec G404 -- a test's
	root, err := outageRoot(ctx, dir, k)
	if err != nil {
		return err
	}
	if run.disk, err = emptyDisk(ctx, dir); err != nil {
		return err
	}
	if run.socket, err = net.Listen("unix", dir+"/disk.sock"); err != nil {
		return err
	}
	defer func() { _ = run.socket.Close() }()
	go run.serve()
	run.m = machine{
		clock:  emulatedClock,
		kernel: k.vmlinuz, disk: root, log: dir + "/console.log", accel: chooseAccel(ctx, dir, k),
		more: []string{
			"-m", strconv.Itoa(outageMemory) + "M", "-drive", "file=nbd:unix:" + dir + "/disk.sock,format=raw,if=none,id=data,cache=writeback",
			"-device", "nvme,drive=data,serial=data",
		},
	}
	for i := range n {
		if err := run.once(ctx); err != nil {
			return run.explain(i, seed, err)
		}
		if i%10 == 9 {
			say("outages: %d", i+1)
		}
	}
	if err := run.last(ctx); err != nil {
		return run.explain(n, seed, err)
	}
	say("outages: %d, %d of them in the middle of a start; of what was not flushed %d sectors were kept and %d lost; the guest was told %v: all of it was kept", n, run.atStart, run.kept, run.lost, run.judge.Told)
	return nil
}

func (o *outages) explain(n int, seed uint64, err error) error {
	return fmt.Errorf("after outage %d of seed %d: %w; the guests said:\n%s\nand the console of the last one:\n%s", n, seed, err, strings.Join(o.said, "\n"), tail(o.m.log))
}

func (o *outages) serve() {
	for {
		c, err := o.socket.Accept()
		if err != nil {
			return
		}
		go func() {
			if err := o.disk.Serve(c); err != nil {
				say("outages: %v", err)
			}
		}()
	}
}

// once is one boot and the end of its power.
func (o *outages) once(ctx context.Context) error {
	atStart := o.rand.IntN(5) == 0
	limit := o.rand.IntN(writesAtWork)
	if atStart {
		limit = o.rand.IntN(writesAtStart)
		o.atStart++
	}
	o.said = append(o.said, fmt.Sprintf("-- the power is back, and goes after %d writes (at start: %v)", limit, atStart))
	err := o.boot(ctx, func(cut func()) {
		o.disk.DarkAfter(limit)
		dark := o.disk.Dark()
		go func() {
			<-dark
			cut()
		}()
	}, atStart)
	kept, lost := o.disk.Cut(o.rand, []float64{0, 0.5, 1, o.rand.Float64()}[o.rand.IntN(4)])
	o.kept, o.lost = o.kept+kept, o.lost+lost
	return err
}

// last is a boot that is only looked at.
func (o *outages) last(ctx context.Context) error {
	err := o.boot(ctx, func(cut func()) { cut() }, false)
	o.disk.Cut(o.rand, 0)
	return err
}

// boot runs a guest until its power is cut, which then arranges: when its disk
// is about to be mounted, or when it is up.
func (o *outages) boot(ctx context.Context, then func(cut func()), atStart bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, stop := context.WithTimeout(ctx, bootDeadline)
	defer stop()
	o.judge.PowerIsBack()
	begun := false
	var broken error
	err := o.m.boot(ctx, func(line string) {
		if broken != nil {
			return
		}
		if o.said = append(o.said, line); len(o.said) > remembered {
			o.said = o.said[len(o.said)-remembered:]
		}
		if broken = o.judge.Line(line); broken != nil {
			cancel(broken)
			return
		}
		if !begun && (o.judge.Up() || atStart && line == outage.Format(outage.Mounting)) {
			begun = true
			then(func() { cancel(errOutage) })
		}
	})
	if broken != nil {
		return broken
	}
	if !errors.Is(err, errOutage) {
		return errors.Join(errors.New("the guest ended before its power went"), err)
	}
	return nil
}

// emptyDisk is the one that the daemon's state is on.
func emptyDisk(ctx context.Context, dir string) (*volatile.Disk, error) {
	content, err := emptyContent(ctx, dir)
	if err != nil {
		return nil, err
	}
	return volatile.New(content), nil
}

// emptyContent is a file system. ext4 writes its superblock, of two sectors,
// outside its journal: with a checksum of it, half a write would keep the disk from
// being mounted until e2fsck, which a host runs then and the guest has not, takes
// another of them.
func emptyContent(ctx context.Context, dir string) ([]byte, error) {
	file := filepath.Join(dir, "data.ext4")
	if _, err := output(command(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum", "-E", "root_owner=0:0", file, stateDisk)); err != nil {
		return nil, err
	}
	content, err := os.ReadFile(file)
	return content, errors.Join(err, os.Remove(file))
}

// outageProgram is a plugin that answers every line, and attacks when told to.
const outageProgram = `#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
static char line[65536];
int main(void) {
	while (fgets(line, sizeof line, stdin)) {
		char *id = strstr(line, "\"id\":");
		if (strstr(line, "\"attack\"")) mount("none", "/tmp", "tmpfs", 0, 0);
		if (!id || strstr(line, "$/cancelRequest")) continue;
		id += 5;
		id[strcspn(id, ",}\n")] = 0;
		printf("{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":1}\n", id);
		fflush(stdout);
	}
	return 0;
}
`

// outageRoot is a small root: the daemon, one plugin, and what the guest does.
func outageRoot(ctx context.Context, dir string, k *image) (string, error) {
	built := filepath.Join(dir, "built")
	if err := os.Mkdir(built, 0o755); err != nil { // #nosec G301 -- a guest's root
		return "", err
	}
	if err := os.WriteFile(built+"/main.c", []byte(outageProgram), 0o600); err != nil {
		return "", err
	}
	for name, p := range map[string]struct {
		way
		pkg string
	}{
		"cordond": {way{cgo: true}, "./cmd/cordond"}, "cuts": {way{}, "./integration/vm/cuts"}, "init": {way{}, "./integration/vm/guest"},
	} {
		flags, env := p.static()
		cmd := command(ctx, "go", append(append([]string{"build"}, flags...), "-o", built+"/"+name, p.pkg)...)
		cmd.Env = env
		if _, err := output(cmd); err != nil {
			return "", err
		}
	}
	if _, err := output(command(ctx, "gcc", "-O1", "-static", "-o", built+"/main", built+"/main.c")); err != nil {
		return "", err
	}
	a, err := newStage(filepath.Join(dir, "stage"))
	if err != nil {
		return "", err
	}
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "root", "var/lib", "data", "modules", "profiles"} {
		a.dir(d, 0o755)
	}
	for name, text := range etc {
		a.file("etc/"+name, 0o644, []byte(text))
	}
	suite, err := json.Marshal([]stream.Tier{{Name: "outages", Dir: "/", Argv: []string{"/cuts"}, Test: true}})
	a.err = errors.Join(a.err, err)
	a.file("suite.json", 0o644, suite)
	a.copy("init", built+"/init")
	a.copy("cuts", built+"/cuts")
	a.copy("loop.ko", k.modules+"/loop.ko")
	a.copy("bin/cordond", built+"/cordond")
	a.copy("plugin/main", built+"/main")
	a.file("plugin/plugin.toml", 0o644, []byte("schema = 1\n[plugin]\nname = \"wild\"\nversion = \"1.0.0\"\nexec = [\"./main\"]\nprotocol = \"jsonrpc\"\n"))
	a.file("profiles/patient.toml", 0o644, []byte("extends = [\"builtin:static\"]\n[ipc]\nhello_timeout = \"2m\"\n[lifecycle]\ntimeout_start_sec = \"2m\"\n"))
	a.file("etc/cordond.toml", 0o600, []byte("[daemon]\nstate_dir = \"/data/state\"\nruntime_dir = \"/run/cordon\"\nprofiles_dir = \"/profiles\"\n"))
	file := filepath.Join(dir, "root.ext4")
	return file, a.image(ctx, file)
}
