package main

import (
	"fmt"
	"strings"
)

// The most of a command's output that is shown: lines, and bytes of a line.
const (
	maxLines = 60
	maxLine  = 170
)

// say prints a sentence to the audience.
func say(format string, args ...any) {
	fmt.Printf("   %s\n", fmt.Sprintf(format, args...))
}

// printCommand prints a command as one would type it.
func printCommand(args []string) {
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = arg
		if strings.ContainsAny(arg, " {}\"'*") {
			words[i] = "'" + arg + "'"
		}
	}
	fmt.Printf("   $ cordon %s\n", strings.Join(words, " "))
}

// printOutput prints what a command printed, set in, long lines cut.
func printOutput(text string) { printLines(text, maxLines) }

// printLines prints that many lines of it.
func printLines(text string, most int) {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if i == most {
			fmt.Printf("     ... and %d more lines\n", len(lines)-i)
			return
		}
		fmt.Printf("     %s\n", cut(line))
	}
}

// cut shortens a line to what a terminal shows.
func cut(line string) string {
	if len(line) <= maxLine {
		return line
	}
	return strings.ToValidUTF8(line[:maxLine], "") + " ..."
}
