package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// A filter is compiled by libseccomp, and a limit of cgroup v1 that is more than
// a number set by containerd/cgroups. This program links neither: it asks
// "cordond compile-filter" or "cordond set-limit", with the spec as JSON on
// standard input; the BPF program comes on standard output.
const (
	helperName   = "cordond"
	filterVerb   = "compile-filter"
	limitVerb    = "set-limit"
	helperWait   = 10 * time.Second
	maxProgram   = 4096 * 8 // BPF_MAXINSNS instructions of 8 bytes
	maxComplaint = 4096
)

// cacheDir keeps compiled filters between runs.
const cacheDir = "/var/cache/cordon/filters"

// compileByHelper has the helper compile f. The launcher says what failed, so
// the errors here say only why.
func compileByHelper(f seccomp.Filter) ([]byte, error) {
	program, from, err := byHelper(filterVerb, f)
	if err != nil {
		return nil, err
	}
	return program, checkProgram(program, from)
}

// checkProgram says whether what from gave can be a BPF program.
func checkProgram(program []byte, from string) error {
	if len(program) == 0 || len(program)%8 != 0 {
		return fmt.Errorf("%s gave %d bytes, which is no program", from, len(program))
	}
	return nil
}

// setByHelper has the helper set f.
func setByHelper(f cgroups.Form) error {
	_, _, err := byHelper(limitVerb, f)
	return err
}

// byHelper hands spec to the helper. It gives the answer, and the helper's name.
func byHelper(verb string, spec any) ([]byte, string, error) {
	helper, err := openHelper(helperDirs())
	if err != nil {
		return nil, "", err
	}
	defer helper.Close()
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperWait)
	defer cancel()
	answer, err := askHelper(ctx, helper, verb, text)
	return answer, helper.Name(), err
}

// askHelper runs the very file that was checked, by its descriptor.
func askHelper(ctx context.Context, helper *os.File, verb string, spec []byte) ([]byte, error) {
	program := capped{limit: maxProgram}
	complaint := capped{limit: maxComplaint}
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", verb)
	cmd.Args[0] = helper.Name()
	cmd.ExtraFiles = []*os.File{helper} // descriptor 3
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(spec), &program, &complaint
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch said := strings.TrimSpace(complaint.buf.String()); {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s took longer than %s", helper.Name(), helperWait)
	case program.over:
		return nil, fmt.Errorf("%s gave more than %d bytes", helper.Name(), maxProgram)
	case err != nil && said != "":
		return nil, fmt.Errorf("%s: %w: %s", helper.Name(), err, violation.Escape(said, maxComplaint))
	case err != nil:
		return nil, fmt.Errorf("%s: %w", helper.Name(), err)
	}
	return program.buf.Bytes(), nil
}

// helperDirs are where the helper may be: beside this program, or where
// packages put it.
func helperDirs() []string {
	dirs := []string{"/usr/libexec/cordon", "/usr/sbin"}
	if self, err := os.Readlink("/proc/self/exe"); err == nil {
		dirs = append([]string{filepath.Dir(self)}, dirs...)
	}
	return dirs
}

// openHelper opens the first helper that there is. One that somebody other than
// root could have written is refused, not passed over: it is what the filter
// comes from.
func openHelper(dirs []string) (*os.File, error) {
	for _, dir := range dirs {
		f, err := os.Open(filepath.Join(dir, helperName))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = checkHelper(f)
		}
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	return nil, fmt.Errorf("there is no %s in %s", helperName, strings.Join(dirs, ", "))
}

// checkHelper closes f if it is refused.
func checkHelper(f *os.File) error {
	info, err := f.Stat()
	if err == nil && !ownedByRoot(info) || err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file that root alone can write: chown root and chmod go-w it", f.Name())
	}
	if err != nil {
		f.Close()
	}
	return err
}

// ownedByRoot says whether root alone can write to what info describes.
func ownedByRoot(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Uid == 0 && info.Mode().Perm()&0o022 == 0
}

// safeCacheDir makes the directory of compiled filters, and is empty when it,
// or one above it, could have been prepared by someone other than root: then
// filters are kept in memory only.
func safeCacheDir() string { return makeSafe(cacheDir) }

func makeSafe(dir string) string {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return ""
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return ""
	}
	for at := dir; at != "/"; at = filepath.Dir(at) {
		if info, err := os.Lstat(at); err != nil || !info.IsDir() || !ownedByRoot(info) {
			return ""
		}
	}
	return dir
}

// capped keeps limit bytes and fails on more. The buffer is a field, so that
// nothing but Write can fill it.
type capped struct {
	buf   bytes.Buffer
	limit int
	over  bool
}

// Write adds p, or fails when the whole is over the limit.
func (c *capped) Write(p []byte) (int, error) {
	if c.buf.Len()+len(p) > c.limit {
		c.over = true
		return 0, io.ErrShortWrite
	}
	return c.buf.Write(p)
}
