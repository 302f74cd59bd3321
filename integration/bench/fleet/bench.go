package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/integration/bench/machine"
	"github.com/cordonhq/cordon/supervisor/control"
)

// program answers every request; told to crash, it does so a moment after its
// start, for ever.
const program = `#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static char line[65536];
int main(int argc, char **argv) {
	if (argc > 1) { usleep(100000); abort(); }
	while (fgets(line, sizeof line, stdin)) {
		char answered[64] = "", *id = strstr(line, "\"id\":");
		if (!id || strstr(line, "$/cancelRequest")) continue;
		id += 5;
		strncpy(answered, id, strcspn(id, ",}\n") & 63);
		printf("{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":%s}\n", answered, strstr(line, "\"initialize\"") ?
		       "{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{},\"serverInfo\":{\"name\":\"calm\",\"version\":\"1\"}}" : "{}");
		fflush(stdout);
	}
	return 0;
}
`

// starters is how many clients start and stop plugins.
const starters = 16

// bench is a daemon of its own with all plugins installed.
type bench struct {
	effort effort
	bin    string
	dir    string
	daemon *exec.Cmd
	client *control.Client
}

func newBench(bin string, e effort) (b *bench, err error) {
	b = &bench{effort: e, bin: bin}
	if b.dir, err = os.MkdirTemp("", "cordon-fleet-"); err != nil {
		return nil, err
	}
	for _, step := range []func() error{b.furnish, b.start, b.install} {
		if err := step(); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	return b, nil
}

func (b *bench) furnish() error {
	files := map[string]string{
		"cordond.toml": fmt.Sprintf("[daemon]\nstate_dir = %q\nruntime_dir = %q\nprofiles_dir = %q\ncgroup_root = \"cordon-fleet-%d\"\nuid_base = 1940200000\nuid_count = %d\n",
			b.dir+"/state", b.dir+"/run", b.dir+"/profiles", os.Getpid(), 4*b.effort.plugins+8),
		"profiles/calm.toml":   "extends = [\"builtin:strict\"]\n",
		"profiles/crash.toml":  "extends = [\"builtin:static\"]\n[lifecycle]\nrestart = \"always\"\nrestart_sec = \"1s\"\nrestart_steps = 0\nstart_limit_burst = 10000\n",
		"program.c":            program,
		"calm/plugin.toml":     "schema = 1\n[plugin]\nname = \"calm\"\nversion = \"1.0.0\"\nexec = [\"./main\"]\nprotocol = \"mcp\"\n",
		"crashing/plugin.toml": "schema = 1\n[plugin]\nname = \"crashing\"\nversion = \"1.0.0\"\nexec = [\"./main\", \"crash\"]\nprotocol = \"jsonrpc\"\n",
	}
	for name, text := range files {
		path := filepath.Join(b.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	for _, name := range []string{"calm", "crashing"} {
		if out, err := exec.Command("gcc", "-Os", "-static", "-o", filepath.Join(b.dir, name, "main"), b.dir+"/program.c").CombinedOutput(); err != nil {
			return fmt.Errorf("cannot compile the plugin: %w: %s", err, out)
		}
	}
	return nil
}

func (b *bench) start() error {
	b.daemon = exec.Command(filepath.Join(b.bin, "cordond"), "--config", b.dir+"/cordond.toml", "--log-format", "json")
	b.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	log, err := os.OpenFile(b.dir+"/daemon.log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	b.daemon.Stderr = log
	if err := errors.Join(b.daemon.Start(), log.Close()); err != nil {
		return err
	}
	return wait("the daemon to answer", soon, func() (ok bool, err error) {
		b.client, err = control.Dial(context.Background(), b.dir+"/run/cordon.sock")
		return err == nil, nil
	})
}

// How often wait asks: what costs nothing, and what has the daemon look at every
// plugin, which it has better things to do than.
const (
	soon   = 5 * time.Millisecond
	seldom = 100 * time.Millisecond
)

// wait asks until the answer is yes, an error, or patience ends.
func wait(what string, every time.Duration, is func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if ok, err := is(); ok || err != nil {
			return err
		}
	}
	return fmt.Errorf("cannot wait longer than %v for %s", patience, what)
}

func (b *bench) calm() []string     { return names("calm", b.effort.plugins-b.effort.crashing) }
func (b *bench) crashing() []string { return names("crash", b.effort.crashing) }

func names(kind string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", kind, i)
	}
	return out
}

// each does something with each of the names, several at a time.
func (b *bench) each(list []string, do func(context.Context, *control.Client, string) error) error {
	work, errs := make(chan string), make(chan error, starters)
	var wg sync.WaitGroup
	for range starters {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			client, err := control.Dial(ctx, b.dir+"/run/cordon.sock")
			for name := range work {
				if err == nil {
					err = do(ctx, client, name)
				}
			}
			if client != nil {
				err = errors.Join(err, client.Close())
			}
			errs <- err
		})
	}
	for _, name := range list {
		work <- name
	}
	close(work)
	wg.Wait()
	var all []error
	for range starters {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

func (b *bench) install() error {
	put := func(list []string, bundle, profile string) error {
		return b.each(list, func(ctx context.Context, c *control.Client, name string) error {
			_, err := c.Install(ctx, control.InstallParams{Dir: filepath.Join(b.dir, bundle), As: name, Profile: filepath.Join(b.dir, "profiles", profile)})
			return err
		})
	}
	return errors.Join(put(b.calm(), "calm", "calm.toml"), put(b.crashing(), "crashing", "crash.toml"))
}

func (b *bench) startCalm() error {
	return b.each(b.calm(), func(ctx context.Context, c *control.Client, name string) error {
		_, err := c.Start(ctx, name)
		return err
	})
}

// window calls healthy plugins one after another, while the others crash or are
// stopped.
func (b *bench) window(crashing bool) (w window, err error) {
	err = b.each(b.crashing(), func(ctx context.Context, c *control.Client, name string) (err error) {
		if crashing {
			_, err = c.Start(ctx, name)
			if err != nil { // it crashed before it was told to have started
				err = nil
			}
			return err
		}
		_, err = c.Stop(ctx, name)
		return err
	})
	if err != nil {
		return w, err
	}
	if crashing {
		if w.entering, err = b.callWhile(b.comingToCrash()); err != nil {
			return w, err
		}
	}
	before, err := b.restarts()
	if err != nil {
		return w, err
	}
	used, began := b.processorTime(), time.Now()
	w.latencies, err = b.callWhile(func(made int) (bool, error) {
		return made < b.effort.calls || time.Since(began) < b.effort.span, nil
	})
	if err != nil {
		return w, err
	}
	w.span = time.Since(began)
	w.cores = (b.processorTime() - used).Seconds() / w.span.Seconds()
	after, err := b.restarts()
	w.crashes = after - before
	return w, err
}

// callWhile calls healthy plugins one after another, and says how long each call
// took, in microseconds.
func (b *bench) callWhile(more func(made int) (bool, error)) (took []float64, err error) {
	calm := b.calm()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		if ok, err := more(len(took)); !ok || err != nil {
			return took, err
		}
		at := time.Now()
		if _, err := b.client.CallPlugin(ctx, control.CallParams{Name: calm[len(took)*7%len(calm)], Method: "ping", Timeout: patience}); err != nil {
			return took, err
		}
		took = append(took, float64(time.Since(at).Nanoseconds())/1000)
	}
}

// comingToCrash is true until each of those that crash was restarted as often as
// makes it a loop. It asks seldom, for the daemon looks at every plugin then.
func (b *bench) comingToCrash() func(int) (bool, error) {
	next := time.Now()
	return func(int) (bool, error) {
		if time.Now().Before(next) {
			return true, nil
		}
		next = time.Now().Add(10 * seldom)
		list, err := b.client.List(context.Background())
		for _, s := range list {
			if strings.HasPrefix(s.Name, "crash-") && s.Restarts < loop {
				return true, err
			}
		}
		return false, err
	}
}

// loop is how often in a row a plugin has been restarted that crashes in one.
const loop = 4

// restarts counts those of all that crash.
func (b *bench) restarts() (n int, err error) {
	list, err := b.client.List(context.Background())
	for _, s := range list {
		n += s.Restarts
	}
	return n, err
}

// processorTime is what the daemon has used; proc(5), in ticks of 10 ms.
func (b *bench) processorTime() time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.daemon.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// peakMiB is the most memory that the daemon ever had.
func (b *bench) peakMiB() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.daemon.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	return float64(kib) / 1024, err
}

// restart ends the daemon and starts it again, and says how long it took until
// every enabled plugin runs: those that do not crash.
func (b *bench) restart() (took time.Duration, meanwhile string, err error) {
	err = b.each(b.calm(), func(ctx context.Context, c *control.Client, name string) error {
		_, err := c.Enable(ctx, name)
		return err
	})
	err = errors.Join(err, b.each(b.crashing(), func(ctx context.Context, c *control.Client, name string) error {
		_, err := c.Enable(ctx, name)
		return err
	}))
	if err := errors.Join(err, b.stop()); err != nil {
		return 0, "", err
	}
	began, then := time.Now(), machine.Now()
	if err := b.start(); err != nil {
		return 0, "", err
	}
	err = wait("every plugin to have started", seldom, func() (bool, error) {
		list, err := b.client.List(context.Background())
		for _, s := range list {
			if strings.HasPrefix(s.Name, "calm-") && s.State != control.Running || s.State == control.Stopped {
				return false, err
			}
		}
		return true, err
	})
	return time.Since(began), machine.Now().Since(then), err
}

func (b *bench) stop() error {
	if b.client != nil {
		_ = b.client.Close() // the daemon goes
		b.client = nil
	}
	if b.daemon == nil || b.daemon.Process == nil {
		return nil
	}
	err := errors.Join(b.daemon.Process.Signal(syscall.SIGTERM), b.daemon.Wait())
	b.daemon = nil
	return err
}

// close ends the daemon and leaves nothing.
func (b *bench) close() error { return errors.Join(b.stop(), os.RemoveAll(b.dir)) }
