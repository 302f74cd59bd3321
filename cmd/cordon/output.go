package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/supervisor/violation"
)

// maxCell bounds one cell of a table, in bytes.
const maxCell = 160

// jsonFlag adds --json to a verb that prints data.
func jsonFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print JSON")
}

// printJSON writes v as one line of JSON.
func printJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", safeJSON(b))
	return err
}

// safeJSON writes what does not print (a plugin may have put it there) as JSON
// escapes; the value stays the same. Line ends and blanks between tokens stay.
func safeJSON(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		switch {
		case r == '\n' || strconv.IsPrint(r) && (r != utf8.RuneError || size > 1):
			out = append(out, b[:size]...)
		default:
			for _, unit := range utf16.Encode([]rune{r}) {
				out = fmt.Appendf(out, `\u%04x`, unit)
			}
		}
		b = b[size:]
	}
	return out
}

// indentJSON is b over several lines, or b itself if it is no JSON.
func indentJSON(b []byte) []byte {
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return b
	}
	return out.Bytes()
}

// table writes rows in columns. The first row is the heading; an empty cell is
// shown as "-". What a plugin could have chosen is escaped, all of it.
func table(w io.Writer, rows [][]string) {
	widths := make([]int, 0, 8)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = cellText(cell)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

func cellText(cell string) string {
	if cell == "" {
		return "-"
	}
	return violation.Escape(cell, maxCell)
}

// showsColour says whether f is a terminal whose user did not forbid colours;
// https://no-color.org.
func showsColour(f *os.File) bool {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// The colours, as terminals number them.
const (
	red    = 31
	green  = 32
	yellow = 33
)

// paint colours text, where colours are shown.
func (a *app) paint(colour int, text string) string {
	if !a.colour {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", colour, text)
}

// bytesText is a size for people: 70.3M.
func bytesText(n int64) string {
	const unit = 1024
	if n < 0 {
		return ""
	}
	value, units := float64(n), "BKMGT"
	for value >= unit && len(units) > 1 {
		value, units = value/unit, units[1:]
	}
	if units[0] == 'B' {
		return fmt.Sprintf("%dB", n)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") + units[:1]
}

// spanText is a duration for people: 3d4h, 2h5m, 1m30s, 12s, 80ms.
func spanText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d <= 0:
		return ""
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		return violation.Span(d.Round(time.Second))
	case d < day:
		return violation.Span(d.Round(time.Minute))
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}

// timeText is a moment as logs have it, in the reader's zone.
func timeText(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000") }
