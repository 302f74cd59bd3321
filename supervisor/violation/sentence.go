package violation

import (
	"fmt"
	"strings"
	"time"
)

// Sentence says in one line which wall refused what, and what came of it. It
// ends without a full stop and holds nothing that could move a terminal's
// cursor or begin a line.
func Sentence(v Violation) string {
	if v.NotEnforced {
		return "seccomp is not enforced (complain mode): " + callInWords(v) + crowd(v) + ", which no rule allows, was recorded and then made"
	}
	if v.Killed && (v.Action == Log || v.Action == Deny) {
		return fact(v) + "; the kernel killed the process that made it"
	}
	return fact(v) + outcome(v.Action)
}

// fact is the wall and the thing refused.
func fact(v Violation) string {
	switch v.Wall {
	case Seccomp:
		return "seccomp refused " + callInWords(v) + crowd(v)
	case Files:
		return "the files wall refused " + fileInWords(v)
	case Memory:
		return "the memory wall was hit: " + limitInWords(v, "memory.max", Size)
	case Pids:
		return "the pids wall was hit: " + limitInWords(v, "pids.max", func(n int64) string { return fmt.Sprint(n) })
	case Time:
		return "the time wall was hit: " + limitInWords(v, Escape(v.What, maxText), func(n int64) string { return Span(time.Duration(n)) })
	case IPC:
		return "the protocol was broken: " + Escape(v.What, maxText)
	case Grant:
		return "the grants refused " + Escape(v.What, maxText)
	case Watchdog:
		return "the watchdog was not answered: " + Escape(v.What, maxText)
	}
	return "the wall " + Escape(string(v.Wall), maxText) + " refused " + Escape(v.What, maxText)
}

// crowd tells of calls that were not reported one by one.
func crowd(v Violation) string {
	switch {
	case v.Flood:
		return fmt.Sprintf(" after a flood of refused calls (%d not listed)", v.Suppressed)
	case v.Suppressed > 0:
		return fmt.Sprintf(" after %d more refused calls that are not listed", v.Suppressed)
	default:
		return ""
	}
}

// callInWords is the call with its arguments as a C programmer writes it.
func callInWords(v Violation) string {
	call := v.Call
	if call == "" {
		call = v.What
	}
	if !isCallName(call) && len(v.Args) == 0 {
		return Escape(call, maxText)
	}
	args := make([]string, 0, maxArgs)
	for i, a := range v.Args {
		if i == maxArgs {
			args = append(args, "...")
			break
		}
		args = append(args, Escape(a, maxArg))
	}
	return Escape(call, maxArg) + "(" + strings.Join(args, ", ") + ")"
}

func fileInWords(v Violation) string {
	access, name := v.Access, v.Path
	if access == "" || name == "" {
		return Escape(v.What, maxPath)
	}
	words := "to " + Escape(access, maxText) + " " + Escape(name, maxPath)
	if v.Call != "" {
		words += " (" + Escape(v.Call, maxArg) + ")"
	}
	return words
}

// limitInWords is the limit with its figure, where that is known.
func limitInWords(v Violation, name string, figure func(int64) string) string {
	if v.Limit <= 0 {
		return name + " is used up"
	}
	return name + " (" + figure(v.Limit) + ") is used up"
}

// outcome is what was done, as the end of a sentence.
func outcome(a Action) string {
	switch a {
	case Log:
		return "; it was only recorded"
	case Deny:
		return "; the plugin went on without it"
	case Kill:
		return "; the plugin was killed"
	case Quarantine:
		return "; the plugin was killed and is in quarantine"
	}
	return ""
}

// Paragraph explains v to a person in a few lines: what Sentence says, where
// in the plugin it was, the rule that refused it and who wrote that, the
// change that would allow it, and what else that change would do. It ends with
// a line end.
func Paragraph(v Violation) string {
	var b strings.Builder
	b.WriteString(upperFirst(Sentence(v)) + ".\n")
	if where := whereInWords(v); where != "" {
		b.WriteString("Where: " + where + "\n")
	}
	if v.Rule != "" {
		b.WriteString("Rule: " + Escape(v.Rule, 2*maxText) + "\n")
	}
	if v.Change != "" {
		b.WriteString("To allow it, add to the profile:\n" + indent(v.Change))
	}
	if v.Also != "" {
		b.WriteString(alsoLabel(v) + Escape(v.Also, 4*maxText) + "\n")
	}
	return b.String()
}

func alsoLabel(v Violation) string {
	if v.Change == "" {
		return "To allow it: "
	}
	return "But: "
}

// whereInWords names the process as the host sees it.
func whereInWords(v Violation) string {
	var parts []string
	if v.Plugin != "" {
		parts = append(parts, "plugin "+Escape(v.Plugin, maxText))
	}
	if v.Where.PID > 0 {
		parts = append(parts, fmt.Sprintf("process %d", v.Where.PID))
	}
	if v.Where.TID > 0 && v.Where.TID != v.Where.PID {
		parts = append(parts, fmt.Sprintf("thread %d", v.Where.TID))
	}
	if v.Where.Exe != "" {
		parts = append(parts, Escape(v.Where.Exe, maxPath))
	}
	if v.Where.PC != 0 {
		parts = append(parts, fmt.Sprintf("at %#x", v.Where.PC))
	}
	if v.Unverified {
		parts = append(parts, "unverified: the text comes from the plugin's memory")
	}
	return strings.Join(parts, ", ")
}

// indent sets every line of text four columns in, each made safe on its own.
func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + Escape(strings.TrimSuffix(line, "\n"), 2*maxText+maxPath) + "\n")
	}
	return b.String()
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
