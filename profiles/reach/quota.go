package reach

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cordonhq/cordon/profiles/grant"
	"github.com/cordonhq/cordon/profiles/plan"
	"github.com/cordonhq/cordon/profiles/strict"
)

// unbounded is a quota that is none.
const unbounded = -1

// quota is one bound: how much there is of it, and which rule says so.
type quota struct {
	limit int64
	wall  string
	key   string
	text  func(int64) string
}

func sizeText(n int64) string  { return strict.Size(n).String() }
func countText(n int64) string { return strict.Count(n).String() }
func spanText(n int64) string  { return time.Duration(n).String() }

// Quotas are the names that Use knows.
func Quotas() []string {
	return []string{"memory", "pids", "files", "tmp", "shm", "data", "time", "cpu-time"}
}

// quotas gives the bounds that hold for one kind of use; all of them must.
func (m *Model) quotas(what string) []quota {
	p := m.plan
	memory := quota{deref(p.Limits.MemoryMax), "memory", "resources.memory.max", sizeText}
	switch what {
	case "memory":
		return []quota{memory}
	case "pids":
		return []quota{
			{deref(p.Limits.PidsMax), "pids", "resources.pids.max", countText},
			{m.rlimit("nproc"), "rlimits", "resources.rlimit.nproc", countText},
		}
	case "files":
		return []quota{{m.rlimit("nofile"), "rlimits", "resources.rlimit.nofile", countText}}
	case "tmp":
		return []quota{{p.Tmp.Size, "tmpfs", "tmp.size", sizeText}, memory}
	case "shm":
		return []quota{{p.Shm.Size, "tmpfs", "shm.size", sizeText}, memory}
	case "data":
		if p.Data.Persistent {
			return []quota{{p.Data.Size, "file system", "data.size", sizeText}}
		}
		return []quota{{p.Data.Size, "tmpfs", "data.size", sizeText}, memory}
	case "time":
		return []quota{{span(p.Time.Wall), "time", "resources.time.wall", spanText}}
	case "cpu-time":
		return []quota{{span(p.Time.CPU), "time", "resources.time.cpu", spanText}}
	}
	return nil
}

// Use answers whether the plugin can use so much of something, such as memory
// 300M, pids 20, files 100, tmp 10M, time 5m.
func (m *Model) Use(what, amount string) (Answer, error) {
	bounds := m.quotas(what)
	if bounds == nil {
		return Answer{}, fmt.Errorf("cannot answer: there is no quota %q; there are %s", what, strings.Join(Quotas(), ", "))
	}
	n, err := parseAmount(what, amount)
	if err != nil {
		return Answer{}, fmt.Errorf("cannot answer: %s %s: %w", what, amount, err)
	}
	a := Answer{Question: "use " + what + " " + amount}
	for _, q := range bounds {
		by := m.plan.Origins[q.key]
		if q.limit != unbounded && n > q.limit {
			a.refuse(q.wall, by, "%s is %s", q.key, q.text(q.limit))
		}
	}
	a.Can = len(a.Why) == 0
	if a.Can {
		q := bounds[0]
		text := fmt.Sprintf("%s is %s", q.key, q.text(q.limit))
		if q.limit == unbounded {
			text = q.key + " has no bound"
		}
		a.Why = []Reason{{Wall: q.wall, Text: text, Origin: m.plan.Origins[q.key]}}
		m.noteAlone(&a, what, n)
	}
	return a, nil
}

func parseAmount(what, amount string) (int64, error) {
	switch what {
	case "time", "cpu-time":
		d, err := time.ParseDuration(amount)
		if err != nil || d < 0 {
			return 0, fmt.Errorf("expected a duration such as 90s or 5m")
		}
		return int64(d), nil
	case "pids", "files":
		n, err := strconv.ParseInt(amount, 10, 64)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("expected a number")
		}
		return n, nil
	}
	n, err := strict.ParseSize(amount)
	if err != nil || n == strict.Unlimited {
		return 0, fmt.Errorf("expected a size such as 64M")
	}
	return int64(n), nil
}

// rlimit is how much of something a process can have: it may raise its soft
// limit to the hard one, if it has a call for that.
func (m *Model) rlimit(name string) int64 {
	for _, r := range m.plan.Rlimits {
		if r.Name != name {
			continue
		}
		limit := r.Soft
		if m.mayCall("prlimit64") || m.mayCall("setrlimit") {
			limit = r.Hard
		}
		if limit > 1<<62 { // RLIM_INFINITY
			return unbounded
		}
		return int64(limit)
	}
	return unbounded
}

// alone are the bounds of one process, or of one file, which several together
// can go beyond.
var alone = map[string][]struct{ rlimit, text string }{
	"memory": {
		{"data", "one process alone has at most %s of private memory (resources.rlimit.data)"},
		{"as", "one process alone has at most %s (resources.rlimit.as)"},
	},
	"tmp":  {{"fsize", oneFile}},
	"shm":  {{"fsize", oneFile}},
	"data": {{"fsize", oneFile}},
}

const oneFile = "one file alone has at most %s (resources.rlimit.fsize)"

// noteAlone says where one process, or one file, cannot have so much.
func (m *Model) noteAlone(a *Answer, what string, n int64) {
	var notes []string
	for _, one := range alone[what] {
		if limit := m.rlimit(one.rlimit); limit != unbounded && n > limit {
			notes = append(notes, fmt.Sprintf(one.text, sizeText(limit)))
		}
	}
	a.Note = strings.Join(notes, "; ")
}

func deref(v *int64) int64 {
	if v == nil {
		return unbounded
	}
	return *v
}

func span(d time.Duration) int64 {
	if d == 0 {
		return unbounded
	}
	return int64(d)
}

// Become answers whether the plugin can act as a user: "root" or a number, as
// it sees users itself.
func (m *Model) Become(user string) (Answer, error) {
	if user == "root" {
		user = "0"
	}
	id, err := strconv.ParseUint(user, 10, 32)
	if err != nil {
		return Answer{}, fmt.Errorf("cannot answer: expected root or the number of a user, got %q", user)
	}
	a := Answer{Question: "become " + user}
	own := m.plan.Process.UID
	if uint32(id) == own {
		a.Can = true
		a.Why = []Reason{{Wall: "identity", Text: fmt.Sprintf("it runs as uid %d", own), Origin: m.plan.Origins["identity.uid"]}}
		return a, nil
	}
	a.refuse("user namespace", "", "it has uid %d alone: no other is mapped", own)
	a.refuse("capabilities", "", "it has no CAP_SETUID, and set-user-id files have no effect")
	return a, nil
}

// Hold answers whether the plugin can have a capability; it never can.
func (m *Model) Hold(name string) (Answer, error) {
	word := strings.ToUpper(name)
	if !strings.HasPrefix(word, "CAP_") {
		word = "CAP_" + word
	}
	a := Answer{Question: "hold " + word}
	a.refuse("capabilities", "", "every capability set is empty, and securebits and no_new_privs keep it so")
	return a, nil
}

// Connect answers whether the plugin can reach HOST:PORT, or udp:HOST:PORT.
func (m *Model) Connect(to string) (Answer, error) {
	a := Answer{Question: "connect " + to}
	asked, err := grant.ParseEndpoint(to)
	if err != nil || asked.Wildcard || asked.Port == 0 {
		return a, fmt.Errorf("cannot answer: expected HOST:PORT, got %q", to)
	}
	for _, have := range m.plan.Network.Egress {
		t, err := grant.ParseEndpoint(have)
		if err != nil || !t.Covers(asked) {
			continue
		}
		if m.refuseSockets(&a, asked.UDP); len(a.Why) > 0 {
			return a, nil
		}
		a.Can = true
		a.Why = []Reason{{Wall: "net namespace", Origin: m.plan.Origins["network.egress."+have], Text: "network.egress has " + have}}
		a.Note = "only the daemon relays, not cordon run; and a name must resolve, on the host, to a public address or one in network.addresses"
		return a, nil
	}
	if c := m.dials(asked); c != nil {
		a.Can = true
		a.Why = []Reason{{Wall: "capabilities", Origin: c.Origin, Text: "net.dial is granted for it: the host connects, and hands the plugin a socket"}}
		a.Note = "only by asking the host; connect(2) reaches nothing"
		return a, nil
	}
	a.refuse("net namespace", m.plan.Origins["network.mode"], "its network namespace holds nothing but loopback and what network.egress grants")
	if m.abi >= 4 && len(m.plan.Network.Egress) == 0 && !asked.UDP {
		a.refuse("landlock", "", "no TCP port is granted")
	}
	m.refuseSockets(&a, asked.UDP)
	return a, nil
}

// dials is the grant by which the host connects the plugin to a place.
func (m *Model) dials(to grant.Target) *plan.Capability {
	for i := range m.plan.Capabilities {
		c := &m.plan.Capabilities[i]
		if c.Name == "net.dial" && slices.ContainsFunc(c.Target, func(have string) bool {
			t, err := grant.ParseEndpoint(have)
			return err == nil && t.Covers(to)
		}) {
			return c
		}
	}
	return nil
}

// Listen answers whether ADDRESS:PORT of the host leads to the plugin.
func (m *Model) Listen(at string) (Answer, error) {
	a := Answer{Question: "listen " + at}
	asked, err := grant.ParseAddress(at)
	if err != nil || asked.Port == 0 {
		return a, fmt.Errorf("cannot answer: expected ADDRESS:PORT, got %q", at)
	}
	for _, have := range m.plan.Network.Listen {
		if have.At == asked.String() {
			a.Can = true
			a.Why = []Reason{{Wall: "net namespace", Origin: m.plan.Origins["network.listen."+have.At], Text: "network.listen has " + have.At + ", as " + have.Name}}
			a.Note = "by a socket that it has from its start; only the daemon relays, not cordon run"
			return a, nil
		}
	}
	spec, _ := grant.Find("net.listen")
	for i := range m.plan.Capabilities {
		c := &m.plan.Capabilities[i]
		if c.Name == spec.Name && slices.ContainsFunc(c.Target, func(have string) bool { return spec.Covers(have, asked.String()) }) {
			a.Can = true
			a.Why = []Reason{{Wall: "capabilities", Origin: c.Origin, Text: "net.listen is granted for it: the host listens, and hands the plugin a socket"}}
			a.Note = "only by asking the host; bind(2) reaches nobody"
			return a, nil
		}
	}
	a.refuse("net namespace", m.plan.Origins["network.mode"], "what listens in its network namespace nobody outside can reach, and no grant has this address")
	return a, nil
}

// refuseSockets refuses where the filter lets no way be gone: a socket of either
// family, and connecting it or sending from it.
func (m *Model) refuseSockets(a *Answer, udp bool) {
	const inet, inet6, stream, datagram = 2, 10, 1, 2
	kind, ways := uint64(stream), []string{"connect"}
	if udp {
		kind, ways = datagram, []string{"connect", "sendto", "sendmsg", "sendmmsg"}
	}
	if !m.makes("socket", inet, kind, 0) && !m.makes("socket", inet6, kind, 0) {
		a.refuse("seccomp", m.callOrigin("socket"), "socket is not allowed for the internet's address families")
	}
	if !slices.ContainsFunc(ways, m.mayCall) {
		a.refuse("seccomp", m.callOrigin("connect"), "none of the calls %s is allowed", strings.Join(ways, ", "))
	}
}

// Verbs are what Can knows, with what they are about.
func Verbs() []string {
	return []string{
		"read FILE", "list DIR", "write FILE", "truncate FILE", "execute FILE", "create FILE", "mkdir DIR", "symlink NAME", "remove FILE", "rmdir DIR",
		"call NAME [ARG...]", "use QUOTA AMOUNT", "become UID", "hold CAPABILITY", "connect HOST:PORT",
		"listen ADDRESS:PORT",
	}
}

// Can answers one question in words.
func (m *Model) Can(verb string, what ...string) (Answer, error) {
	if _, ok := fileVerbs[verb]; ok && len(what) == 1 {
		return m.File(verb, what[0])
	}
	switch {
	case verb == "call" && len(what) >= 1:
		args, err := arguments(what[1:])
		if err != nil {
			return Answer{}, err
		}
		return m.Call(what[0], args)
	case verb == "use" && len(what) == 2:
		return m.Use(what[0], what[1])
	case verb == "become" && len(what) == 1:
		return m.Become(what[0])
	case verb == "hold" && len(what) == 1:
		return m.Hold(what[0])
	case verb == "connect" && len(what) == 1:
		return m.Connect(what[0])
	case verb == "listen" && len(what) == 1:
		return m.Listen(what[0])
	}
	return Answer{}, &UnknownError{Verb: verb}
}

// UnknownError is a question that Can does not know.
type UnknownError struct{ Verb string }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("cannot answer %q: the questions are %s", e.Verb, strings.Join(Verbs(), ", "))
}

// arguments reads the arguments of a call: numbers, as C has them.
func arguments(words []string) ([]uint64, error) {
	if len(words) == 0 {
		return nil, nil
	}
	if len(words) > 6 {
		return nil, fmt.Errorf("cannot answer: a call has at most 6 arguments")
	}
	out := make([]uint64, len(words))
	for i, w := range words {
		n, err := strconv.ParseInt(w, 0, 64)
		if err == nil {
			out[i] = uint64(n)
			continue
		}
		if out[i], err = strconv.ParseUint(w, 0, 64); err != nil {
			return nil, fmt.Errorf("cannot answer: argument %d: expected a number such as 16 or 0x8000, got %q", i, w)
		}
	}
	return out, nil
}
