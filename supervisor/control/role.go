package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// role is what a caller may do, with one plugin or with all.
type role int

const (
	nobody   role = iota
	observer      // look
	user          // and call, and attach: members of the group, with all plugins
	admin         // and start, stop, release
	owner         // everything: uid 0
)

// roles are the words of Rule.Role.
var roles = map[string]role{"observe": observer, "call": user, "admin": admin}

// Rule gives some callers a role, with some plugins. Whoever a rule names has
// what rules give, and nothing by the group.
type Rule struct {
	// Role is observe, call or admin, each of which includes those before it.
	Role       string
	UIDs, GIDs []uint32
	// Plugins are names, or beginnings of names before a final '*'; none is all.
	Plugins []string
}

// Check says what is wrong with a rule.
func (r Rule) Check() error {
	if _, ok := roles[r.Role]; !ok {
		return fmt.Errorf("role: expected observe, call or admin, got %.40q", r.Role)
	}
	if len(r.UIDs)+len(r.GIDs) == 0 {
		return errors.New("expected users or groups that have the role")
	}
	if slices.Contains(r.UIDs, 0) {
		return errors.New("users: root may do everything already")
	}
	for _, name := range r.Plugins {
		if name == "" || strings.ContainsAny(strings.TrimSuffix(name, "*"), "* \t\r\n") {
			return fmt.Errorf("plugins: expected names, or beginnings of names before a final '*', got %.40q", name)
		}
	}
	return nil
}

func (r Rule) names(c Caller) bool {
	return slices.Contains(r.UIDs, c.UID) || slices.Contains(r.GIDs, c.GID) ||
		slices.ContainsFunc(c.Groups, func(gid uint32) bool { return slices.Contains(r.GIDs, gid) })
}

// covers says whether the rule holds for a plugin; "" is all of them.
func (r Rule) covers(plugin string) bool {
	if len(r.Plugins) == 0 {
		return true
	}
	return plugin != "" && slices.ContainsFunc(r.Plugins, func(name string) bool {
		start, open := strings.CutSuffix(name, "*")
		return name == plugin || open && strings.HasPrefix(plugin, start)
	})
}

// SetRules makes these rules hold. Where they differ from those before, the
// connections of all but root are ended: what they carry was allowed by others.
func (s *Server) SetRules(rules []Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reflect.DeepEqual(rules, s.rules) {
		return
	}
	s.rules = slices.Clone(rules)
	for ss := range s.sessions {
		if ss.caller.UID != 0 {
			_ = ss.conn.Close()
		}
	}
}

// roleOf is what a caller may do with a plugin; with "", what it may do with all
// of them.
func (s *Server) roleOf(c Caller, plugin string) role {
	return s.best(c, func(r Rule) bool { return r.covers(plugin) })
}

// mostOf is the most that a caller may do with any plugin.
func (s *Server) mostOf(c Caller) role { return s.best(c, func(Rule) bool { return true }) }

func (s *Server) best(c Caller, holds func(Rule) bool) role {
	if c.UID == 0 || switchedOff("roles") {
		return owner
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	named, most := false, nobody
	for _, r := range s.rules {
		if !r.names(c) {
			continue
		}
		named = true
		if holds(r) {
			most = max(most, roles[r.Role])
		}
	}
	if !named && s.group >= 0 && (int(c.GID) == s.group || slices.Contains(c.Groups, uint32(s.group))) {
		return user
	}
	return most
}

// about is params of a verb that is about one plugin, or about all where the
// name is empty.
type about interface{ about() string }

func (p NameParams) about() string    { return p.Name }
func (p CallParams) about() string    { return p.Name }
func (p SwapParams) about() string    { return p.Name }
func (p ReleaseParams) about() string { return p.Name }
func (p LogsParams) about() string    { return p.Name }
func (p EventsParams) about() string  { return p.Name }

// named reads which plugin a request is about, by the reader that its verb has:
// another might find another name in the same bytes.
func named[P about](raw json.RawMessage) (string, error) {
	p, err := decode[P](raw)
	return p.about(), err
}
