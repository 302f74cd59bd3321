package launch

import (
	"slices"
	"testing"

	"github.com/cordonhq/cordon/namespaces"
)

// The digest of a plan tells all that differs between two starts apart.
func TestPlanDigestTellsStartsApart(t *testing.T) {
	mounts := []namespaces.Mount{{Path: "/data", From: "/srv/a"}}
	runBy := []Interpreter{{Path: "/bin/a", File: "/usr/bin/a", Digest: "sha256:a"}}
	steps := []namespaces.Step{
		{Op: namespaces.OpMkdir, Wall: "mount", A: 0o755, S: "/data"},
		{Op: namespaces.OpExec, Paths: []string{"/bin/a"}, Args: []string{"a", "b"}, Env: []string{"X=1"}, Bytes: []byte{1}},
	}
	base := planDigest("sha256:policy", mounts, runBy, steps, 1000)
	change := func(f func([]namespaces.Step)) string {
		other := slices.Clone(steps)
		f(other)
		return planDigest("sha256:policy", mounts, runBy, other, 1000)
	}
	all := []string{
		base,
		planDigest("sha256:other", mounts, runBy, steps, 1000),
		planDigest("sha256:policy", mounts, runBy, steps, 1002),
		planDigest("sha256:policy", []namespaces.Mount{{Path: "/data", From: "/srv/b"}}, runBy, steps, 1000),
		planDigest("sha256:policy", mounts, []Interpreter{{Path: "/bin/a", File: "/usr/bin/a", Digest: "sha256:b"}}, steps, 1000),
		planDigest("sha256:policy", mounts, nil, steps, 1000),
		planDigest("sha256:policy", nil, []Interpreter{{Path: "/srv/a", File: "/data", Digest: "sha256:a"}}, steps, 1000),
		planDigest("sha256:policy", append(mounts, namespaces.Mount{}), runBy, steps, 1000),
		change(func(s []namespaces.Step) { s[0].A = 0o700 }),
		change(func(s []namespaces.Step) { s[0].S = "/date" }),
		change(func(s []namespaces.Step) { s[0].Wall = "" }),
		change(func(s []namespaces.Step) { s[1].Bytes = []byte{2} }),
		change(func(s []namespaces.Step) { s[1].Args = []string{"ab"} }),
		change(func(s []namespaces.Step) { s[1].Args, s[1].Env = []string{"a", "b", "X=1"}, nil }),
		change(func(s []namespaces.Step) { s[1].Paths = []string{"/bin/b"} }),
	}
	for i, d := range all {
		if at := slices.Index(all, d); at != i {
			t.Errorf("starts %d and %d have the digest %s", at, i, d)
		}
	}
	if again := planDigest("sha256:policy", mounts, runBy, slices.Clone(steps), 1000); again != base {
		t.Errorf("the same start has %s and %s", base, again)
	}
}
