package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles"
	"github.com/cordonhq/cordon/profiles/plan"
)

// grants are the files that --ro and --rw give.
func grants(o *Options) ([]plan.File, error) {
	var out []plan.File
	for _, kind := range []struct {
		flag, access string
		words        []string
	}{{"--ro", "rx", o.ReadOnly}, {"--rw", "rw", o.ReadWrite}} {
		access, err := profiles.ExpandAccess([]string{kind.access})
		if err != nil {
			return nil, err
		}
		for _, word := range kind.words {
			f, err := grant(word)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", kind.flag, word, err)
			}
			if i := slices.IndexFunc(out, func(g plan.File) bool { return g.Path == f.Path }); i >= 0 {
				return nil, fmt.Errorf("%s %s: %s is granted twice (%s)", kind.flag, word, f.Path, out[i].Origin)
			}
			f.Access, f.Origin = access, kind.flag
			out = append(out, f)
		}
	}
	return out, nil
}

// grant reads one PATH[:DEST]. PATH may be relative to the caller's directory;
// symbolic links in it are followed now, once, because it is the operator's own
// word; none is followed later.
func grant(word string) (plan.File, error) {
	source, dest, err := split(word)
	if err != nil {
		return plan.File{}, err
	}
	source, err = filepath.Abs(source)
	if err != nil {
		return plan.File{}, err
	}
	if dest == "" {
		dest = source
	}
	if err := checkDest(dest); err != nil {
		return plan.File{}, err
	}
	from, err := filepath.EvalSymlinks(source)
	if err != nil {
		return plan.File{}, bare(err)
	}
	return plan.File{Path: dest, From: from}, checkSource(from)
}

// split divides PATH[:DEST] at the last colon before a slash. A colon without
// one belongs to PATH, if there is such a file.
func split(word string) (source, dest string, err error) {
	if word == "" {
		return "", "", errors.New("expected PATH or PATH:DEST")
	}
	if i := strings.LastIndex(word, ":/"); i > 0 {
		return word[:i], word[i+1:], nil
	}
	if _, err := os.Lstat(word); err != nil && strings.Contains(word, ":") {
		return "", "", errors.New("DEST must be absolute")
	}
	return word, "", nil
}

// reserved are the places inside that are not for grants: the first group with
// everything below it.
var (
	reservedTrees = []string{"/proc", "/sys", "/dev", "/plugin"}
	reservedDirs  = []string{"/", "/tmp", "/data"}
)

func checkDest(dest string) error {
	if !path.IsAbs(dest) || path.Clean(dest) != dest {
		return fmt.Errorf("DEST must be absolute and clean: %s", path.Clean("/"+dest))
	}
	if slices.Contains(reservedDirs, dest) {
		return fmt.Errorf("%s is the sandbox's own: choose another place with :DEST", dest)
	}
	for _, tree := range reservedTrees {
		if dest == tree || strings.HasPrefix(dest, tree+"/") {
			return fmt.Errorf("%s is the sandbox's own, with all below it: choose another place with :DEST", tree)
		}
	}
	return nil
}

// checkSource admits regular files and directories. A socket, pipe or device
// would be a door, not a file.
func checkSource(name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return bare(err)
	}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return fmt.Errorf("%s is neither a file nor a directory", name)
	}
	return nil
}

// bare drops the operation from a path error: "lstat" helps nobody.
func bare(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return fmt.Errorf("%s: %w", pathErr.Path, pathErr.Err)
	}
	return err
}
