package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/violation"
)

const observers = 4242

var (
	root     = Caller{UID: 0}
	member   = Caller{UID: 1000, GID: 1000, Groups: []uint32{27, observers}}
	stranger = Caller{UID: 1001, GID: 1001, Groups: []uint32{27}}
)

// fakeService notes who did what.
type fakeService struct {
	mu    sync.Mutex
	calls []string
	err   error
	logs  chan LogLine
	lost  bool
	done  chan struct{}
	once  sync.Once
	// functions gets what is served, and nothing when it is withdrawn.
	functions chan served
}

// served is what an application declared, and how it is asked.
type served struct {
	ServeParams
	call FunctionCaller
}

// fail lets every method return err from now on.
func (f *fakeService) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeService) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *fakeService) end() { f.once.Do(func() { close(f.done) }) }

func (f *fakeService) did(what string, by Caller) (Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, what+" by "+by.String())
	return Status{Name: "p", State: Running}, f.err
}

func (f *fakeService) Install(_ context.Context, by Caller, p InstallParams) (InstallResult, error) {
	_, err := f.did("install", by)
	return InstallResult{Name: p.As}, err
}

func (f *fakeService) Remove(_ context.Context, by Caller, _ NameParams) error {
	_, err := f.did("remove", by)
	return err
}

func (f *fakeService) Start(_ context.Context, by Caller, _ NameParams) (Status, error) {
	return f.did("start", by)
}

func (f *fakeService) Stop(_ context.Context, by Caller, _ NameParams) (Status, error) {
	return f.did("stop", by)
}

func (f *fakeService) Restart(_ context.Context, by Caller, _ NameParams) (Status, error) {
	return f.did("restart", by)
}

func (f *fakeService) Swap(_ context.Context, by Caller, _ SwapParams) (Status, error) {
	return f.did("swap", by)
}

func (f *fakeService) Enable(_ context.Context, by Caller, _ NameParams) (Status, error) {
	return f.did("enable", by)
}

func (f *fakeService) Disable(_ context.Context, by Caller, _ NameParams) (Status, error) {
	return f.did("disable", by)
}

func (f *fakeService) Release(_ context.Context, by Caller, _ ReleaseParams) (Status, error) {
	return f.did("release", by)
}

func (f *fakeService) List(context.Context) ([]Status, error) {
	return []Status{{Name: "p"}}, f.failure()
}

func (f *fakeService) Inspect(context.Context, NameParams) (Inspection, error) {
	return Inspection{Signature: "unsigned"}, f.failure()
}

func (f *fakeService) AuditCheckpoint(context.Context) (AuditCheckpoint, error) {
	_, err := f.did("checkpoint", Caller{})
	return AuditCheckpoint{Path: "/audit.jsonl"}, err
}

func (f *fakeService) EvidenceList(context.Context, NameParams) ([]Evidence, error) {
	return nil, f.failure()
}

func (f *fakeService) EvidenceShow(context.Context, EvidenceParams) (EvidenceContent, error) {
	_, err := f.did("show evidence", Caller{})
	return EvidenceContent{}, err
}

func (f *fakeService) Reload(_ context.Context, by Caller) (Reloaded, error) {
	_, err := f.did("reload", by)
	return Reloaded{}, err
}

func (f *fakeService) Upgrade(_ context.Context, by Caller, _ UpgradeParams) error {
	_, err := f.did("upgrade", by)
	return err
}

func (f *fakeService) Capabilities(context.Context, NameParams) (Capabilities, error) {
	return Capabilities{}, f.failure()
}

func (f *fakeService) Grant(_ context.Context, by Caller, _ GrantParams) (Granted, error) {
	_, err := f.did("grant", by)
	return Granted{}, err
}

func (f *fakeService) Flags(context.Context) ([]Flag, error) { return nil, f.failure() }

func (f *fakeService) SetFlag(_ context.Context, by Caller, _ FlagParams) (Flagged, error) {
	_, err := f.did("set a flag", by)
	return Flagged{}, err
}

func (f *fakeService) Revoke(_ context.Context, by Caller, _ GrantParams) (Granted, error) {
	_, err := f.did("revoke", by)
	return Granted{}, err
}

func (f *fakeService) Call(context.Context, CallParams) (json.RawMessage, error) {
	return json.RawMessage(`{"ok":true}`), f.failure()
}

func (f *fakeService) Pin(_ context.Context, by Caller, _ PinParams) (Pinned, error) {
	_, err := f.did("pin", by)
	return Pinned{}, err
}

func (f *fakeService) CallFiles(_ context.Context, _ CallParams, files []*os.File) (ipc.Answer, error) {
	for _, file := range files {
		_ = file.Close()
	}
	return ipc.Answer{Result: json.RawMessage(strconv.Itoa(len(files)))}, f.failure()
}

func (f *fakeService) Why(context.Context, NameParams) ([]violation.Violation, error) {
	return nil, f.failure()
}

type logStream struct{ f *fakeService }

func (s logStream) C() <-chan LogLine { return s.f.logs }
func (s logStream) Lost() bool        { return s.f.lost }
func (s logStream) Close()            {}

func (f *fakeService) Logs(_ context.Context, p LogsParams) ([]LogLine, Stream[LogLine], error) {
	if !p.Follow {
		return []LogLine{{Text: "old"}}, nil, nil
	}
	return []LogLine{{Text: "old"}}, logStream{f}, nil
}

func (f *fakeService) Events(context.Context, EventsParams) ([]Event, Stream[Event], error) {
	return []Event{{Seq: 1}}, nil, f.failure()
}

// echo is a plugin that answers each message with itself.
type echo struct {
	f       *fakeService
	deliver func(json.RawMessage) error
}

func (e *echo) Send(_ context.Context, m json.RawMessage) error { return e.deliver(m) }
func (e *echo) Done() <-chan struct{}                           { return e.f.done }
func (e *echo) Close()                                          { e.f.end() }

func (f *fakeService) Serve(_ context.Context, by Caller, p ServeParams, call FunctionCaller) (func(), error) {
	if _, err := f.did("serve", by); err != nil {
		return nil, err
	}
	f.functions <- served{p, call}
	return func() { f.functions <- served{} }, nil
}

func (f *fakeService) Attach(_ context.Context, _ NameParams, deliver func(json.RawMessage) error) (AttachResult, Bridge, error) {
	return AttachResult{Protocol: "mcp"}, &echo{f: f, deliver: deliver}, f.failure()
}

// desk is a server with a fake service.
type desk struct {
	*Server
	t       *testing.T
	service *fakeService
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	f := &fakeService{logs: make(chan LogLine, 8), done: make(chan struct{}), functions: make(chan served, 2)}
	d := &desk{Server: NewServer(f, observers, nil), t: t, service: f}
	t.Cleanup(d.Close)
	return d
}

// connect returns the far end of a new connection of caller.
func (d *desk) connect(caller Caller) *net.UnixConn {
	d.t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	near, far := unixConn(d.t, fds[0]), unixConn(d.t, fds[1])
	d.admit(near, caller)
	d.t.Cleanup(func() { _ = far.Close() })
	return far
}

func unixConn(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	defer func() { _ = f.Close() }()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

func (d *desk) client(caller Caller) *Client {
	d.t.Helper()
	c := newClient("", d.connect(caller))
	d.t.Cleanup(func() { _ = c.Close() })
	return c
}

func codeOf(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// TestWhoMayDoWhat asks for every method as everyone. The lists here are
// written by hand and not taken from the table.
func TestWhoMayDoWhat(t *testing.T) {
	look := []string{MethodList, MethodInspect, MethodCall, MethodLogs, MethodWhy, MethodEvents, MethodAttach, MethodEvidenceList, MethodCapabilities, MethodFlags}
	change := []string{MethodInstall, MethodRemove, MethodStart, MethodStop, MethodRestart, MethodSwap, MethodEnable, MethodDisable, MethodRelease, MethodReload, MethodUpgrade, MethodAuditCheckpoint, MethodEvidenceShow, MethodGrant, MethodRevoke, MethodServe, MethodFlag, MethodPin}
	if got := len(verbs()); got != len(look)+len(change) {
		t.Errorf("the table has %d methods, this test %d", got, len(look)+len(change))
	}
	for _, c := range []struct {
		caller Caller
		may    []string
	}{{root, append(change, look...)}, {member, look}, {stranger, nil}} {
		d := newDesk(t)
		client := d.client(c.caller)
		for _, method := range append(slices.Clone(change), look...) {
			err := client.Call(t.Context(), method, nil, nil)
			denied := codeOf(err) == ipc.CodeDenied
			if want := !slices.Contains(c.may, method); denied != want {
				t.Errorf("%s, %s: %v", c.caller, method, err)
			}
		}
		d.service.mu.Lock()
		n := len(d.service.calls)
		d.service.mu.Unlock()
		if c.caller.UID == 0 && n != len(change) || c.caller.UID != 0 && n != 0 {
			t.Errorf("%s changed %d things", c.caller, n)
		}
	}
}

// TestRules: a rule gives what it says, for the plugins that it names and no
// other, whatever the request spells, and takes away what the group would give.
func TestRules(t *testing.T) {
	d := newDesk(t)
	d.SetRules([]Rule{
		{Role: "observe", UIDs: []uint32{member.UID}, Plugins: []string{"p", "seen.*"}},
		{Role: "call", GIDs: []uint32{27}, Plugins: []string{"called"}},
		{Role: "admin", UIDs: []uint32{stranger.UID}, Plugins: []string{"kept"}},
	})
	watcher, keeper := d.client(member), d.client(stranger)
	for _, c := range []struct {
		client  *Client
		method  string
		params  string
		allowed bool
	}{
		{watcher, MethodInspect, `{"name":"p"}`, true},
		{watcher, MethodInspect, `{"name":"seen.too"}`, true},
		{watcher, MethodInspect, `{"name":"pp"}`, false},
		{watcher, MethodInspect, `{"name":"unseen"}`, false},
		{watcher, MethodInspect, `{}`, false},
		{watcher, MethodInspect, `{"name":"p","NAME":"unseen"}`, false},
		{watcher, MethodCall, `{"name":"p","method":"m"}`, false},
		{watcher, MethodCall, `{"name":"called","method":"m"}`, true},
		{watcher, MethodAttach, `{"name":"p"}`, false},
		{watcher, MethodEvents, `{}`, false},
		{watcher, MethodEvents, `{"name":"p"}`, true},
		{watcher, MethodStop, `{"name":"called"}`, false},
		{keeper, MethodStop, `{"name":"kept"}`, true},
		{keeper, MethodRelease, `{"name":"kept","reason":"r"}`, true},
		{keeper, MethodStop, `{"name":"called"}`, false},
		{keeper, MethodSwap, `{"name":"kept","drain_ns":5}`, true},
		{keeper, MethodSwap, `{"name":"called"}`, false},
		{keeper, MethodSwap, `{"name":"kept","dir":"/d"}`, false},
		{keeper, MethodSwap, `{"name":"kept","profile":"open"}`, false},
		{keeper, MethodRemove, `{"name":"kept"}`, false},
		{keeper, MethodGrant, `{"name":"kept","capability":"c"}`, false},
		{keeper, MethodReload, `{}`, false},
		{keeper, MethodInspect, `{"name":"p"}`, false},
	} {
		err := c.client.Call(t.Context(), c.method, json.RawMessage(c.params), nil)
		if denied := codeOf(err) == ipc.CodeDenied; denied == c.allowed {
			t.Errorf("%s %s: %v", c.method, c.params, err)
		}
	}
	if list, err := watcher.List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("the watcher sees %v, %v", list, err)
	}
	if list, err := keeper.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("the keeper sees %v, %v", list, err)
	}
	d.SetRules(nil) // which ends what was allowed by the rules
	if _, err := keeper.List(t.Context()); err == nil {
		t.Error("the connection lives on under other rules")
	}
	if _, err := d.client(member).CallPlugin(t.Context(), CallParams{Name: "p"}); codeOf(err) == ipc.CodeDenied {
		t.Errorf("without rules the group calls: %v", err)
	}
	for _, bad := range []Rule{{}, {Role: "call"}, {Role: "Admin", UIDs: []uint32{1}}, {Role: "call", UIDs: []uint32{0}}, {Role: "call", GIDs: []uint32{1}, Plugins: []string{"a*b"}}, {Role: "call", GIDs: []uint32{1}, Plugins: []string{""}}} {
		if bad.Check() == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

func TestErrorsCrossTheWire(t *testing.T) {
	d := newDesk(t)
	c := d.client(root)
	d.service.fail(Errorf(ipc.CodeQuarantined, "cordon release p", "cannot start p: it is quarantined"))
	_, err := c.Start(t.Context(), "p")
	var e *Error
	if !errors.As(err, &e) || e.Code != ipc.CodeQuarantined || e.Hint != "cordon release p" || !strings.Contains(e.Message, "quarantined") || e.FromPlugin {
		t.Errorf("got %#v", err)
	}
	d.service.fail(&ipc.RPCError{Code: ipc.CodeQuarantined, Message: "I am\x1b[2J", Data: json.RawMessage(`{"a":1}`)})
	_, err = c.CallPlugin(t.Context(), CallParams{Name: "p", Method: "m"})
	if !errors.As(err, &e) || !e.FromPlugin || strings.Contains(e.Message, "\x1b") || string(e.Data) != `{"a":1}` {
		t.Errorf("a plugin's own answer: %#v", err)
	}
	d.service.fail(nil)
	if got, err := c.CallPlugin(t.Context(), CallParams{Name: "p", Method: "m"}); err != nil || string(got) != `{"ok":true}` {
		t.Errorf("%s, %v", got, err)
	}
}

func TestParametersAreChecked(t *testing.T) {
	c := newDesk(t).client(root)
	for _, params := range []string{`{"nam":"p"}`, `{"name":7}`, `[]`} {
		if err := c.Call(t.Context(), MethodStart, json.RawMessage(params), nil); codeOf(err) != ipc.CodeInvalidParams {
			t.Errorf("%s: %v", params, err)
		}
	}
	if err := c.Call(t.Context(), "plugin.explode", nil, nil); codeOf(err) != ipc.CodeMethodNotFound {
		t.Errorf("an unknown method: %v", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	d := newDesk(t)
	var full *net.UnixConn
	for range maxPerUID {
		d.connect(member)
	}
	full = d.connect(member)
	if _, err := full.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := d.client(root).List(t.Context()); err != nil {
		t.Errorf("root is locked out: %v", err)
	}
	other := member
	other.UID++
	if _, err := d.client(other).List(t.Context()); err != nil {
		t.Errorf("another uid is locked out: %v", err)
	}
}

// TestHostileClients break the protocol in several ways, while another goes on.
func TestHostileClients(t *testing.T) {
	d := newDesk(t)
	good := d.client(root)
	for name, bytes := range map[string]string{
		"garbage":   "GET / HTTP/1.1\r\n\r\n",
		"huge":      "\xff\xff\xff\xff",
		"no JSON":   "\x00\x00\x00\x03abc",
		"duplicate": "\x00\x00\x00\x37" + `{"jsonrpc":"2.0","id":1,"id":2,"method":"plugin.list" }`,
	} {
		c := d.connect(root)
		if _, err := c.Write([]byte(bytes)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v", name, err)
		}
	}
	half := d.connect(root)
	if _, err := half.Write([]byte{0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := good.List(t.Context()); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestFollow(t *testing.T) {
	d := newDesk(t)
	d.service.lost = true
	for _, text := range []string{"one", "two"} {
		d.service.logs <- LogLine{Text: text}
	}
	close(d.service.logs)
	var past []LogLine
	var got []string
	c := d.client(member)
	err := c.Follow(t.Context(), MethodLogs, LogsParams{Name: "p", Follow: true}, &past, func() error {
		got = append(got, past[0].Text)
		return nil
	}, func(raw json.RawMessage) error {
		var l LogLine
		err := json.Unmarshal(raw, &l)
		got = append(got, l.Text)
		return err
	})
	if !errors.Is(err, ErrLost) || strings.Join(got, " ") != "old one two" {
		t.Errorf("%v, %v", got, err)
	}
	if err := c.Call(t.Context(), MethodLogs, LogsParams{Name: "p", Follow: true}, &past); codeOf(err) != ipc.CodeConflict {
		t.Errorf("a second stream: %v", err)
	}
}

func TestAttach(t *testing.T) {
	d := newDesk(t)
	a, err := d.client(member).Attach(t.Context(), "p")
	if err != nil || a.Protocol != "mcp" {
		t.Fatal(a, err)
	}
	message := `{"jsonrpc":"2.0","id":"x","method":"tools/list"}`
	if err := a.Send(t.Context(), json.RawMessage(message)); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Receive(t.Context()); err != nil || string(got) != message {
		t.Errorf("%s, %v", got, err)
	}
	d.service.end()
	if _, err := a.Receive(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// TestServe: an application declares functions and is asked, its errors are its
// own, and when it leaves they are withdrawn.
func TestServe(t *testing.T) {
	d := newDesk(t)
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- d.client(root).Serve(ctx, []Function{{Name: "f", Params: json.RawMessage("true"), Result: json.RawMessage("true")}}, func(ctx context.Context, c FunctionCall) (any, error) {
			switch string(c.Params) {
			case `"fail"`:
				return nil, &ipc.RPCError{Code: 7, Message: "it failed"}
			case `"wait"`:
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return c.Plugin + " " + c.Function, nil
		})
	}()
	s := <-d.service.functions
	if len(s.Functions) != 1 || s.Functions[0].Name != "f" {
		t.Fatalf("declared is %+v", s.Functions)
	}
	if got, err := s.call(t.Context(), FunctionCall{Function: "f", Plugin: "p", Params: json.RawMessage("1")}); err != nil || string(got) != `"p f"` {
		t.Errorf("%s, %v", got, err)
	}
	var own *Error
	if _, err := s.call(t.Context(), FunctionCall{Function: "f", Plugin: "p", Params: json.RawMessage(`"fail"`)}); !errors.As(err, &own) || own.Message != "it failed" {
		t.Errorf("its own error: %v", err)
	}
	waiting, stop := context.WithCancel(t.Context())
	stop()
	if _, err := s.call(waiting, FunctionCall{Function: "f", Plugin: "p", Params: json.RawMessage(`"wait"`)}); err == nil || errors.As(err, &own) {
		t.Errorf("one that is not waited for: %v", err)
	}
	leave()
	if err := <-ended; err != nil {
		t.Errorf("it left: %v", err)
	}
	if s := <-d.service.functions; s.call != nil {
		t.Errorf("it was not withdrawn")
	}
}

func TestDetachOnDisconnect(t *testing.T) {
	d := newDesk(t)
	c := d.client(member)
	if _, err := c.Attach(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	<-d.service.done // closed by the bridge's Close
}

func TestListen(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "run", "cordon.sock")
	s, err := Listen(path, observers)
	if err != nil {
		t.Fatal(err)
	}
	expectOwner(t, filepath.Dir(path), 0o750)
	expectOwner(t, path, 0o660)
	if _, err := Listen(path, observers); err == nil || !strings.Contains(err.Error(), "another cordond") {
		t.Errorf("a second daemon: %v", err)
	}
	server := NewServer(&fakeService{}, observers, nil)
	ended := make(chan struct{})
	go func() { server.Serve(s.UnixListener); close(ended) }()
	c, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := c.List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	server.Close()
	<-ended
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	_, err = Dial(t.Context(), path)
	if codeOf(err) != ipc.CodePluginGone || !strings.Contains(err.Error(), path) {
		t.Errorf("without a daemon: %v", err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes files of root's")
	}
}

func expectOwner(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	if st.Mode().Perm() != mode || sys.Uid != 0 || sys.Gid != observers {
		t.Errorf("%s has mode %o, uid %d, gid %d", path, st.Mode().Perm(), sys.Uid, sys.Gid)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "run", "cordon.sock")
	s, err := Listen(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	s.SetUnlinkOnClose(false) // as a killed daemon leaves it
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Listen(path, -1); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

func TestForeignThingsAreLeftAlone(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "cordon.sock")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, -1); err == nil {
		t.Error("a file was taken for a stale socket")
	}
	if data, _ := os.ReadFile(file); string(data) != "precious" {
		t.Error("and it was lost")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(link, "other.sock"), -1); err == nil {
		t.Error("a directory behind a link was taken")
	}
	if _, err := Listen("/tmp/cordon-test-listen.sock", -1); err == nil {
		t.Error("a directory that everyone may write was taken")
	}
}

func TestLookupGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "group")
	if err := os.WriteFile(file, []byte("root:x:0:\nbroken\ncordonx:x:5:\ncordon:x:77:al,bo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := LookupGroup(file, "cordon"); got != 77 {
		t.Errorf("got %d, want 77", got)
	}
	if got := LookupGroup(file, "none"); got != -1 {
		t.Errorf("got %d, want -1", got)
	}
	if got := LookupGroup(file+"x", "cordon"); got != -1 {
		t.Errorf("got %d, want -1", got)
	}
}

func TestPeerIsWhoTheKernelSays(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := unixConn(t, fds[0]), unixConn(t, fds[1])
	defer func() { _, _ = a.Close(), b.Close() }()
	c, err := peerOf(a)
	if err != nil || int(c.UID) != os.Geteuid() || int(c.PID) != os.Getpid() {
		t.Errorf("%+v, %v", c, err)
	}
	groups, _ := os.Getgroups()
	if len(groups) != len(c.Groups) {
		t.Errorf("groups %v, want %v", c.Groups, groups)
	}
}
