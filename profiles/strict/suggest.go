package strict

import "strings"

// Nearest gives the candidate that a person most likely meant by word, or ""
// if none is near: the same letters in another spelling (RestartSec and
// restart_sec, memory_max and memory.max), or a slip of the fingers.
func Nearest(word string, candidates []string) string {
	for _, c := range candidates {
		if squash(c) == squash(word) {
			return c
		}
	}
	if c := byLastPart(word, candidates); c != "" {
		return c
	}
	best, at := "", 1+max(1, len(word)/3)
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < at {
			best, at = c, d
		}
	}
	return best
}

// byLastPart finds the one dotted candidate that ends in word: nofile for
// rlimit.nofile.
func byLastPart(word string, candidates []string) string {
	found := ""
	for _, c := range candidates {
		if i := strings.LastIndexByte(c, '.'); i < 0 || squash(c[i+1:]) != squash(word) {
			continue
		}
		if found != "" {
			return ""
		}
		found = c
	}
	return found
}

func squash(s string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r == '.' || r == ' ' || r == '"' {
			return -1
		}
		return r
	}, s))
}

// distance is the number of insertions, deletions, substitutions and swaps of
// neighbours between two words; words over 64 bytes are not compared.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
