package cgroups

import "testing"

func TestFormsAreChecked(t *testing.T) {
	bound := IOMax{ReadBPS: ptr(int64(4096))}
	for name, c := range map[string]struct {
		form Form
		good bool
	}{
		"cpus":             {Form{Base: "/sys/fs/cgroup", Group: "/cordon/a", Cpus: "0-1"}, true},
		"another name":     {Form{Base: "/sys/fs/cgroup", Group: "../blkio,x/cordon/a", Major: 8, IO: bound}, true},
		"nothing":          {Form{Base: "/sys/fs/cgroup", Group: "/cordon/a"}, false},
		"both":             {Form{Base: "/sys/fs/cgroup", Group: "/cordon/a", Cpus: "0", IO: bound}, false},
		"no list":          {Form{Base: "/sys/fs/cgroup", Group: "/cordon/a", Cpus: "x"}, false},
		"a relative base":  {Form{Base: "cgroup", Group: "/cordon/a", Cpus: "0"}, false},
		"a group outside":  {Form{Base: "/sys/fs/cgroup", Group: "../../../../etc", Cpus: "0"}, false},
		"the base itself":  {Form{Base: "/sys/fs/cgroup", Group: "..", Cpus: "0"}, false},
		"no device":        {Form{Base: "/sys/fs/cgroup", Group: "/cordon/a", Major: -1, IO: bound}, false},
		"a negative bound": {Form{Base: "/sys/fs/cgroup", Group: "/cordon/a", IO: IOMax{ReadBPS: ptr(int64(-1))}}, false},
	} {
		if err := c.form.Check(); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A program without the library refuses what it cannot set, before anything runs.
func TestFormsAreNotLeftOut(t *testing.T) {
	g := &Group{tree: &Tree{}}
	if err := g.form(&member{}, "cpuset", Form{Cpus: "0"}); err == nil {
		t.Error("a limit that nobody sets is no error")
	}
}
