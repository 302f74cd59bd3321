//go:build walltest

package escape

import (
	"fmt"
	"os"
	"strings"

	"github.com/cordonhq/cordon/supervisor/launch"
)

func descriptorCases() []escape {
	return inCategory("descriptors", []escape{
		{
			name: "a directory as standard input", after: "CVE-2024-21626", walls: []string{"directory streams", "landlock"},
			prepare: func(t *trial) { t.folder("in"); t.put("secret", t.token, 0o644) },
			request: func(t *trial, r *launch.Request) {
				dir, err := os.Open(t.fileIn("in"))
				t.must(err)
				t.cleanup(func() { _ = dir.Close() })
				r.Stdin = dir
			},
			args: func(*trial) []string { return []string{"walk", "0", "../secret"} }, escaped: leaked, refused: true,
		},
		{
			name: "what the launcher has open", after: "CVE-2024-21626", walls: []string{"descriptors", "landlock"},
			args: func(*trial) []string { return []string{"walk", "5", "cgroup.procs"} },
			escaped: func(t *trial) string {
				// With the leak alone it holds them and gets no further; without both
				// walls it reads the host's tree.
				if out, _, _ := strings.Cut(t.output(), "ready"); len(t.descriptors()) > 3 && !strings.Contains(out, "openat:") {
					return fmt.Sprintf("it walks the host's tree from %q", t.descriptors())
				}
				return ""
			},
		},
		{
			name: "more than its three streams", walls: []string{"descriptors"}, args: func(*trial) []string { return []string{"token", "-"} },
			escaped: func(t *trial) string {
				if fds := t.descriptors(); len(fds) > 3 {
					return fmt.Sprintf("it has %q open", fds)
				}
				return ""
			},
		},
		{
			name: "its standard input for writing", walls: []string{"landlock"},
			prepare: func(t *trial) { t.put("open", "mine", 0o666) },
			request: func(t *trial, r *launch.Request) {
				f, err := os.Open(t.fileIn("open"))
				t.must(err)
				t.cleanup(func() { _ = f.Close() })
				r.Stdin = f
			},
			args: func(t *trial) []string { return []string{"reopen", "/proc/self/fd/0", t.token} }, escaped: written("open"),
		},
	})
}
