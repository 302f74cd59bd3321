// Package manifest is what an author ships: a directory with a plugin.toml and
// files. It parses the manifest, checks the tree, and seals it: a verified
// copy that is owned by root and named by its digest, so that what runs is
// what was verified.
package manifest

import (
	"fmt"
	"io/fs"
	"sort"
	"strings"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/profiles/strict"
)

// FileName is the manifest's name at the top of a bundle.
const FileName = "plugin.toml"

// CurrentAPI is the API version that this host speaks.
const CurrentAPI = 1

// Manifest is what an author asks for. It grants nothing.
type Manifest struct {
	Name        string
	Version     string
	Description string
	// API is the range of API versions that the plugin works with, as written;
	// it includes CurrentAPI.
	API string
	// Exec is the command, never empty. A relative path is below the bundle, a
	// bare name is looked up in PATH, both inside the walls.
	Exec     []string
	Protocol ipc.Protocol
	// Capabilities, Files and Resources are the asks, each with its reason.
	Capabilities []Capability
	Files        []File
	Resources    Resources
	// Environment holds fixed variables of the author's.
	Environment map[string]string
	// Methods are those with a contract.
	Methods []Method
	// Needs are other plugins that it requires, wants or cannot run beside.
	Needs Needs
}

// Method is what a method takes and answers, each the path of a JSON Schema in
// the bundle; empty is anything. Examples is that of calls with what is to come
// of them, which every start makes before it is ready; empty is none.
type Method struct {
	Name     string `toml:"name"`
	Params   string `toml:"params"`
	Result   string `toml:"result"`
	Examples string `toml:"examples"`
}

// Capability is an ask for something that the host serves.
type Capability struct {
	Name   string   `toml:"name"`
	Target []string `toml:"target"`
	Why    string   `toml:"why"`
	// Origin is where it stands, as file:line.
	Origin string
}

// File is an ask for a path of the host.
type File struct {
	Path string
	// Access is "r", "rw" or "rx".
	Access string
	Why    string
	Origin string
}

// Resources are asks for bounds, in the words of cgroup v2. A nil field is not
// asked for. A bound below the profile's lowers it; above, it is refused.
type Resources struct {
	MemoryMax *strict.Size     `toml:"memory.max"`
	PidsMax   *strict.Count    `toml:"pids.max"`
	CPUMax    *strict.Percent  `toml:"cpu.max"`
	TimeWall  *strict.Duration `toml:"time.wall"`
	TimeCPU   *strict.Duration `toml:"time.cpu"`
	// Why is the reason for all of them; required with any.
	Why string `toml:"why"`
	// Origins gives file:line by key, such as "memory.max".
	Origins map[string]string
}

// document is plugin.toml as written.
type document struct {
	Schema *int64 `toml:"schema"`
	Plugin struct {
		Name        *string  `toml:"name"`
		Version     *string  `toml:"version"`
		Description string   `toml:"description"`
		Exec        []string `toml:"exec"`
		Protocol    *string  `toml:"protocol" oneof:"cordon mcp lsp jsonrpc"`
		API         *string  `toml:"api"`
	} `toml:"plugin"`
	Capability []Capability `toml:"capability"`
	Files      []struct {
		Path   *string `toml:"path"`
		Access *string `toml:"access" oneof:"r rw rx"`
		Why    string  `toml:"why"`
	} `toml:"files"`
	Method []Method `toml:"method"`
	// Other plugins, in systemd's words.
	Requires    []needTable     `toml:"requires" aka:"depends dependencies require"`
	Wants       []needTable     `toml:"wants" aka:"recommends optional"`
	Conflicts   []conflictTable `toml:"conflicts" aka:"breaks"`
	Resources   Resources       `toml:"resources"`
	Environment struct {
		Set map[string]string `toml:"set"`
	} `toml:"environment"`
}

// Keys lists every key of plugin.toml.
func Keys() []string { return strict.Keys(document{}) }

// The bounds of what a manifest may hold.
const (
	maxArgs    = 256
	maxAsks    = 256
	maxMethods = 256
	maxEnv     = 256
	maxText    = 4096 // bytes of one argument, value or reason
)

// ValidName says whether a plugin may bear this name: lower-case letters,
// digits, '.', '-' and '_', at most 64, a letter or digit first, no "..".
func ValidName(name string) bool {
	return made(name, 64, "abcdefghijklmnopqrstuvwxyz0123456789._-") &&
		!strings.ContainsRune("._-", rune(name[0])) && !strings.Contains(name, "..")
}

// ValidVariable says whether name can be an environment variable's: letters,
// digits and '_', at most 128, no digit first.
func ValidVariable(name string) bool {
	return made(name, 128, letters+digits+"_") && !strings.ContainsRune(digits, rune(name[0]))
}

const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits  = "0123456789"
)

func validVersion(s string) bool {
	return made(s, 64, letters+digits+".+_-") && !strings.ContainsRune(".+_-", rune(s[0]))
}

// validCapability is dotted words such as "net.dial".
func validCapability(s string) bool {
	for _, word := range strings.Split(s, ".") {
		if !made(word, 64, "abcdefghijklmnopqrstuvwxyz0123456789_") || word[0] < 'a' || word[0] > 'z' {
			return false
		}
	}
	return len(s) <= 128
}

// made says whether s is made of these bytes, 1 to most of them.
func made(s string, most int, of string) bool {
	return s != "" && len(s) <= most && strings.Trim(s, of) == ""
}

// Parse reads a manifest; file is only for messages. The error is a
// strict.Errors with everything that is wrong.
func Parse(file string, data []byte) (*Manifest, error) {
	var doc document
	pos, err := strict.DecodePositions(file, data, &doc)
	c := &checker{pos: pos}
	if pos.Has("schema") || err == nil {
		c.document(&doc)
	}
	if err := strict.Join(file, err, c.errs); err != nil {
		return nil, err
	}
	return c.manifest(&doc), nil
}

type checker struct {
	pos  *strict.Positions
	errs strict.Errors
}

func (c *checker) fail(key, hint, format string, args ...any) {
	c.errs = append(c.errs, c.pos.Errorf(key, hint, format, args...))
}

// need reports a key that is missing, unless a wrong value of it was reported.
func (c *checker) need(have bool, key, hint string) {
	if !have && !c.pos.Has(key) {
		c.fail(key, hint, "missing")
	}
}

func (c *checker) document(doc *document) {
	switch {
	case doc.Schema == nil:
		c.need(false, "schema", "write schema = 1 as the first line")
	case *doc.Schema != 1:
		c.fail("schema", "", "expected 1, the only schema there is, got %d", *doc.Schema)
		return // nothing else of it can be judged
	}
	c.plugin(doc)
	c.asks(doc)
	c.methods(doc)
	c.needs(doc)
	if len(doc.Environment.Set) > maxEnv {
		c.fail("environment.set", "", "too many variables: at most %d", maxEnv)
	}
	for _, name := range sorted(doc.Environment.Set) {
		key := strict.Path("environment.set", name)
		if !ValidVariable(name) {
			c.fail(key, "", "expected a variable's name of letters, digits and '_'")
		}
		c.text(key, doc.Environment.Set[name])
	}
}

func (c *checker) plugin(doc *document) {
	p := &doc.Plugin
	c.need(p.Name != nil, "plugin.name", `write name = "..." under [plugin]`)
	if p.Name != nil && !ValidName(*p.Name) {
		c.fail("plugin.name", "", "expected up to 64 lower-case letters, digits, '.', '-' and '_', a letter or digit first, got %q", clip(*p.Name))
	}
	c.need(p.Version != nil, "plugin.version", `write version = "1.0.0" under [plugin]`)
	if p.Version != nil && !validVersion(*p.Version) {
		c.fail("plugin.version", "", "expected a version such as \"1.0.0\", got %q", clip(*p.Version))
	}
	c.need(p.Protocol != nil, "plugin.protocol", `write protocol = "cordon", "mcp", "lsp" or "jsonrpc" under [plugin]`)
	c.need(len(p.Exec) > 0, "plugin.exec", `write exec = ["./program"] under [plugin]`)
	if c.pos.Has("plugin.exec") && p.Exec != nil && (len(p.Exec) == 0 || p.Exec[0] == "") {
		c.fail("plugin.exec", "", "expected a list that starts with the program")
	}
	if len(p.Exec) > maxArgs {
		c.fail("plugin.exec", "", "too many arguments: at most %d", maxArgs)
	}
	for i, arg := range p.Exec {
		c.text(fmt.Sprintf("plugin.exec[%d]", i), arg)
	}
	c.text("plugin.description", p.Description)
	if p.API != nil {
		c.api(*p.API)
	}
}

func (c *checker) api(text string) {
	in, err := apiIncludes(text, CurrentAPI)
	switch {
	case err != nil:
		c.fail("plugin.api", "", "expected a range such as \">=1, <2\": %v", err)
	case !in:
		c.fail("plugin.api", "install a version of the plugin made for this host", "the plugin wants API %q, this host speaks API %d", text, CurrentAPI)
	}
}

func (c *checker) asks(doc *document) {
	if len(doc.Capability)+len(doc.Files) > maxAsks {
		c.fail("capability", "", "too many asks: at most %d", maxAsks)
		return
	}
	for i, ask := range doc.Capability {
		at := fmt.Sprintf("capability[%d]", i)
		c.need(ask.Name != "", at+".name", `write the capability's name, such as "net.dial"`)
		if ask.Name != "" && !validCapability(ask.Name) {
			c.fail(at+".name", "", "expected a name such as \"net.dial\", got %q", clip(ask.Name))
		}
		for j, target := range ask.Target {
			c.text(fmt.Sprintf("%s.target[%d]", at, j), target)
		}
		c.why(at, ask.Why)
	}
	for i, ask := range doc.Files {
		at := fmt.Sprintf("files[%d]", i)
		c.need(ask.Path != nil, at+".path", "write the path that is asked for")
		if ask.Path != nil && !strings.HasPrefix(*ask.Path, "/") && !strings.HasPrefix(*ask.Path, "${") {
			c.fail(at+".path", "", "expected an absolute path, got %q", clip(*ask.Path))
		}
		if ask.Path != nil {
			c.text(at+".path", *ask.Path)
		}
		c.need(ask.Access != nil, at+".access", `write access = "r", "rw" or "rx"`)
		c.why(at, ask.Why)
	}
	r := &doc.Resources
	if r.MemoryMax != nil || r.PidsMax != nil || r.CPUMax != nil || r.TimeWall != nil || r.TimeCPU != nil {
		c.why("resources", r.Why)
	}
}

func (c *checker) methods(doc *document) {
	if len(doc.Method) > maxMethods {
		c.fail("method", "", "too many methods: at most %d", maxMethods)
		return
	}
	seen := map[string]bool{}
	for i, m := range doc.Method {
		at := fmt.Sprintf("method[%d]", i)
		c.need(m.Name != "", at+".name", `write the method's name, such as "greet"`)
		c.text(at+".name", m.Name)
		if seen[m.Name] {
			c.fail(at+".name", "", "the method %q stands here twice", clip(m.Name))
		}
		seen[m.Name] = true
		for key, path := range map[string]string{".params": m.Params, ".result": m.Result, ".examples": m.Examples} {
			if c.pos.Has(at+key) && !fs.ValidPath(path) {
				c.fail(at+key, "", "expected the path of a file of the bundle, such as \"schema/greet.json\", got %q", clip(path))
			}
		}
	}
}

func (c *checker) why(at, why string) {
	c.need(strings.TrimSpace(why) != "", at+".why", "say in a sentence what it is for: the operator reads it beside the ask")
	if c.pos.Has(at+".why") && strings.TrimSpace(why) == "" {
		c.fail(at+".why", "", "expected a sentence that says what the ask is for")
	}
	c.text(at+".why", why)
}

// text bounds what is shown to people and passed to the plugin: no control
// characters that could forge a line of output.
func (c *checker) text(key, s string) {
	if len(s) > maxText {
		c.fail(key, "", "too long: at most %d bytes", maxText)
		return
	}
	for _, r := range s {
		if r < 0x20 && r != '\t' && r != '\n' || r == 0x7f {
			c.fail(key, "", "contains the control character %U", r)
			return
		}
	}
}

func clip(s string) string {
	if r := []rune(s); len(r) > 80 {
		return string(r[:80]) + "..."
	}
	return s
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// manifest turns a checked document into a Manifest.
func (c *checker) manifest(doc *document) *Manifest {
	m := &Manifest{
		Name: *doc.Plugin.Name, Version: *doc.Plugin.Version, Description: doc.Plugin.Description,
		API: fmt.Sprintf(">=%d", CurrentAPI), Exec: doc.Plugin.Exec, Protocol: ipc.Protocol(*doc.Plugin.Protocol),
		Capabilities: doc.Capability, Resources: doc.Resources, Environment: doc.Environment.Set,
		Methods: doc.Method, Needs: c.needsOf(doc),
	}
	if doc.Plugin.API != nil {
		m.API = *doc.Plugin.API
	}
	for i := range m.Capabilities {
		m.Capabilities[i].Origin = c.pos.Of(fmt.Sprintf("capability[%d]", i))
	}
	for i, f := range doc.Files {
		m.Files = append(m.Files, File{
			Path: *f.Path, Access: *f.Access, Why: f.Why, Origin: c.pos.Of(fmt.Sprintf("files[%d].path", i)),
		})
	}
	m.Resources.Origins = map[string]string{}
	for _, key := range []string{"memory.max", "pids.max", "cpu.max", "time.wall", "time.cpu"} {
		if c.pos.Has("resources." + key) {
			m.Resources.Origins[key] = c.pos.Of("resources." + key)
		}
	}
	return m
}
