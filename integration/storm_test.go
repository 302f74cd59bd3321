package integration

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cordonhq/cordon/supervisor/audit"
	"github.com/cordonhq/cordon/supervisor/control"
)

// stormProgram answers every line; before that it hits its wall as often as
// "calls" says, by a call that changes nothing, and then once by another.
const stormProgram = `#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
static char line[65536];
int main(void) {
	int now = getpriority(PRIO_PROCESS, 0);
	while (fgets(line, sizeof line, stdin)) {
		char *id = strstr(line, "\"id\":"), *calls = strstr(line, "\"calls\":");
		if (!id || strstr(line, "$/cancelRequest")) continue;
		if (calls) {
			for (long n = atol(calls + 8); n > 0; n--) setpriority(PRIO_PROCESS, 0, now);
			mount("none", "/tmp", "tmpfs", 0, 0);
		}
		id += 5;
		id[strcspn(id, ",}\n")] = 0;
		printf("{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":1}\n", id);
		fflush(stdout);
	}
	return 0;
}
`

// stormCalls is how often a wall is hit in a storm; an emulated machine makes some
// hundred such calls in a second, others ten thousands.
var stormCalls = map[bool]int{false: 100_000, true: 1000}[slow]

// stormDaemon has a plugin that storms behind a wall which answers as response
// says, and one that does not.
func stormDaemon(t *testing.T, response string) *daemon {
	t.Helper()
	d := startDaemon(t)
	d.profile("storm", "extends = [\"builtin:static\"]\n[violation]\nseccomp = \""+response+"\"\n[ipc]\nhello_timeout = \"2m\"\n[lifecycle]\ntimeout_start_sec = \"2m\"\n")
	dir := bundle(t, "storm", "jsonrpc", map[string]string{"main.c": stormProgram}, "./main")
	if out, err := exec.Command("gcc", "-O1", "-static", "-o", dir+"/main", dir+"/main.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"storm", "calm"} {
		d.must("install", dir, "--as", name, "--profile", "storm")
		d.must("start", name)
	}
	return d
}

// storm calls the one plugin to storm, and the other all the while, until the
// first has answered or ended.
func (d *daemon) storm(calls int) (err error) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 2*patience())
	defer cancel()
	client, dialErr := control.Dial(ctx, d.dir+"/run/cordon.sock")
	if dialErr != nil {
		d.t.Fatal(dialErr)
	}
	defer func() { _ = client.Close() }()
	began, over := time.Now(), make(chan struct{})
	go func() {
		defer close(over)
		_, err = client.CallPlugin(ctx, control.CallParams{
			Name: "storm", Method: "storm", Params: fmt.Appendf(nil, "{\"calls\":%d}", calls), Timeout: 2 * patience(),
		})
	}()
	served := 0
	for ended := false; !ended || served == 0; {
		if _, err := client.CallPlugin(ctx, control.CallParams{Name: "calm", Method: "ping", Timeout: patience()}); err != nil {
			d.t.Errorf("call %d of the other plugin: %v", served, err)
			break
		}
		if _, err := client.List(ctx); err != nil {
			d.t.Errorf("who looks: %v", err)
		}
		served++
		select {
		case <-over:
			ended = true
		default:
		}
	}
	<-over
	d.t.Logf("%d calls asked for, over after %v; the other plugin was called %d times meanwhile", calls, time.Since(began), served)
	return err
}

// hits is how often the audit log says that the plugin hit its wall, by how many
// records.
func (d *daemon) hits(name string) (hits, records int) {
	d.t.Helper()
	number := func(v any) int { f, _ := v.(float64); return int(f) }
	if _, err := audit.Read(d.dir+"/state/audit.jsonl", "", func(e control.Event) {
		switch {
		case e.Plugin != name:
		case e.Kind == "violation":
			hits, records = hits+1+number(e.Data["suppressed"]), records+1
		case e.Kind == "violations-dropped":
			hits, records = hits+number(e.Data["count"]), records+1
		}
	}); err != nil {
		d.t.Fatal(err)
	}
	return hits, records
}

// TestStormOfEvents: a plugin that hits its wall as fast as a processor can, in a
// mode that lets it go on, holds up nobody, fills no disk, and not one hit goes
// uncounted.
func TestStormOfEvents(t *testing.T) {
	d := stormDaemon(t, "log")
	if err := d.storm(stormCalls); err != nil {
		t.Fatalf("%v\n%s", err, d.log)
	}
	var hits, records int
	d.eventually("every hit is counted", func() bool {
		hits, records = d.hits("storm")
		return hits >= stormCalls+1
	})
	if hits != stormCalls+1 {
		t.Errorf("%d hits are on record, of %d", hits, stormCalls+1)
	}
	if records > stormCalls/4 {
		t.Errorf("%d records were written of %d hits", records, hits)
	}
	t.Logf("%d records", records)
}

// TestStormIsQuarantined: where the wall refuses, that many hits are an attack of
// their own; the quarantine is on the disk when the daemon is killed.
func TestStormIsQuarantined(t *testing.T) {
	d := stormDaemon(t, "deny")
	if err := d.storm(100_000_000); err == nil {
		t.Fatal("it was let go on to its end")
	}
	d.quarantined("storm")
	if why := d.must("why", "storm"); !strings.Contains(why, "flood") {
		t.Errorf("why says:\n%s", why)
	}
	d.kill()
	d.start()
	d.quarantined("storm")
	d.must("call", "calm", "ping")
}
