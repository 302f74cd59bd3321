package strict

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// Unlimited is what "max" reads as, the kernel's own word for no limit.
const Unlimited = -1

// Size is a number of bytes: 4096, "64K", "256M", "1.5G", "2T" (powers of
// 1024), or "max" for no limit.
type Size int64

// errSize completes "expected".
var errSize = errors.New(`a size such as "256M", "1.5G" or a number of bytes`)

// ParseTOML reads a Size.
func (s *Size) ParseTOML(v any) error {
	switch v := v.(type) {
	case int64:
		if v < 0 {
			return errSize
		}
		*s = Size(v)
		return nil
	case string:
		n, err := ParseSize(v)
		*s = n
		return err
	}
	return errSize
}

// ParseSize reads a Size from its written form.
func ParseSize(text string) (Size, error) {
	if text == "max" {
		return Unlimited, nil
	}
	number, shift := text, 0
	if i := strings.IndexAny(text, "KMGT"); i >= 0 && i == len(text)-1 {
		number, shift = text[:i], 10*(1+strings.IndexByte("KMGT", text[i]))
	}
	if !plainNumber(number) || shift == 0 && strings.Contains(number, ".") {
		return 0, errSize
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && n <= 1<<60>>shift {
		return Size(n << shift), nil
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, errSize
	}
	r.Mul(r, new(big.Rat).SetInt64(1<<shift))
	n := new(big.Int).Quo(r.Num(), r.Denom())
	if !n.IsInt64() || n.Int64() > 1<<60 {
		return 0, errors.New(`a size of at most 1E (2^60 bytes)`)
	}
	return Size(n.Int64()), nil
}

// plainNumber is digits with at most one point inside: no sign, no exponent.
func plainNumber(s string) bool {
	if len(s) == 0 || len(s) > 20 || s[0] == '.' || s[len(s)-1] == '.' || strings.Count(s, ".") > 1 {
		return false
	}
	return strings.Trim(s, "0123456789.") == ""
}

// String writes a Size as a person would.
func (s Size) String() string {
	if s == Unlimited {
		return "max"
	}
	for shift, unit := 40, 0; shift >= 10; shift, unit = shift-10, unit+1 {
		if s != 0 && int64(s)%(1<<shift) == 0 {
			return fmt.Sprintf("%d%c", int64(s)>>shift, "TGMK"[unit])
		}
	}
	return fmt.Sprint(int64(s))
}

// Count is a whole number of at least 0, or "max" for no limit.
type Count int64

// ParseTOML reads a Count.
func (c *Count) ParseTOML(v any) error {
	if n, ok := v.(int64); ok && n >= 0 {
		*c = Count(n)
		return nil
	}
	if v == "max" {
		*c = Unlimited
		return nil
	}
	return errors.New(`a whole number of at least 0, or "max"`)
}

// String writes a Count as it is written in a file.
func (c Count) String() string {
	if c == Unlimited {
		return "max"
	}
	return fmt.Sprint(int64(c))
}

// Duration is a span of time with its unit: "200ms", "10s", "1m30s", "2h". A
// bare number is refused: its unit would be a guess.
type Duration time.Duration

// maxDuration is about a year; more is a slip.
const maxDuration = 366 * 24 * time.Hour

// ParseTOML reads a Duration.
func (d *Duration) ParseTOML(v any) error {
	s, ok := v.(string)
	if !ok {
		return errors.New(`a duration with its unit, such as "200ms", "10s" or "1m30s"`)
	}
	n, err := time.ParseDuration(s)
	if err != nil || strings.HasPrefix(s, "+") {
		return errors.New(`a duration such as "200ms", "10s" or "1m30s"`)
	}
	if n < 0 || n > maxDuration {
		return errors.New(`a duration from "0s" to "8784h"`)
	}
	*d = Duration(n)
	return nil
}

// String writes a Duration as it is written in a file.
func (d Duration) String() string { return time.Duration(d).String() }

// Percent is of one processor: "100%" is one, "50%" half of one, "250%" two
// and a half; "max" is no limit. It is kept in thousandths of a processor.
type Percent int64

// errPercent and errBudget complete "expected".
var (
	errPercent = errors.New(`a percentage of one processor such as "50%" or "200%", or "max"`)
	errBudget  = errors.New(`a budget such as "20/h" (units s, min, h, d)`)
)

// ParseTOML reads a Percent.
func (p *Percent) ParseTOML(v any) error {
	s, ok := v.(string)
	if !ok {
		return errPercent
	}
	if s == "max" {
		*p = Unlimited
		return nil
	}
	number, found := strings.CutSuffix(s, "%")
	if !found || !plainNumber(number) {
		return errPercent
	}
	if n, err := strconv.Atoi(number); err == nil && n >= 1 && n <= 1e6 { // without the tables of fractions
		*p = Percent(n * 10)
		return nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return errPercent
	}
	if f < 1 || f > 1e6 || math.IsNaN(f) {
		return errors.New(`a percentage from "1%" to "1000000%"`)
	}
	*p = Percent(math.Round(f * 10))
	return nil
}

// String writes a Percent as it is written in a file.
func (p Percent) String() string {
	if p == Unlimited {
		return "max"
	}
	if p%10 == 0 {
		return fmt.Sprintf("%d%%", int64(p)/10)
	}
	return fmt.Sprintf("%.1f%%", float64(p)/10)
}

// Budget is how many violations are borne in a window: "20/h", "5/min",
// "100/d", "3/s".
type Budget struct {
	Count  int
	Window time.Duration
}

// windows are the units of a Budget.
var windows = map[string]time.Duration{"s": time.Second, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour}

// ParseTOML reads a Budget.
func (b *Budget) ParseTOML(v any) error {
	s, _ := v.(string)
	count, unit, ok := strings.Cut(s, "/")
	window, known := windows[unit]
	if !ok || !known || !plainNumber(count) || strings.Contains(count, ".") || len(count) > 6 {
		return errBudget
	}
	n, err := strconv.Atoi(count)
	if err != nil || n == 0 {
		return errBudget
	}
	b.Count, b.Window = n, window
	return nil
}
