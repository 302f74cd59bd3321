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

// TestKeptDataIsBounded fills the data of a plugin that is kept: the kernel stops
// it, what it took outlives the plugin and a killed daemon, and a larger size
// makes room at the next start.
func TestKeptDataIsBounded(t *testing.T) {
	d := startDaemon(t)
	profile := d.dir + "/profiles/kept.toml"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(keptProfile)
	d.must("install", abusePlugin(t), "--as", "disk", "--profile", profile)
	d.must("start", "disk")
	_, _ = d.cordon("call", "disk", "disk", "--timeout", "1ms") // it never answers
	full := abuse{attack: "disk", meets: "ENOSPC", most: 8 << 20}
	d.eventually("the kernel stops it", func() bool { return full.met(d) })
	if free := d.freeData("disk"); free > 1<<20 {
		t.Errorf("%d bytes are free where it met ENOSPC", free)
	}
	d.must("stop", "disk")
	if d.mounts() != 0 {
		t.Error("its data are mounted while it is stopped")
	}
	d.must("start", "disk")
	if free := d.freeData("disk"); free > 1<<20 {
		t.Errorf("after a restart %d bytes are free", free)
	}
	d.kill()
	d.start()
	d.must("start", "disk")
	if free := d.freeData("disk"); free > 1<<20 {
		t.Errorf("after a killed daemon %d bytes are free", free)
	}
	d.must("stop", "disk")
	write(strings.ReplaceAll(keptProfile, "8M", "32M"))
	d.must("start", "disk")
	if free := d.freeData("disk"); free < 20<<20 {
		t.Errorf("24 MiB larger, it has %d bytes free", free)
	}
	d.must("stop", "disk")
	d.must("remove", "disk")
	if _, err := os.Lstat(d.dir + "/state/volumes/disk"); err == nil || d.mounts() != 0 {
		t.Error("its data outlived it")
	}
}

// freeData is what is free in the data of a plugin that runs, in bytes.
func (d *daemon) freeData(plugin string) int64 {
	d.t.Helper()
	if d.mounts() != 1 {
		d.t.Fatalf("its data are mounted %d times", d.mounts())
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir+"/state/data/"+plugin, &st); err != nil {
		d.t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// mounts counts those below the daemon's state.
func (d *daemon) mounts() int {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Count(string(text), " "+d.dir+"/state/")
}
