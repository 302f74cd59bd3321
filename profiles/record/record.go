// Package record learns from real runs what a program does, and writes the
// profile that allows that and no more.
//
// A [Recorder] answers every system call of a run: what an ordinary program may
// ask is noted and goes on, what no profile should open is refused and noted as
// refused. What it notes is a [Recording], plain data that is kept in a file and
// merged with those of other runs. [Recording.Profile] writes the profile,
// [Cover] tells how much of what the program could call was seen.
//
// Paths and addresses are read from the program's memory and are what it showed
// at that moment. They are not used to decide anything while it runs, and what
// comes of them is a profile that a person reads before it is used.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Bounds of a recording; what lies beyond them is counted as left out.
const (
	// MaxFile bounds the size in bytes of a recording that is read.
	MaxFile = 8 << 20
	// maxUses is how many different uses of one call are told apart.
	maxUses  = 32
	maxPaths = 8192
	maxNames = 256 // addresses, programs, commands
)

// version is of the file's form.
const version = 1

// Recording is what was seen in one run or several.
type Recording struct {
	Version int `json:"version"`
	// Commands are what was run, each once.
	Commands [][]string `json:"commands"`
	Runs     int        `json:"runs"`
	// Calls are by name. Refused are those that were not let through.
	Calls map[string]*Use `json:"calls"`
	// Answered are those that a guard answered with an errno.
	Answered map[string]*Use `json:"answered,omitempty"`
	Refused  map[string]*Use `json:"refused,omitempty"`
	// Paths are what was opened, listed, asked about or executed, as the program
	// sees it, with the rights that it needed.
	Paths map[string]*Path `json:"paths,omitempty"`
	// Execs are the programs that it executed after it had been started.
	Execs []string `json:"execs,omitempty"`
	// Connects are the addresses that it tried to reach; there was no network.
	Connects []string `json:"connects,omitempty"`
	// Limits are what was reached, in words.
	Limits []string `json:"limits,omitempty"`
	// The most that was used at once: bytes of memory and of writable private
	// memory (what rlimit.data bounds), processes and threads.
	MemoryPeak int64 `json:"memory_peak"`
	DataPeak   int64 `json:"data_peak"`
	Tasks      int   `json:"tasks"`
	// LeftOut counts what lay beyond the bounds.
	LeftOut int `json:"left_out,omitempty"`
}

// Use is how a call was used.
type Use struct {
	Count int    `json:"count"`
	Errno string `json:"errno,omitempty"` // of what was answered
	// Args are the different uses by the arguments that matter; the others are
	// 0. Many says that there were more than are kept.
	Args []Args `json:"args,omitempty"`
	Many bool   `json:"many,omitempty"`
}

// Args are the six arguments of a call, cut to what the kernel reads.
type Args [6]uint64

// Path is what was needed of one path.
type Path struct {
	// From is what it is on the host.
	From   string   `json:"from,omitempty"`
	Access []string `json:"access"` // Landlock's names, sorted
	// Grant is the path of the writable grant that it lies in, if it does.
	Grant string `json:"grant,omitempty"`
}

// New is a recording of no run.
func New() *Recording {
	return &Recording{Version: version, Calls: map[string]*Use{}, Answered: map[string]*Use{}, Refused: map[string]*Use{}, Paths: map[string]*Path{}}
}

// Parse reads what Encode wrote.
func Parse(data []byte) (*Recording, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("it has more than %d bytes", MaxFile)
	}
	r := New()
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("it is not what cordon profile record writes: %w", err)
	}
	if r.Version != version {
		return nil, fmt.Errorf("it is of version %d, and this program reads version %d", r.Version, version)
	}
	return r, r.check()
}

// check refuses what a profile must not be written from.
func (r *Recording) check() error {
	for _, uses := range []map[string]*Use{r.Calls, r.Answered, r.Refused} {
		for name, u := range uses {
			if u == nil || !knownCall(name) || len(u.Args) > maxUses {
				return fmt.Errorf("call %.64q is none, or without its uses", name)
			}
		}
	}
	if len(r.Paths) > maxPaths {
		return fmt.Errorf("it has more than %d paths", maxPaths)
	}
	for path, p := range r.Paths {
		if p == nil || !strings.HasPrefix(path, "/") {
			return fmt.Errorf("path %.64q is not absolute, or without its rights", path)
		}
	}
	if r.Runs < 0 || r.Tasks < 0 || r.MemoryPeak < 0 || r.DataPeak < 0 {
		return errors.New("a count is below 0")
	}
	return nil
}

// Encode writes the recording; the same recording gives the same bytes.
func (r *Recording) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", " ")
	return append(data, '\n'), err
}

// Merge adds what another recording has.
func (r *Recording) Merge(o *Recording) {
	r.Runs += o.Runs
	for _, command := range o.Commands {
		if !slices.ContainsFunc(r.Commands, func(c []string) bool { return slices.Equal(c, command) }) && len(r.Commands) < maxNames {
			r.Commands = append(r.Commands, command)
		}
	}
	mergeUses(r.Calls, o.Calls)
	mergeUses(r.Answered, o.Answered)
	mergeUses(r.Refused, o.Refused)
	for _, path := range slices.Sorted(maps.Keys(o.Paths)) {
		p := o.Paths[path]
		r.path(path, p.From, p.Grant, p.Access...)
	}
	for _, exec := range o.Execs {
		r.Execs = r.name(r.Execs, exec)
	}
	for _, address := range o.Connects {
		r.Connects = r.name(r.Connects, address)
	}
	for _, limit := range o.Limits {
		r.Limits = r.name(r.Limits, limit)
	}
	r.MemoryPeak, r.DataPeak = max(r.MemoryPeak, o.MemoryPeak), max(r.DataPeak, o.DataPeak)
	r.Tasks = max(r.Tasks, o.Tasks)
	r.LeftOut += o.LeftOut
}

func mergeUses(into, from map[string]*Use) {
	for name, u := range from {
		have := into[name]
		if have == nil {
			have = &Use{}
			into[name] = have
		}
		have.Count, have.Errno = have.Count+u.Count, u.Errno
		have.Many = have.Many || u.Many
		for _, args := range u.Args {
			have.add(args)
		}
	}
}

// add notes one use. They are kept sorted.
func (u *Use) add(args Args) {
	at, have := slices.BinarySearchFunc(u.Args, args, func(a, b Args) int { return slices.Compare(a[:], b[:]) })
	switch {
	case have:
	case len(u.Args) == maxUses:
		u.Many = true
	default:
		u.Args = slices.Insert(u.Args, at, args)
	}
}

// use notes a call.
func use(uses map[string]*Use, name string, args Args) {
	u := uses[name]
	if u == nil {
		u = &Use{}
		uses[name] = u
	}
	u.Count++
	if len(telling[name]) > 0 {
		u.add(args)
	}
}

// path notes what is needed of a path.
func (r *Recording) path(path, from, grant string, access ...string) {
	p := r.Paths[path]
	if p == nil {
		if len(r.Paths) == maxPaths {
			r.LeftOut++
			return
		}
		p = &Path{From: from, Grant: grant}
		r.Paths[path] = p
	}
	for _, right := range access {
		if at, have := slices.BinarySearch(p.Access, right); !have {
			p.Access = slices.Insert(p.Access, at, right)
		}
	}
}

// name notes one of a bounded list, sorted.
func (r *Recording) name(list []string, name string) []string {
	at, have := slices.BinarySearch(list, name)
	switch {
	case have:
		return list
	case len(list) == maxNames:
		r.LeftOut++
		return list
	}
	return slices.Insert(list, at, name)
}
