package integration

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cordonhq/cordon/supervisor/control"
)

// soakProfile lets a plugin that breaks the protocol come back at once, for as
// long as the soak wants it.
const soakProfile = `extends = ["builtin:static"]
[violation]
ipc = "kill"
[lifecycle]
restart = "always"
restart_sec = "1ms"
restart_steps = 0
start_limit_burst = 10000
start_limit_interval_sec = "1s"
[ipc]
max_queue = "64K" # so that a flood's answers, which nobody reads, are too many soon
`

// abusersAtOnce is how many plugins break the protocol side by side: while the disk
// is waited for on behalf of one, another's walls are raised.
const abusersAtOnce = 3

// pluginAbuses are what soak.c does, one life each.
var pluginAbuses = []string{
	"phase", "hello", "byte", "zero", "negative", "huge", "cut", "syntax", "depth", "names", "duplicate", "encoding",
	"surrogate", "batch", "id", "unasked", "twice", "descriptors", "kinds", "requests", "crash",
}

// socketAbuses are what a connection to the control socket may begin with. Those
// that are no breach are ended by the abuser.
var socketAbuses = map[string]string{
	"nothing":     "",
	"byte":        "X",
	"zero":        "\x00\x00\x00\x00",
	"negative":    "\xff\xff\xff\xff",
	"cut header":  "\x00\x00",
	"cut":         "\x00\x3f\xff\xff{\"",
	"syntax":      framed(`{"jsonrpc":"2.0",`),
	"depth":       framed(`{"jsonrpc":"2.0","id":1,"method":"list","params":` + strings.Repeat("[", 1<<20)),
	"names":       framed(manyNames(1 << 17)),
	"duplicate":   framed(`{"jsonrpc":"2.0","jsonrpc":"2.0"}`),
	"encoding":    framed("{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}"),
	"surrogate":   framed(`{"jsonrpc":"2.0","method":"\ud800"}`),
	"batch":       framed(`[{"jsonrpc":"2.0","method":"list"}]`),
	"id":          framed(`{"jsonrpc":"2.0","id":null,"method":"list"}`),
	"unasked":     framed(`{"jsonrpc":"2.0","id":77,"result":1}`),
	"unknown":     framed(`{"jsonrpc":"2.0","id":1,"method":"no such verb"}`),
	"never reads": manyQuestions(64),
	"left":        framed(`{"jsonrpc":"2.0","id":1,"method":"logs","params":{"name":"quiet","follow":true}}`),
}

func framed(msg string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(msg)))) + msg
}

// manyQuestions are n requests.
func manyQuestions(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(framed(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"list"}`, i)))
	}
	return b.String()
}

// manyNames is an object of n names, the first of them twice.
func manyNames(n int) string {
	var b strings.Builder
	b.WriteString(`{"jsonrpc":"2.0","id":1,"method":"list","params":{`)
	for i := range n {
		fmt.Fprintf(&b, `"%d":1,`, i)
	}
	return b.String() + `"0":1}}`
}

// TestSoak: plugins that break the protocol in every way, life after life, and
// connections to the control socket that do, CORDON_SOAK of each (3 in ordinary
// tests), leave the daemon as large as it was, its other plugins answering, and
// no descriptor behind. Only make soak holds the figures against their targets:
// they need a quiet machine.
func TestSoak(t *testing.T) {
	lives, full := 3, false
	if n := os.Getenv("CORDON_SOAK"); n != "" {
		var err error
		if lives, err = strconv.Atoi(n); err != nil || lives < 1 {
			t.Fatalf("CORDON_SOAK is %q, and must be a count", n)
		}
		full = true
	}
	s := newSoak(t)
	s.plugins(min(lives/2, 60), false) // what the daemon keeps for each, of so many lives at most, is part of what it was
	s.connections(min(lives/2, 100), false)
	before := s.steady()
	quiet := s.neighbour.calls(t, min(max(lives/2, 20), 5000))
	living := s.neighbour.during(t, func() { s.plugins(lives, full) })
	connecting := s.neighbour.during(t, func() { s.connections(lives, full) })
	// What is made ahead of starts differs by a descriptor or two; a leak is one for
	// each life of an abuse.
	before.files += min(lives, 8) - 1
	after := s.back(before, full)
	if after.files > before.files {
		t.Errorf("the daemon has %d descriptors open, and may have %d", after.files, before.files)
	}
	if !full {
		return
	}
	quiet = append(quiet, s.neighbour.calls(t, len(quiet))...) // the machine is another after an hour
	fmt.Printf("%d lives of each of %d abuses, %d connections of each of %d; %d and %d calls of the neighbour meanwhile\n",
		lives, len(pluginAbuses), lives, len(socketAbuses), len(living), len(connecting))
	fmt.Printf("daemon: %d KiB before, %d KiB after; neighbour's p99: %v quiet, %v amid lives, %v amid connections\n",
		before.memory>>10, after.memory>>10, quantile(quiet, 99), quantile(living, 99), quantile(connecting, 99))
	figure("soak-memory/before", float64(after.memory)/float64(before.memory), 1.05)
	figure("soak-p99-lives/quiet", float64(quantile(living, 99))/float64(quantile(quiet, 99)), 3)
	figure("soak-p99-connections/quiet", float64(quantile(connecting, 99))/float64(quantile(quiet, 99)), 3)
}

func figure(name string, value, most float64) {
	verdict := "ok"
	if value > most {
		verdict = "short"
	}
	fmt.Printf("figure %s %.2f <=%.2f %s\n", name, value, most, verdict)
}

func quantile(took []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[(len(sorted)-1)*percent/100]
}

// soak is a daemon with a plugin for each abuse and a quiet neighbour.
type soak struct {
	*daemon
	client    *control.Client
	neighbour neighbour
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{daemon: newDaemon(t)}
	if err := os.WriteFile(s.dir+"/profiles/soak.toml", []byte(soakProfile), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(s.stop)
	program := protocolBreaker(t)
	for _, abuse := range pluginAbuses {
		s.must("install", bundle(t, abuse, "cordon", map[string]string{"main": program}, "./main", abuse), "--profile", "soak")
	}
	s.must("install", answering(t, "quiet"), "--profile", "builtin:static")
	s.must("start", "quiet")
	client, err := control.Dial(t.Context(), s.dir+"/run/cordon.sock")
	if err != nil {
		t.Fatal(err)
	}
	s.client = client
	t.Cleanup(func() { _ = s.client.Close() })
	s.neighbour = neighbour{client: s.client}
	return s
}

// protocolBreaker is the program of a plugin that breaks the protocol as its
// argument says.
func protocolBreaker(t *testing.T) string {
	t.Helper()
	main := t.TempDir() + "/main"
	if out, err := exec.Command("gcc", "-static", "-O1", "-o", main, "testdata/soak/soak.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program, err := os.ReadFile(main)
	if err != nil {
		t.Fatal(err)
	}
	return string(program)
}

// TestASpinningPluginIsOverdue: a call is cancelled at its deadline, its caller
// goes on, and a plugin that spins all the same is quarantined.
func TestASpinningPluginIsOverdue(t *testing.T) {
	d := startDaemon(t)
	profile := "extends = [\"builtin:static\"]\n[ipc]\ncall_timeout = \"1s\"\ncancel_grace = \"300ms\"\n"
	if err := os.WriteFile(d.dir+"/profiles/brief.toml", []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	d.must("install", bundle(t, "spin", "cordon", map[string]string{"main": protocolBreaker(t)}, "./main", "spin"), "--profile", "brief")
	d.must("start", "spin")
	client, err := control.Dial(t.Context(), d.dir+"/run/cordon.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	_, err = client.CallPlugin(t.Context(), control.CallParams{
		Name: "spin", Method: "work", Timeout: time.Second,
		Meta: control.CallMeta{Traceparent: "00-" + trace + "-00f067aa0ba902b7-01", RequestID: "req-9"},
	})
	if err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("the call: %v", err)
	}
	d.quarantined("spin")
	d.eventually("the evidence has the call, its name and its trace", func() bool {
		files, _ := filepath.Glob(d.dir + "/state/evidence/spin/*/calls.json")
		if len(files) != 1 {
			return false
		}
		calls, _ := os.ReadFile(files[0])
		return regexp.MustCompile(`"request_id": ?"req-9"`).Match(calls) && regexp.MustCompile(`"traceparent": ?"00-`+trace+`-`).Match(calls)
	})
	if why := d.must("why", "spin"); !strings.Contains(why, "overdue") || !strings.Contains(why, "cancel_grace") {
		t.Errorf("why says:\n%s", why)
	}
}

// answering is a plugin that answers every request.
func answering(t *testing.T, name string) string {
	t.Helper()
	dir := bundle(t, name, "jsonrpc", map[string]string{"main.c": `#include <stdio.h>
#include <string.h>
static char line[65536];
int main(void) {
	while (fgets(line, sizeof line, stdin)) {
		char *id = strstr(line, "\"id\":");
		if (!id || strstr(line, "$/cancelRequest")) continue;
		id += 5;
		id[strcspn(id, ",}\n")] = 0;
		printf("{\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":1}\n", id);
		fflush(stdout);
	}
	return 0;
}
`}, "./main")
	if out, err := exec.Command("gcc", "-static", "-o", dir+"/main", dir+"/main.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// plugins has each plugin that breaks the protocol live so many lives, some of them
// side by side.
func (s *soak) plugins(lives int, tell bool) {
	s.t.Helper()
	left := make(chan string, len(pluginAbuses))
	for _, abuse := range pluginAbuses {
		left <- abuse
	}
	close(left)
	failed := make(chan error, abusersAtOnce)
	for range abusersAtOnce {
		go func() {
			for abuse := range left {
				began := time.Now()
				if err := s.pluginLives(abuse, lives); err != nil {
					failed <- err
					return
				}
				s.took(tell, abuse, lives, began)
			}
			failed <- nil
		}()
	}
	for range abusersAtOnce {
		if err := <-failed; err != nil {
			s.t.Fatalf("%v\n%s", err, s.log)
		}
	}
}

// pluginLives has a plugin start, break the protocol and end, so many times.
func (s *soak) pluginLives(name string, lives int) error {
	_, _ = s.cordon("start", name) // which may say that it broke the protocol at once
	last, since := -1, time.Now()
	tick := time.NewTicker(min(20*time.Millisecond+time.Duration(lives)*time.Millisecond, 250*time.Millisecond))
	defer tick.Stop()
	for ; last < lives; <-tick.C {
		state, err := s.status(name)
		if err != nil {
			return err
		}
		if state.Restarts > last {
			last, since = state.Restarts, time.Now()
		}
		if state.State == control.Quarantined || state.State == control.Failed || time.Since(since) > time.Minute {
			return fmt.Errorf("%s is %s after %d lives: %s", name, state.State, last, state.Reason)
		}
	}
	_, err := s.cordon("stop", name)
	return err
}

func (s *soak) status(name string) (control.Status, error) {
	list, err := s.client.List(s.t.Context())
	if err != nil {
		return control.Status{}, err
	}
	i := slices.IndexFunc(list, func(one control.Status) bool { return one.Name == name })
	if i < 0 {
		return control.Status{}, fmt.Errorf("%s is not installed: %v", name, list)
	}
	return list[i], nil
}

// took prints how fast so many went, where that is asked for.
func (s *soak) took(asked bool, what string, count int, began time.Time) {
	if took := time.Since(began); asked {
		fmt.Printf("%s: %d in %v, %.0f a second\n", what, count, took.Round(time.Millisecond), float64(count)/took.Seconds())
	}
}

// connections opens so many of each kind to the control socket.
func (s *soak) connections(count int, tell bool) {
	s.t.Helper()
	for name, text := range socketAbuses {
		began := time.Now()
		for range count {
			if err := s.abuse(name, text); err != nil {
				s.t.Fatalf("%s: %v", name, err)
			}
		}
		s.took(tell, "connections, "+name, count, began)
	}
}

// abuse is one connection that says text and goes, in some way.
func (s *soak) abuse(name, text string) error {
	addr := &net.UnixAddr{Name: s.dir + "/run/cordon.sock", Net: "unix"}
	c, err := net.DialUnix("unix", nil, addr)
	for began := time.Now(); errors.Is(err, syscall.EAGAIN) && time.Since(began) < time.Minute; c, err = net.DialUnix("unix", nil, addr) {
		<-time.After(time.Millisecond) // more wait than the kernel lets wait: the daemon accepts one behind the other
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	var rights []byte
	if name == "nothing" {
		rights = syscall.UnixRights(slices.Repeat([]int{int(os.Stdin.Fd())}, 200)...)
		text = "\x00"
	}
	if _, _, err := c.WriteMsgUnix([]byte(text[:1]), rights, nil); err != nil {
		return gone(err)
	}
	if _, err := c.Write([]byte(text[1:])); err != nil || len(text) == 1 {
		return gone(err)
	}
	if name == "never reads" || name == "left" {
		return nil
	}
	if err := c.CloseWrite(); err != nil {
		return gone(err)
	}
	for r := bufio.NewReader(c); err == nil; { // until the daemon has ended it
		_, err = r.Discard(1 << 16)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// gone takes it for no error that the daemon has hung up before.
func gone(err error) error {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ENOTCONN) {
		return nil
	}
	return err
}

// size is what the daemon holds.
type size struct {
	memory int64 // resident, in bytes
	files  int
}

// steady waits until the daemon's size is the same twice, some seconds at most.
func (s *soak) steady() size {
	s.t.Helper()
	now := s.size()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range 10 {
		<-tick.C
		last := now
		if now = s.size(); now == last {
			break
		}
	}
	return now
}

// back waits until the daemon holds no more descriptors than that, and where
// wanted no more than a twentieth more memory: the runtime gives it back when it
// comes to it, within some minutes. It returns what there is in the end.
func (s *soak) back(before size, memory bool) size {
	s.t.Helper()
	patience := time.Minute
	if memory {
		patience = 5 * time.Minute
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		now := s.size()
		if now.files <= before.files && (!memory || now.memory <= before.memory+before.memory/20) || time.Now().After(end) {
			return now
		}
	}
}

func (s *soak) size() size {
	s.t.Helper()
	proc := "/proc/" + strconv.Itoa(s.cmd.Process.Pid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	files, err := os.ReadDir(proc + "/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	return size{memory: kib << 10, files: len(files)}
}

// neighbour is a plugin that breaks nothing, called all the time.
type neighbour struct{ client *control.Client }

// call measures one call.
func (n neighbour) call(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	if _, err := n.client.CallPlugin(t.Context(), control.CallParams{Name: "quiet", Method: "m", Timeout: time.Minute}); err != nil {
		t.Errorf("the quiet neighbour: %v", err)
	}
	return time.Since(began)
}

// calls makes so many, one behind the other, at the pace of during: what wakes for
// each of them is asleep as long before it.
func (n neighbour) calls(t *testing.T, count int) (took []time.Duration) {
	t.Helper()
	pace := time.NewTicker(callEvery)
	defer pace.Stop()
	for ; len(took) < count; <-pace.C {
		took = append(took, n.call(t))
	}
	return took
}

// callEvery is the pace: the neighbour is quiet itself.
const callEvery = time.Millisecond

// during makes calls, one behind the other, until fn returns.
func (n neighbour) during(t *testing.T, fn func()) (took []time.Duration) {
	t.Helper()
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for pace := time.NewTicker(callEvery); ; <-pace.C {
			took = append(took, n.call(t))
			select {
			case <-over:
				return
			default:
			}
		}
	}()
	func() {
		defer close(over)
		fn()
	}()
	<-done
	return took
}
