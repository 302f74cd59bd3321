// Package stream is what the guest and the host of a VM run say to each other:
// lines on a serial port, of which those that begin with Mark are messages, and
// the rest is the output of the tier that runs.
package stream

import (
	"encoding/json"
	"strings"
)

// Mark begins a message. No test prints it: it holds a control character.
const Mark = "\x1dvm "

// The kinds of messages.
const (
	Ready = "ready" // the guest is up; Text says what it is
	Begin = "begin" // Tier is about to run
	End   = "end"   // it ended; Text says why it failed, empty if its status was 0
	Done  = "done"  // every tier has run
	// Compile: Text is a recipe that the guest had to compile itself.
	Compile = "compile"
)

// Skip begins a word of the kernel's command line: so many tiers are not run, from
// the first on.
const Skip = "cordon.skip="

// Compiled is where the guest has programs that were compiled ahead, by the
// keys of their recipes.
const Compiled = "/var/tmp/gcc"

// Tier is one program that the guest runs as a part of the suite.
type Tier struct {
	Name string   // "github.com/cordonhq/cordon/cgroups"
	Dir  string   // in the guest
	Argv []string // with an absolute path
	Env  []string `json:",omitempty"` // NAME=VALUE, added to the guest's own
	// Test says that it is a Go test binary. Any other program is one test,
	// which passes if its exit status is 0.
	Test bool
}

// Message is one message.
type Message struct {
	Kind    string
	Tier    Tier    `json:",omitzero"`
	Text    string  `json:",omitempty"`
	Seconds float64 `json:",omitempty"`
	Idle    float64 `json:",omitempty"` // seconds of processors that had nothing to do
}

// Format gives a message as a line, without a line feed.
func Format(m Message) (string, error) {
	b, err := json.Marshal(m)
	return Mark + string(b), err
}

// Parse reads a line; not ok if it is output. A message that is cut off is
// output, too.
func Parse(line string) (m Message, ok bool) {
	text, found := strings.CutPrefix(line, Mark)
	if !found {
		return Message{}, false
	}
	return m, json.Unmarshal([]byte(text), &m) == nil
}
