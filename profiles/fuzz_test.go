package profiles

import (
	"reflect"
	"testing"

	"github.com/cordonhq/cordon/manifest"
)

// FuzzResolve holds, for whatever profile and manifest the parsers accept:
// resolving does not fail or panic, gives one digest, stays under the ceiling,
// and no ask widens the plan.
func FuzzResolve(f *testing.F) {
	const six = "schema = 1\n[plugin]\nname = \"x\"\nversion = \"1\"\nexec = [\"./x\"]\nprotocol = \"mcp\"\n"
	for _, seed := range []string{
		"", "extends = [\"builtin:node\"]\n", "[seccomp]\nallow = [\"@system-service\"]\ndeny = [\"@ipc\"]\nremove = [\"clone\"]\n[seccomp.errno]\nmount = \"EPERM\"\n",
		"[[seccomp.rule]]\nnames = [\"kill\"]\naction = \"SCMP_ACT_ERRNO\"\nerrno = \"EPERM\"\nargs = [{index=1, op=\"SCMP_CMP_MASKED_EQ\", value=255, value_two=9}]\n",
		"[[files]]\npath = [\"/srv/a\", \"/srv/b\"]\naccess = \"rw\"\n[[files]]\npath = \"${plugin.data}\"\naccess = [\"read_file\"]\n",
		"[resources]\nmemory.max = \"max\"\npids.max = 9999999\ncpu.max = \"150%\"\ntime.wall = \"1h\"\nrlimit.nofile = {soft = 1, hard = 2}\ncpuset.cpus = \"0-1,3\"\n",
		"[violation]\nwatch = [\"files\"]\nfiles = {action=\"deny\", budget=\"2/h\", then=\"kill\"}\n[require]\nlandlock = \"best_effort\"\n[proc]\nmode = \"full\"\n[data]\npersistent = true\n",
		"[environment]\nset = {A = \"${plugin.bundle}\"}\npass = [\"B\"]\nremove = [\"C\"]\n[ipc]\nmax_frame = \"1M\"\n[identity]\nuid = 5\n",
	} {
		f.Add([]byte(seed), []byte(six))
	}
	f.Add([]byte("extends = [\"builtin:strict\"]\n"), []byte(six+"[[files]]\npath = \"/srv\"\naccess = \"r\"\nwhy = \"x\"\n[resources]\nmemory.max = \"1M\"\npids.max = \"max\"\nwhy = \"x\"\n"))
	f.Fuzz(func(t *testing.T, profile, bundle []byte) {
		p, err := ParseProfile("/nonexistent/p.toml", profile)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		bare, err := Resolve(Input{Profile: p, Argv: []string{"x"}})
		if err != nil {
			t.Skip(err) // such as rules that contradict each other
		}
		c := DefaultCeiling()
		if bare.Limits.MemoryMax == nil || *bare.Limits.MemoryMax > int64(c.MemoryMax) || *bare.Limits.PidsMax > int64(c.PidsMax) {
			t.Errorf("above the ceiling: %+v", bare.Limits)
		}
		for _, g := range bare.Files {
			if c.refuses(g.From, g.Access) != "" || checkGrant(g.Path) != nil || subset([]string{"execute", "write_file"}, g.Access) {
				t.Errorf("granted %+v", g)
			}
		}
		m, err := manifest.Parse("plugin.toml", bundle)
		if err != nil {
			return
		}
		with, err := Resolve(Input{Profile: p, Manifest: m})
		if err != nil {
			return // such as an unknown variable in its command
		}
		again, err := Resolve(Input{Profile: p, Manifest: m})
		if err != nil || again.PolicyDigest() != with.PolicyDigest() {
			t.Errorf("resolving again gives another plan: %v", err)
		}
		if !reflect.DeepEqual(with.Files, bare.Files) || !reflect.DeepEqual(with.Seccomp, bare.Seccomp) || *with.Limits.MemoryMax > *bare.Limits.MemoryMax {
			t.Error("the manifest widened the plan")
		}
		if len(with.Asks) < len(m.Files)+len(m.Capabilities) {
			t.Error("an ask was not decided")
		}
	})
}
