// Package outage is what a guest whose power goes says to the host, and the
// judge of it: what the guest was told is so must be so when the power is back.
package outage

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// mark begins a line; the rest of a guest's output is not for the judge.
const mark = "outage "

// The words that begin what a guest says.
const (
	Mounting = "mounting" // the power is back
	State    = "state"    // NAME STATE: what a plugin is, before anything was asked
	Recorded = "recorded" // NAME KIND COUNT: records of the audit log
	Verified = "verified" // LAST: the audit log is whole, LAST is its newest record
	Up       = "up"       // all of it was looked at, and what may run does
	Asks     = "asks"     // WHAT NAME: it is about to ask for
	Told     = "told"     // WHAT NAME: it was told that it is so
	Failed   = "failed"   // something is not as it must be
)

// What a guest asks for.
const (
	Quarantine = "quarantine"
	Release    = "release"
	Install    = "install"
	Remove     = "remove"
)

// What a plugin can be to the judge.
const (
	absent      = "absent"
	free        = "free"
	quarantined = "quarantined"
)

// Format makes a line, without its end.
func Format(words ...string) string { return mark + strings.Join(words, " ") }

// Judge remembers what the guest was told, through every outage.
type Judge struct {
	may      map[string][]string // what each plugin may be
	recorded map[[2]string]int   // at least
	last     uint64              // the newest record that was seen
	seen     map[string]bool     // the plugins that this boot has spoken of
	counted  map[[2]string]bool  // the records that it has
	up       bool
	// Told counts what the guest was told, by what it had asked for.
	Told map[string]int
}

// NewJudge is of a disk on which nothing is.
func NewJudge() *Judge {
	return &Judge{may: map[string][]string{}, recorded: map[[2]string]int{}, seen: map[string]bool{}, counted: map[[2]string]bool{}, Told: map[string]int{}}
}

// PowerIsBack is before the first line of a boot.
func (j *Judge) PowerIsBack() {
	j.seen, j.counted, j.up = map[string]bool{}, map[[2]string]bool{}, false
}

// Up says whether the guest has looked at everything.
func (j *Judge) Up() bool { return j.up }

// Line takes one line of the guest's. An error is a promise that was not kept.
func (j *Judge) Line(line string) error {
	text, ok := strings.CutPrefix(line, mark)
	if !ok {
		return nil
	}
	word, rest, _ := strings.Cut(text, " ")
	f := strings.Fields(rest)
	switch {
	case word == Failed:
		return errors.New(rest)
	case word == Mounting:
		return nil
	case word == State && len(f) == 2:
		return j.state(f[0], f[1])
	case word == Recorded && len(f) == 3:
		n, err := strconv.Atoi(f[2])
		of := [2]string{f[0], f[1]}
		if want := j.recorded[of]; err != nil || n < want {
			return fmt.Errorf("the audit log has %s records that say %s of %s, and there were %d", f[2], f[1], f[0], want)
		}
		j.recorded[of], j.counted[of] = n, true
		return nil
	case word == Verified && len(f) == 1:
		return j.verified(f[0])
	case word == Up:
		j.up = true
		return nil
	case word == Asks && len(f) == 2:
		if to := outcome(f[0]); !slices.Contains(j.now(f[1]), to) {
			j.may[f[1]] = append(j.now(f[1]), to)
		}
		return nil
	case word == Told && len(f) == 2:
		return j.told(f[0], f[1])
	}
	return fmt.Errorf("cannot understand %q", line)
}

// outcome is what a plugin is when it was done.
func outcome(what string) string {
	return map[string]string{Quarantine: quarantined, Release: free, Install: free, Remove: absent}[what]
}

func (j *Judge) now(name string) []string {
	if may, ok := j.may[name]; ok {
		return may
	}
	return []string{absent}
}

func (j *Judge) told(what, name string) error {
	j.Told[what]++
	j.may[name] = []string{outcome(what)}
	switch what {
	case Quarantine:
		j.recorded[[2]string{name, "quarantined"}]++
	case Release:
		j.recorded[[2]string{name, "released"}]++
	}
	return nil
}

func (j *Judge) state(name, state string) error {
	is := free
	if state == "quarantined" {
		is = quarantined
	}
	j.seen[name] = true
	return j.is(name, is)
}

func (j *Judge) is(name, is string) error {
	if may := j.now(name); !slices.Contains(may, is) {
		return fmt.Errorf("%s is %s, and was %s", name, is, strings.Join(may, " or "))
	}
	j.may[name] = []string{is}
	return nil
}

// verified is said when every state was.
func (j *Judge) verified(text string) error {
	last, err := strconv.ParseUint(text, 10, 64)
	if err != nil || last < j.last {
		return fmt.Errorf("the audit log ends with record %s, and there was a record %d", text, j.last)
	}
	j.last = last
	var errs []error
	for of, n := range j.recorded {
		if n > 0 && !j.counted[of] {
			errs = append(errs, fmt.Errorf("the audit log has no record that says %s of %s, and there were %d", of[1], of[0], n))
		}
	}
	for name := range j.may {
		if !j.seen[name] {
			errs = append(errs, j.is(name, absent))
		}
	}
	return errors.Join(errs...)
}
