package violation

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/profiles/plan"
)

// adviseFile explains a path outside the grants.
func adviseFile(v *Violation, p *plan.Plan) advice {
	grant := covering(p.Files, v.Path)
	if a, ok := adviseOwn(v, p); ok {
		return a
	}
	a := advice{rule: fileRule(v, p, grant)}
	switch why := neverFile(v, grant); {
	case why != "":
		a.also = why
	case !plain(v.Path) || !path.IsAbs(v.Path) || path.Clean(v.Path) != v.Path:
		a.also = "The path as reported is relative, cut or holds characters that do not print; write the grant by hand if you know which file it is."
	default:
		a.change = fmt.Sprintf("[[files]]\npath = %s\naccess = %q\n", quoteTOML(merged(v.Path, p.Files)), accessWord(v, grant))
		a.also = fileDanger(v)
	}
	return a
}

// merged is where a path leads through the links of a merged /usr, which every
// plugin has at its root unless something is granted there.
func merged(name string, files []plan.File) string {
	for _, link := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		taken := slices.ContainsFunc(files, func(f plan.File) bool { return beneath(f.Path, link) })
		if beneath(name, link) && !taken {
			return "/usr" + name
		}
	}
	return name
}

// isLibrary says whether a file is one that programs map to execute it.
func isLibrary(name string) bool {
	base := path.Base(name)
	return strings.HasSuffix(base, ".so") || strings.Contains(base, ".so.") || strings.HasSuffix(base, ".node")
}

// covering is the deepest grant at or above name, nil if there is none.
func covering(files []plan.File, name string) *plan.File {
	var deepest *plan.File
	for i := range files {
		if f := &files[i]; beneath(name, f.Path) && (deepest == nil || len(f.Path) >= len(deepest.Path)) {
			deepest = f
		}
	}
	return deepest
}

// beneath says whether name is dir or lies below it; both are clean.
func beneath(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

func fileRule(v *Violation, p *plan.Plan, grant *plan.File) string {
	if grant == nil {
		return ruled(p, []string{"files"}, "no [[files]] grant covers %s", Escape(v.Path, maxPath))
	}
	by := grant.Origin
	if by == "" {
		by = origin(p, "files")
	}
	return fmt.Sprintf("%s is granted %s only (%s)", grant.Path, AccessWord(grant.Access), by)
}

// AccessWord is the short word for Landlock's names, r, rw or rx, or the names
// themselves where there is none.
func AccessWord(access []string) string {
	word := ""
	for _, w := range []struct{ short, long string }{{"r", "read_file"}, {"w", "write_file"}, {"x", "execute"}} {
		if slices.Contains(access, w.long) {
			word += w.short
		}
	}
	if word == "" {
		return strings.Join(access, ", ")
	}
	return word
}

// accessWord is the least access that covers what was refused and what the
// path already had.
func accessWord(v *Violation, grant *plan.File) string {
	switch v.Access {
	case "write":
		return "rw"
	case "execute":
		return "rx"
	}
	if isLibrary(v.Path) {
		return "rx" // to be mapped, it must be executable
	}
	if grant != nil && grant.Path == v.Path && slices.Contains(grant.Access, "write_file") {
		return "rw"
	}
	return "r"
}

// secrets are paths that no plugin has an honest use for, with what they give.
var secrets = []struct{ dir, text string }{
	{"/etc/shadow", "it holds the password hashes of this host."},
	{"/etc/gshadow", "it holds the password hashes of this host's groups."},
	{"/etc/sudoers", "it tells how to become root on this host."},
	{"/etc/sudoers.d", "it tells how to become root on this host."},
	{"/etc/ssh", "it holds the keys by which this host proves who it is."},
	{"/etc/ssl/private", "it holds private keys."},
	{"/root", "it is the home of root, with its keys and history."},
	{"/boot", "it holds what this host starts from."},
	{"/etc/cordon", "it holds the profiles by which plugins are walled."},
	{"/var/lib/cordon", "it holds the state and data of every plugin."},
	{"/run/cordon", "it holds the socket that commands the daemon."},
	{"/run/docker.sock", "whoever can write to it is root on this host."},
	{"/var/run/docker.sock", "whoever can write to it is root on this host."},
	{"/run/containerd", "whoever can write to it is root on this host."},
	{"/run/systemd", "it commands this host's services."},
	{"/run/dbus", "it commands this host's services."},
}

// fileDanger says what else the grant would allow, and when not to make it.
func fileDanger(v *Violation) string {
	for _, s := range secrets {
		if beneath(v.Path, s.dir) {
			return neverUntrusted + s.text + " The host's ceiling refuses it as well, unless cordond.toml says otherwise."
		}
	}
	for _, part := range []string{"/.ssh", "/.gnupg", "/.aws", "/.kube", "/.docker", "/.netrc", "/.git-credentials"} {
		if strings.Contains(v.Path+"/", part+"/") {
			return neverUntrusted + "it holds a person's keys."
		}
	}
	switch v.Access {
	case "write":
		return "The path must exist on the host. If it is a directory, the plugin could write, remove and replace everything below it, and whoever reads it there would read the plugin's words. What is granted rw is never executable."
	case "execute":
		return "The path must exist on the host. The plugin could then run it, with its own rights only."
	}
	return "The path must exist on the host. If it is a directory, everything below it becomes readable."
}

// neverLine begins what no line of a profile can lift.
const neverLine = "No line of a profile lifts this: "

// neverFile says why no grant can allow what v asked for; empty if one can.
func neverFile(v *Violation, grant *plan.File) string {
	writes, executes := v.Access == "write", v.Access == "execute"
	switch {
	case beneath(v.Path, "/plugin") && writes:
		return neverLine + "/plugin is the verified copy of the bundle. Write to /data or /tmp."
	case beneath(v.Path, "/sys"):
		return neverLine + "a plugin has no /sys, because it shows the host's devices and kernel."
	case executes && (beneath(v.Path, "/tmp") || beneath(v.Path, "/data")):
		return neverLine + "what a plugin can write it must not execute. Ship the file in the bundle."
	case executes && grant != nil && slices.Contains(grant.Access, "write_file"):
		return neverLine + "what a plugin can write it must not execute. Put the file where the plugin can only read."
	case writes && grant != nil && grant.Path == v.Path && slices.Contains(grant.Access, "execute"):
		return neverLine + "what a plugin can execute it must not write. Grant another path rw."
	}
	return ""
}
