package profiles

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/cordonhq/cordon/profiles/strict"
)

// shorthands are the short accesses in Landlock's words; landlock(7). Making
// device nodes is in none of them.
var shorthands = map[string][]string{
	"r":  {"read_dir", "read_file"},
	"rx": {"execute", "read_dir", "read_file"},
	"rw": {
		"make_dir", "make_fifo", "make_reg", "make_sock", "make_sym", "read_dir", "read_file",
		"refer", "remove_dir", "remove_file", "truncate", "write_file",
	},
}

// extraRights are Landlock's file rights that no shorthand has; they come only
// by name. make_char and make_block are in none: a plugin makes no devices.
var extraRights = map[string]bool{"ioctl_dev": true, "resolve_unix": true}

// rights are all rights that a grant may name, sorted.
var rights = sync.OnceValue(func() []string {
	set := map[string]bool{}
	for _, list := range shorthands {
		for _, r := range list {
			set[r] = true
		}
	}
	for r := range extraRights {
		set[r] = true
	}
	return sortedKeys(set)
})

// ExpandAccess turns "r", "rw" or "rx", or Landlock's own names, into
// Landlock's names, sorted. Writing and executing together is an error: what a
// plugin can write it must not be able to run.
func ExpandAccess(words []string) ([]string, error) {
	if len(words) == 0 {
		return nil, fmt.Errorf(`expected "r", "rw", "rx" or a list of Landlock's access names`)
	}
	if len(words) == 1 && shorthands[words[0]] != nil { // as nearly all do; they are sorted
		return slices.Clone(shorthands[words[0]]), nil
	}
	set := map[string]bool{}
	known := rights()
	for _, w := range words {
		switch short := shorthands[w]; {
		case w == "rwx" || w == "wx" || w == "xw" || w == "rxw":
			return nil, errWX
		case short != nil:
			for _, r := range short {
				set[r] = true
			}
		case contains(known, w):
			set[w] = true
		default:
			return nil, unknownAccess(w, known)
		}
	}
	if set["execute"] && (set["write_file"] || set["make_reg"] || set["truncate"] || set["refer"]) {
		return nil, errWX
	}
	return sortedKeys(set), nil
}

var errWX = fmt.Errorf(`cannot grant writing and executing at one path: what is written there could then be run; grant "rw", and "rx" for programs elsewhere`)

func unknownAccess(w string, known []string) error {
	near := strict.Nearest(w, append([]string{"r", "rw", "rx"}, known...))
	hint := "Landlock's names are " + strings.Join(known, ", ")
	if near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	if w == "w" {
		hint = `"rw" is reading and writing; writing alone is ["write_file"]`
	}
	return fmt.Errorf(`expected "r", "rw", "rx" or a list of Landlock's access names, got %q; %s`, w, hint)
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

// subset says whether every element of a is in b; both sorted or not.
func subset(a, b []string) bool {
	for _, one := range a {
		if !contains(b, one) {
			return false
		}
	}
	return true
}
