package integration

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// keptProfile keeps 8 MiB of data between starts.
const keptProfile = `extends = ["builtin:static"]
[data]
persistent = true
size = "8M"
inodes = 300
`

// TestKeptDataIsBounded fills the data of plugins that are kept: the kernel stops
// them, what they took outlives the plugin and a killed daemon, and a larger size
// makes room at the next start.
func TestKeptDataIsBounded(t *testing.T) {
	d := startDaemon(t)
	plugin := abusePlugin(t)
	d.profile("kept", keptProfile)
	attacked := func(a abuse) {
		t.Helper()
		d.must("install", plugin, "--as", a.attack, "--profile", d.dir+"/profiles/kept.toml")
		d.must("start", a.attack)
		_, _ = d.cordon("call", a.attack, a.attack, "--timeout", "1ms") // it never answers
		d.eventually("the kernel stops it", func() bool { return a.met(d) })
		if d.mounts() != 1 {
			t.Errorf("its data are mounted %d times", d.mounts())
		}
		d.must("stop", a.attack)
		if d.mounts() != 0 {
			t.Error("its data are mounted while it is stopped")
		}
	}
	attacked(abuse{attack: "disk", meets: "ENOSPC", most: 8 << 20})
	d.must("remove", "disk")
	attacked(abuse{attack: "inodes", meets: "ENOSPC", most: 304}) // whole blocks of inodes
	full := func(when string) {
		t.Helper()
		d.must("start", "inodes")
		if free := d.freeInodes("inodes"); free != 0 {
			t.Errorf("%s it may make %d files", when, free)
		}
	}
	full("after a restart")
	d.kill()
	d.start()
	full("after a killed daemon")
	d.must("stop", "inodes")
	d.profile("kept", strings.ReplaceAll(keptProfile, "8M", "256M"))
	d.must("start", "inodes")
	if free := d.freeInodes("inodes"); free == 0 {
		t.Error("much larger, it has no room for another file")
	}
	d.must("stop", "inodes")
	d.must("remove", "inodes")
	if _, err := os.Lstat(d.dir + "/state/volumes/inodes"); err == nil || d.mounts() != 0 {
		t.Error("its data outlived it")
	}
}

// freeInodes is how many files the data of a plugin that runs have room for.
func (d *daemon) freeInodes(plugin string) int64 {
	d.t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir+"/state/data/"+plugin, &st); err != nil {
		d.t.Fatal(err)
	}
	return int64(st.Ffree)
}

// mounts counts those below the daemon's state.
func (d *daemon) mounts() int {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Count(string(text), " "+d.dir+"/state/")
}
