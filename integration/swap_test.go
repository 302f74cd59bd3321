package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/control"
)

// compiled makes the bundle of a C program.
func compiled(t *testing.T, name, protocol, program string) string {
	t.Helper()
	dir := bundle(t, name, protocol, map[string]string{"main.c": program}, "./main")
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", dir+"/main", dir+"/main.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// mains are the first processes of plugins that there are.
func mains() (n int) {
	for _, p := range processes() {
		if p.uid >= uidBase && p.uid < uidBase+uidCount && p.name == "main" {
			n++
		}
	}
	return n
}

// TestSwapsFailNoCall swaps plugins again and again while many call them, some of
// them slowly: each gets another process, and no call fails.
func TestSwapsFailNoCall(t *testing.T) {
	const rounds = 3
	d := continuityDaemon(t)
	load, slow := d.callers(4, "ping"), d.callers(4, "slow")
	for round := range rounds {
		for _, name := range lastingPlugins {
			load.after(t, 10)
			before := d.pids()
			var status control.Status
			d.json(&status, "swap", name)
			now := d.pids()
			if now[name] == before[name] || status.PID != now[name] || status.State != control.Running {
				t.Fatalf("round %d: %s was process %d and is %d (%+v)", round, name, before[name], now[name], status)
			}
			if n := mains(); n != len(lastingPlugins) {
				t.Fatalf("round %d: %d processes of %d plugins", round, n, len(lastingPlugins))
			}
		}
	}
	load.after(t, 10)
	slow.after(t, 10)
	calls := load.made.Load() + slow.made.Load()
	if failed := append(load.end(), slow.end()...); len(failed) > 0 {
		t.Errorf("%d of %d calls failed: %v\n%s", len(failed), calls, failed, d.log)
	}
	t.Logf("%d calls over %d swaps", calls, rounds*len(lastingPlugins))
	// What it is swapped to is started again like any other.
	d.must("restart", "on-socket")
	d.must("call", "on-socket", "ping")
	if _, err := audit.VerifyFiles(d.dir+"/state/audit.jsonl", ""); err != nil {
		t.Error(err)
	}
}

// TestSwapLetsCallsEnd: what the process before has begun it finishes, and only
// when it does not within the drain is it cut off, with the one error code.
func TestSwapLetsCallsEnd(t *testing.T) {
	d := startDaemon(t)
	program := strings.Replace(socketProgram, `usleep(100000)`, `{ fputs("taken\n", stderr); sleep(4); }`, 1)
	d.must("install", compiled(t, "on-socket", "cordon", program), "--profile", "builtin:static")
	d.must("start", "on-socket")
	client, err := control.Dial(t.Context(), d.dir+"/run/cordon.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	swapped := func(calls int, args ...string) error {
		t.Helper()
		answer := make(chan error, 1)
		go func() {
			_, err := client.CallPlugin(t.Context(), control.CallParams{Name: "on-socket", Method: "slow", Timeout: time.Minute})
			answer <- err
		}()
		d.eventually("the call is taken", func() bool { return strings.Count(d.must("logs", "on-socket"), "taken") >= calls })
		d.must(append([]string{"swap", "on-socket"}, args...)...)
		d.must("call", "on-socket", "ping")
		return <-answer
	}
	if err := swapped(1); err != nil {
		t.Errorf("a call was not let end: %v\n%s", err, d.log)
	}
	var e *control.Error
	if err := swapped(2, "--drain", "1ms"); !errors.As(err, &e) || e.Code != ipc.CodePluginGone {
		t.Errorf("a call that took longer than the drain: %v", err)
	}
	if events := d.must("events", "on-socket"); !strings.Contains(events, "with 1 calls unanswered") {
		t.Errorf("nobody says that a call was cut:\n%s", events)
	}
}

// TestSwapToAnotherVersion: another version behind another profile takes the place
// of the one that runs, and is what is started from then on; the daemon may be
// killed or become another program after that.
func TestSwapToAnotherVersion(t *testing.T) {
	d := continuityDaemon(t)
	d.profile("fewer", "extends = [\"builtin:static\"]\n[resources]\npids.max = 7\n")
	dir := compiled(t, "on-stdio", "jsonrpc", strings.ReplaceAll(chaosProgram, `\"result\":1`, `\"result\":2`))
	manifest := filepath.Join(dir, "plugin.toml")
	text, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, []byte(strings.ReplaceAll(string(text), "1.0.0", "2.0.0")), 0o644); err != nil {
		t.Fatal(err)
	}
	load := d.callers(4, "ping")
	load.after(t, 10)
	d.must("swap", "on-stdio", "--bundle", dir, "--profile", "fewer")
	load.after(t, 10)
	if failed := load.end(); len(failed) > 0 {
		t.Errorf("calls failed: %v", failed)
	}
	look := func(when string) (pid int) {
		t.Helper()
		var i control.Inspection
		d.json(&i, "inspect", "on-stdio")
		if got := strings.TrimSpace(d.must("call", "on-stdio", "ping")); got != "2" || i.Status.Version != "2.0.0" || i.Plan.Limits.PidsMax == nil || *i.Plan.Limits.PidsMax != 7 {
			t.Errorf("%s it answers %q as version %s under %v", when, got, i.Status.Version, i.Plan.Limits)
		}
		return i.Status.PID
	}
	pid := look("after the swap")
	d.eventually("the bundle before is not kept", func() bool {
		sealed, err := os.ReadDir(d.dir + "/state/bundles")
		return err == nil && len(sealed) == len(lastingPlugins)
	})
	d.kill()
	d.start()
	if now := look("after a killed daemon"); now != pid {
		t.Errorf("it was process %d and is %d\n%s", pid, now, d.log)
	}
	if _, err := d.upgrade(d.program); err != nil {
		t.Fatal(err)
	}
	if now := look("after an upgrade"); now != pid {
		t.Errorf("it was process %d and is %d\n%s", pid, now, d.log)
	}
	d.must("restart", "on-stdio")
	look("after a restart")
}

// TestSwapThatCannotBe: whatever the new process fails at, the one before goes on
// and is what it was, and nothing of the other is left.
func TestSwapThatCannotBe(t *testing.T) {
	d := continuityDaemon(t)
	d.profile("hasty", "extends = [\"builtin:static\"]\n[lifecycle]\ntimeout_start_sec = \"2s\"\nrestart = \"no\"\n[ipc]\nhello_timeout = \"1s\"\n[violation]\nseccomp = \"kill\"\n")
	socket := func(main string) string { return compiled(t, "on-socket", "cordon", main) }
	missing := bundle(t, "on-socket", "cordon", map[string]string{}, "./nothing")
	unwell := strings.ReplaceAll(socketProgram, `\"api\":1,`, `\"api\":1,\"healthy\":false,\"reason\":\"not today\",`)
	before := d.pids()
	var was control.Inspection
	d.json(&was, "inspect", "on-socket")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"other plugin":   {[]string{"--bundle", staticPlugin(t)}, "is the plugin static"},
		"no bundle":      {[]string{"--bundle", d.dir + "/nothing"}, "cannot swap on-socket"},
		"no profile":     {[]string{"--profile", "nowhere"}, "resolve"},
		"no program":     {[]string{"--bundle", missing}, "./nothing"},
		"ends at once":   {[]string{"--bundle", socket("int main(void) { return 3; }\n")}, "the process before goes on"},
		"says nothing":   {[]string{"--bundle", socket("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"), "--profile", "hasty"}, "hello"},
		"is not well":    {[]string{"--bundle", socket(unwell)}, "not today"},
		"hits a wall":    {[]string{"--bundle", socket("#include <sys/mount.h>\n#include <unistd.h>\nint main(void) { mount(\"none\", \"/tmp\", \"tmpfs\", 0, 0); for (;;) pause(); }\n"), "--profile", "hasty"}, "the wall seccomp"},
		"is not running": {nil, "does not run"},
	} {
		target := "on-socket"
		if c.args == nil {
			target = "idle"
			d.must("install", staticPlugin(t), "--as", target, "--profile", "builtin:static")
		}
		_, err := d.cordon(append([]string{"swap", target}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		d.must("call", "on-socket", "ping")
		if now := d.pids(); fmt.Sprint(now) != fmt.Sprint(before) {
			t.Fatalf("%s: the processes were %v and are %v\n%s", name, before, now, d.log)
		}
	}
	var is control.Inspection
	d.json(&is, "inspect", "on-socket")
	if is.Digest != was.Digest || is.Status.Profile != was.Status.Profile || is.PlanDigest != was.PlanDigest || is.PolicyDigest != was.PolicyDigest {
		t.Errorf("it is recorded as another: %+v", is.Status)
	}
	d.eventually("nothing else of them is left", func() bool {
		sealed, err := os.ReadDir(d.dir + "/state/bundles")
		return mains() == len(lastingPlugins) && err == nil && len(sealed) == len(lastingPlugins)+1
	})
}

// TestSwapUnderAViolation: a wall hit by what comes, whose answer is quarantine,
// quarantines the plugin, with both of its processes.
func TestSwapUnderAViolation(t *testing.T) {
	d := continuityDaemon(t)
	dir := compiled(t, "on-socket", "cordon", "#include <sys/mount.h>\n#include <unistd.h>\nint main(void) { mount(\"none\", \"/tmp\", \"tmpfs\", 0, 0); for (;;) pause(); }\n")
	if _, err := d.cordon("swap", "on-socket", "--bundle", dir); err == nil || !strings.Contains(err.Error(), "quarantined") {
		t.Errorf("got %v", err)
	}
	d.quarantined("on-socket")
	d.eventually("nothing of it runs", func() bool { return mains() == len(lastingPlugins)-1 })
	if why := d.must("why", "on-socket"); !strings.Contains(why, "mount") {
		t.Errorf("it says %q", why)
	}
	d.must("release", "on-socket", "--reason", "the old one did nothing")
	d.must("start", "on-socket")
	d.must("call", "on-socket", "ping")
}

// TestKilledDaemonsAmidSwaps kills the daemon at any moment of a swap: one process
// of the plugin is gone on with, the other has ended, and only calls in flight fail.
func TestKilledDaemonsAmidSwaps(t *testing.T) {
	const rounds = 4
	d := continuityDaemon(t)
	seen := map[string]int{}
	for round := range rounds {
		before := d.pids()
		load := d.callers(4, "ping")
		load.after(t, 10)
		swap := exec.Command(bin+"/cordon", "--socket", d.dir+"/run/cordon.sock", "swap", "on-socket")
		if err := swap.Start(); err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 { // as it comes, or when it has
			<-time.After(time.Duration(round*5) * time.Millisecond)
		} else {
			d.eventually("another process is there", func() bool { return mains() > len(lastingPlugins) || d.pids()["on-socket"] != before["on-socket"] })
		}
		d.kill()
		gone := time.Now()
		_ = swap.Wait()
		d.start()
		load.after(t, 10)
		for _, f := range load.end() {
			var e *control.Error
			if f.at.After(gone) || !errors.As(f.err, &e) || e.Code != ipc.CodePluginGone {
				t.Errorf("round %d: a call of %s is not one in flight: %v", round, f.name, f.err)
			}
		}
		now := d.pids()
		if now["on-socket"] == 0 || now["on-stdio"] != before["on-stdio"] {
			t.Fatalf("round %d: the processes were %v and are %v\n%s", round, before, now, d.log)
		}
		if n := mains(); n != len(lastingPlugins) {
			t.Fatalf("round %d: %d processes of %d plugins\n%s", round, n, len(lastingPlugins), d.log)
		}
		seen[map[bool]string{true: "the one before", false: "the new one"}[now["on-socket"] == before["on-socket"]]]++
	}
	t.Logf("gone on with was %v", seen)
	d.must("swap", "on-socket")
	if _, err := audit.VerifyFiles(d.dir+"/state/audit.jsonl", ""); err != nil {
		t.Error(err)
	}
}

// dataProgram answers every call with what the file in its data says, after it
// has added a line of its own.
const dataProgram = `#include <stdio.h>
#include <string.h>
static char line[65536], kept[4096];
int main(void) {
	while (fgets(line, sizeof line, stdin)) {
		char *id = strstr(line, "\"id\":");
		if (!id) continue;
		id += 5;
		id[strcspn(id, ",}\n")] = 0;
		FILE *f = fopen("/data/kept", "a");
		int wrote = f && fputs("x", f) >= 0 && fclose(f) == 0;
		f = fopen("/data/kept", "r");
		size_t n = f ? fread(kept, 1, sizeof kept, f) : 0;
		if (f) fclose(f);
		printf("{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":[%d,%zu]}\n", id, wrote, n);
		fflush(stdout);
	}
	return 0;
}
`

// TestSwapWithKeptData: data that are kept are not given to two processes unless
// the operator says so, and then both write the same files, as different uids.
func TestSwapWithKeptData(t *testing.T) {
	d := startDaemon(t)
	d.profile("kept", keptProfile)
	d.must("install", compiled(t, "writer", "jsonrpc", dataProgram), "--profile", d.dir+"/profiles/kept.toml")
	d.must("start", "writer")
	says := func(want string) {
		t.Helper()
		if got := strings.Join(strings.Fields(d.must("call", "writer", "write")), ""); got != want {
			t.Errorf("it says %s, want %s\n%s", got, want, d.log)
		}
	}
	says("[1,1]")
	if _, err := d.cordon("swap", "writer"); err == nil || !strings.Contains(err.Error(), "--share-data") {
		t.Errorf("got %v", err)
	}
	says("[1,2]")
	d.must("swap", "writer", "--share-data")
	says("[1,3]")
	d.must("swap", "writer", "--share-data")
	says("[1,4]")
	d.kill()
	d.start()
	says("[1,5]")
	if d.mounts() != 1 {
		t.Errorf("its data are mounted %d times", d.mounts())
	}
	d.must("restart", "writer") // as the first uid again
	says("[1,6]")
	d.must("stop", "writer")
	if d.mounts() != 0 {
		t.Error("its data are mounted while it is stopped")
	}
}
