package manifest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// apiIncludes says whether a range of API versions, such as ">=1, <2" or "1",
// includes a version. Comparisons are joined by commas, all must hold.
func apiIncludes(text string, version int) (bool, error) {
	if len(text) > 64 {
		return false, errors.New("the range is too long")
	}
	all := true
	for _, term := range strings.Split(text, ",") {
		term = strings.TrimSpace(term)
		number := strings.TrimLeft(term, "<>=")
		op := term[:len(term)-len(number)]
		n, err := strconv.ParseUint(strings.TrimSpace(number), 10, 16)
		if err != nil {
			return false, fmt.Errorf("%q is no comparison with a version number", term)
		}
		holds, err := compare(op, version, int(n))
		if err != nil {
			return false, err
		}
		all = all && holds
	}
	return all, nil
}

func compare(op string, a, b int) (bool, error) {
	switch op {
	case "", "=":
		return a == b, nil
	case ">=":
		return a >= b, nil
	case "<=":
		return a <= b, nil
	case ">":
		return a > b, nil
	case "<":
		return a < b, nil
	}
	return false, fmt.Errorf("%q is no comparison: use >=, >, <=, < or =", op)
}
