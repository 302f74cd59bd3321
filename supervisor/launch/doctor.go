package launch

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/cgroups"
	"github.com/cordonhq/cordon/namespaces"
	"github.com/cordonhq/cordon/seccomp"
	"github.com/cordonhq/cordon/supervisor/volume"
)

// Doctor looks at what this host can give. It makes nothing but what it takes
// away again.
func Doctor(cfg Config) []Feature {
	features := []Feature{kernelFeature(), rootFeature()}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		_, err := os.Stat("/proc/self/ns/" + ns)
		features = append(features, Feature{
			Name: ns + " namespace", Wall: "namespaces", Have: err == nil, Hard: true,
			Detail: have(err == nil, "available"), Need: "CONFIG_NAMESPACES=y and the namespace's own option",
		})
	}
	features = append(features, seccompFeatures()...)
	features = append(features, landlockFeatures()...)
	features = append(features, Feature{
		Name: "memfd_noexec", Wall: "executing files", Have: hasMemfdNoexec(), Detail: have(hasMemfdNoexec(), "vm.memfd_noexec is set in each pid namespace"),
		Need: "Linux 6.3; before that the filter alone refuses memfd_create",
	})
	err := refuseSuidDumpable()
	features = append(features, Feature{Name: "fs.suid_dumpable", Wall: "privilege", Have: err == nil, Hard: true, Detail: have(err == nil, "not 1"), Need: "sysctl fs.suid_dumpable=0"})
	lacks := volume.Missing()
	features = append(features, Feature{
		Name: "data.persistent", Wall: "quotas", Have: lacks == "", Detail: have(lacks == "", "a file system of data.size in an image"), Need: lacks,
	})
	return append(features, cgroupFeatures(cfg)...)
}

func have(ok bool, detail string) string {
	if ok {
		return detail
	}
	return "missing"
}

func kernelFeature() Feature {
	var u unix.Utsname
	_ = unix.Uname(&u)
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	ok := err == nil && (major > 6 || major == 6 && minor >= 1)
	return Feature{Name: "kernel", Wall: "all", Have: ok, Detail: release, Need: "Linux 6.1 or newer", Hard: true}
}

func rootFeature() Feature {
	root := os.Geteuid() == 0
	return Feature{Name: "root", Wall: "all", Have: root, Detail: "uid " + strconv.Itoa(os.Geteuid()), Need: "uid 0 with CAP_SYS_ADMIN", Hard: true}
}

func seccompFeatures() []Feature {
	action := uint32(unix.SECCOMP_RET_USER_NOTIF)
	notify := seccompHas(unix.SECCOMP_GET_ACTION_AVAIL, &action)
	kill := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	filter := seccompHas(unix.SECCOMP_GET_ACTION_AVAIL, &kill)
	deaths, err := seccomp.OpenDeaths()
	if err == nil {
		_ = deaths.Close() // nothing was read
	}
	return []Feature{
		{
			Name: "seccomp audit", Wall: "seccomp", Have: err == nil, Detail: have(err == nil, "every process that the filter kills is told of, with the call"),
			Need: "CONFIG_AUDIT=y, no audit=0, the first user and network namespace; without it only the end of a plugin's first process is seen",
		},
		{Name: "seccomp filter", Wall: "seccomp", Have: filter, Detail: have(filter, "available"), Need: "CONFIG_SECCOMP_FILTER=y", Hard: true},
		{Name: "seccomp listener", Wall: "seccomp", Have: notify, Detail: have(notify, "every refused call is named before it happens"), Need: "CONFIG_SECCOMP_FILTER=y, Linux 5.0", Hard: true},
	}
}

func seccompHas(operation uintptr, action *uint32) bool {
	return rawSeccomp(operation, action) == nil
}

func landlockFeatures() []Feature {
	abi := namespaces.LandlockABI()
	need := "CONFIG_SECURITY_LANDLOCK=y and landlock in lsm="
	features := []Feature{{Name: "landlock", Wall: "landlock", Have: abi > 0, Detail: "ABI " + strconv.Itoa(abi), Need: need}}
	for _, l := range []struct {
		abi  int
		what string
		need string
	}{{3, "truncate", "Linux 6.2"}, {4, "tcp ports", "Linux 6.7"}, {5, "device ioctl", "Linux 6.10"}, {6, "scopes (signals, abstract sockets)", "Linux 6.12"}} {
		features = append(features, Feature{
			Name: "landlock " + l.what, Wall: "landlock", Have: abi >= l.abi, Detail: have(abi >= l.abi, "ABI "+strconv.Itoa(l.abi)),
			Need: l.need + "; before that the first wall of the pair stands alone",
		})
	}
	return features
}

func cgroupFeatures(cfg Config) []Feature {
	tree, err := cgroups.Open(cfg.CgroupRoot, nil)
	if err != nil {
		return []Feature{{Name: "cgroups", Wall: "quotas", Detail: err.Error(), Need: "a mounted cgroup v2 or v1 hierarchy", Hard: true}}
	}
	var features []Feature
	for _, f := range tree.Features() {
		features = append(features, Feature{Name: f.Name, Wall: "quotas", Have: f.Have, Detail: f.Detail, Need: f.Need})
	}
	if err := tree.Close(); err != nil && !errors.Is(err, os.ErrNotExist) {
		features = append(features, Feature{Name: "cgroup root", Wall: "quotas", Detail: err.Error()})
	}
	return features
}
