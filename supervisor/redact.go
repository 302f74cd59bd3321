package supervisor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/plan"
)

// The bounds of the patterns that an operator may configure.
const (
	maxPatterns   = 64
	maxPatternLen = 1024
	minSecretLen  = 4 // a shorter value occurs everywhere by chance
)

// redacted stands where something was taken out of evidence.
const redacted = "[redacted]"

// harmless are the environment variables whose values say nothing that the
// plan does not say anyway.
var harmless = []string{"HOME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "TERM", "TMPDIR", "TZ", "USER"}

// builtinPatterns are the shapes of secrets that need no configuration. Where
// one has a group, the group is what is taken out.
var builtinPatterns = []*regexp.Regexp{
	regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)(?:-----END|$)`),
	regexp.MustCompile(`(?i)\b(?:bearer|basic)\s+([A-Za-z0-9._~+/=-]{8,})`),
	regexp.MustCompile(`(?i)(?:password|passwd|secret|token|api[_-]?key|access[_-]?key)["']?\s*[=:]\s*["']?([^\s"'&,;]{3,})`),
	regexp.MustCompile(`\b[a-z][a-z0-9+.-]*://[^/\s:@]*:([^/\s@]+)@`),
	regexp.MustCompile(`\b((?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abpr]-[A-Za-z0-9-]{10,})\b`),
}

// Patterns compiles an operator's regular expressions (RE2: linear in time).
func Patterns(texts []string) ([]*regexp.Regexp, error) {
	if len(texts) > maxPatterns {
		return nil, fmt.Errorf("expected at most %d patterns, got %d", maxPatterns, len(texts))
	}
	out := make([]*regexp.Regexp, 0, len(texts))
	for i, text := range texts {
		if len(text) > maxPatternLen || text == "" {
			return nil, fmt.Errorf("[%d]: expected 1 to %d bytes, got %d", i, maxPatternLen, len(text))
		}
		re, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		if re.MatchString("") {
			return nil, fmt.Errorf("[%d]: %q matches nothing at all, and so everywhere", i, text)
		}
		out = append(out, re)
	}
	return out, nil
}

// redactor takes the secrets out of one plugin's evidence.
type redactor struct {
	values   *strings.Replacer
	patterns []*regexp.Regexp
}

// newRedactor knows the plan's environment; patterns are the operator's, and
// secrets what the plugin was handed.
func newRedactor(pl *plan.Plan, patterns []*regexp.Regexp, secrets ...string) redactor {
	secrets = slices.Clone(secrets)
	if pl != nil {
		for _, entry := range pl.Process.Env {
			name, value, _ := strings.Cut(entry, "=")
			if len(value) >= minSecretLen && !slices.Contains(harmless, name) {
				secrets = append(secrets, value)
			}
		}
	}
	// The longest first: one value may hold another.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	pairs := make([]string, 0, 2*len(secrets))
	for _, s := range secrets {
		pairs = append(pairs, s, redacted)
	}
	return redactor{strings.NewReplacer(pairs...), append(slices.Clone(builtinPatterns), patterns...)}
}

// text redacts what a plugin may have written.
func (r redactor) text(s string) string {
	s = r.known(s)
	for _, re := range r.patterns {
		s = replaceGroup(re, s)
	}
	return s
}

// known takes out the values of the environment only.
func (r redactor) known(s string) string {
	if r.values == nil {
		return s
	}
	return r.values.Replace(s)
}

// replaceGroup replaces the first group of every match, or the whole match of
// an expression without groups.
func replaceGroup(re *regexp.Regexp, s string) string {
	var out strings.Builder
	at := 0
	for _, m := range re.FindAllStringSubmatchIndex(s, -1) {
		from, to := m[0], m[1]
		if len(m) > 2 && m[2] >= 0 {
			from, to = m[2], m[3]
		}
		out.WriteString(s[at:from])
		out.WriteString(redacted)
		at = to
	}
	if at == 0 {
		return s
	}
	out.WriteString(s[at:])
	return out.String()
}

// json marshals v with every text in it redacted, and the values of the
// environment gone whatever they are.
func (r redactor) json(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	return json.MarshalIndent(r.walk(tree), "", "  ")
}

func (r redactor) walk(v any) any {
	switch v := v.(type) {
	case string:
		return r.text(v)
	case []any:
		for i := range v {
			v[i] = r.walk(v[i])
		}
		return v
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			out[r.text(key)] = r.walk(value)
		}
		return out
	default:
		return v
	}
}

// withoutEnv is the plan with the names of its environment only.
func withoutEnv(pl *plan.Plan) *plan.Plan {
	if pl == nil {
		return nil
	}
	out := *pl
	out.Process.Env = make([]string, 0, len(pl.Process.Env))
	for _, entry := range pl.Process.Env {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.Contains(harmless, name) {
			entry = name + "=" + redacted
		}
		out.Process.Env = append(out.Process.Env, entry)
	}
	return &out
}
