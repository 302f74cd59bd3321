// Command wiregen writes both sides of the keeper's protocol from the one
// definition below: wire_gen.go for the launcher and keeper/wire.h for the
// keeper. Run it by "go generate ./namespaces"; a test fails when the files
// and the definition differ.
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"log"
	"os"
	"strings"
)

// field is one member of a fixed-layout message, little-endian.
type field struct{ ctype, name, doc string }

// constant is shared by both sides.
type constant struct {
	name  string
	value uint64
	doc   string
}

// version changes with every change of the layout or of an op's meaning.
const version = 4

var constants = []constant{
	{"MAGIC", 0x316b6463, "\"cdk1\", the first word of every message."},
	{"VERSION", version, "of the layout; both sides must agree."},
	{"MAX_MESSAGE", 128 << 10, "bytes of one request, header, steps and blob together."},
	{"MAX_STEPS", 1024, "steps of one launch."},
	{"MAX_FDS", 200, "descriptors of one request (the kernel's limit is 253)."},
	{"MAX_ARGS", 1024, "strings of argv and of envp, each."},
	{"MAX_SLOTS", 4096, "plugins of one keeper."},
	{"MAX_LAUNCHES", 7, "launches in flight; the daemon keeps to it, so that its words in between always find room."},
	{"MAX_HOLD", 24, "descriptors and group directories kept for one plugin, each."},
	{"KIND_LAUNCH", 1, "request: run the steps in a new child."},
	{"KIND_USERNS", 2, "request: make a user namespace; blob holds uid_map and gid_map."},
	{"KIND_FORGET", 3, "request: the groups of the ended plugin ID are removed, drop what is held for it."},
	{"KIND_GO", 4, "request: let the staged plugin ID go on to its exec."},
	{"KIND_TEMPLATE", 5, "request: take the steps, all of the mount phase, in a new mount namespace, and keep it."},
	{"KIND_KEEP", 6, "request: when the daemon goes, keep the plugins for flags milliseconds and listen for a successor on the descriptor that came along (none: the one that came before); 0 ends them at once."},
	{"KIND_LOOSE", 7, "request: drop what plugin ID has held for a successor alone: HOLD with a."},
	{"FLAG_STAGE", 1, "of a launch: every wall is up, say STAGED and wait for GO before the exec."},
	{"KIND_STAGED", 20, "reply: the plugin waits behind its walls; pid is valid."},
	{"KIND_STARTED", 16, "reply: the plugin was executed; descriptors: pidfd, then its listener if it has one."},
	{"KIND_FAILED", 17, "reply: step and errno say what failed; nothing is left."},
	{"KIND_EXITED", 18, "reply: the plugin and everything in its pid namespace have ended."},
	{"KIND_USERNS_MADE", 19, "reply: descriptor: the user namespace."},
	{"KIND_TEMPLATE_MADE", 21, "reply: descriptor: the mount namespace."},
	{"KIND_KEEPER", 22, "reply to a successor, before all else: pid is the keeper's, detail counts the daemons; descriptor: the keeper's pidfd."},
	{"KIND_KEPT", 23, "reply to a successor, one for each plugin: as STARTED, and then what HOLD keeps, in that order; detail is HAS_*."},
	{"KIND_ALL", 24, "reply to a successor: every plugin was told of."},
	{"HAS_PIDFD", 1, "of KEPT: the first descriptor is its pidfd; otherwise it has ended."},
	{"HAS_LISTENER", 2, "of KEPT: then its listener."},
	{"STEP_REQUEST", 0xfffffff0, "pseudo step: the request itself was malformed; detail says where."},
	{"STEP_CLONE", 0xfffffff1, "pseudo step: making the plugin's process."},
	{"STEP_REAPER", 0xfffffff2, "pseudo step: making the reaper."},
	{"STEP_FULL", 0xfffffff3, "pseudo step: the keeper has no place for another plugin."},
	{"STEP_DIED", 0xfffffff4, "pseudo step: the child was killed before its exec."},
	{"NO_STRING", 0xffffffff, "a string that a step does not have."},
}

var request = []field{
	{"u32", "magic", ""},
	{"u32", "version", ""},
	{"u64", "id", "chosen by the launcher, repeated in every reply"},
	{"u32", "kind", ""},
	{"u32", "nsteps", "steps follow the header"},
	{"u32", "nfds", "descriptors that came with the message"},
	{"u32", "nblob", "bytes of the blob behind the steps; strings end in NUL"},
	{"u32", "reaper_uid", "host ids of the reaper"},
	{"u32", "reaper_gid", ""},
	{"u32", "cgroup_fd", "index of the v2 group's directory, or NO_STRING"},
	{"u32", "flags", "FLAG_*"},
	{"u32", "netns_fd", "index of a network namespace made ahead, or NO_STRING"},
	{"u32", "pad", ""},
}

var step = []field{
	{"u32", "op", ""},
	{"u32", "fd", "index into the message's descriptors"},
	{"u64", "a", ""},
	{"u64", "b", ""},
	{"u64", "c", ""},
	{"u32", "s", "offset of a string in the blob"},
	{"u32", "t", "offset of a second string or of bytes in the blob"},
}

var reply = []field{
	{"u32", "magic", ""},
	{"u32", "version", ""},
	{"u64", "id", ""},
	{"u32", "kind", ""},
	{"u32", "step", "of FAILED: index of the step, or a pseudo step"},
	{"u32", "error", "of FAILED: errno"},
	{"u32", "detail", "of FAILED: what a step adds (an expected value, a capability's number)"},
	{"u32", "pid", "of STARTED: the plugin's pid in the keeper's pid namespace"},
	{"u32", "reaper", "of STARTED: the reaper's pid"},
	{"u32", "code", "of EXITED: si_code (CLD_EXITED, CLD_KILLED ...)"},
	{"u32", "status", "of EXITED: exit code or signal"},
	{"u64", "utime", "of EXITED: microseconds"},
	{"u64", "stime", "of EXITED: microseconds"},
	{"u64", "maxrss", "of EXITED: KiB"},
}

// op is one kind of step. The phases run in this order; a request whose steps
// go back to an earlier phase is refused.
type op struct {
	name  string
	phase string
	doc   string
}

var phases = []string{"keep", "join", "mount", "identity", "lock", "exec"}

var ops = []op{
	{"HOLD", "keep", "keeper: keep descriptor fd open while the plugin lives; if a, for a successor of the daemon alone (see LOOSE)"},
	{"KILLFD", "keep", "keeper: end the plugin's group by fd: write 1 to cgroup.kill or, if a, THAWED to freezer.state, for what is frozen does not die"},
	{"RMDIR", "keep", "keeper: remove s below directory fd when the launcher is gone; if a, only if nothing else is in it"},
	{"JOIN", "join", "write 0 to fd, a v1 tasks file"},
	{"OOM_SCORE", "join", "write s to /proc/self/oom_score_adj"},
	{"SYSCTL", "join", "write t to /proc/sys/s from inside the new pid namespace; if a, a missing file is fine"},
	{"NAMESPACE", "join", "enter the reaper's namespace of CLONE_NEW* flag a; a cgroup namespace is unshared"},
	{"PRIVATE", "mount", "make every mount private"},
	{"ROOT", "mount", "new root: a tmpfs with options t, entered by pivot_root; the old root is detached"},
	{"MKDIR", "mount", "make directory s with mode a"},
	{"MKFILE", "mount", "make file s with mode a and the b bytes at t"},
	{"SYMLINK", "mount", "make symlink s to t"},
	{"MKNOD", "mount", "make character device s with mode a and device number b"},
	{"ATTACH", "mount", "attach the detached tree fd at s"},
	{"TMPFS", "mount", "fresh tmpfs at s with options t and mount attributes a"},
	{"PROC", "mount", "fresh procfs at s with options t and mount attributes a"},
	{"MASK", "mount", "cover s: a directory by an empty read-only tmpfs, a file by /dev/null; a missing s is fine"},
	{"SEAL", "mount", "set mount attributes a on the mount at s; if b, its file system becomes read-only, too"},
	{"HOSTNAME", "mount", "set the host name to s"},
	{"RLIMIT", "lock", "limit a to soft b and hard c"},
	{"KEYRING", "identity", "join a new session keyring"},
	{"SETSID", "identity", "new session, no terminal"},
	{"USERNS", "identity", "enter user namespace fd"},
	{"BOUNDING", "identity", "drop every capability from the bounding and ambient sets"},
	{"IDS", "identity", "no groups, gid b, uid a"},
	{"SECUREBITS", "identity", "set and lock securebits a"},
	{"CAPSET", "identity", "empty the effective, permitted and inheritable sets"},
	{"VERIFY_IDS", "identity", "read back: uid a, gid b, no groups"},
	{"VERIFY_CAPS", "identity", "read back: all five sets empty, securebits a"},
	{"PDEATHSIG", "lock", "die with the keeper; refuse if it is gone already"},
	{"RESET", "lock", "default signal dispositions and mask, umask a, timer slack, personality, priority"},
	{"CHDIR", "lock", "working directory s, which must be inside the root"},
	{"FD", "lock", "descriptor fd becomes a"},
	{"CLOSE", "lock", "close every descriptor from a upwards but the gate, which closes at exec"},
	{"NNP", "lock", "no_new_privs, read back"},
	{"LANDLOCK", "lock", "new ruleset: handled files a, network b, scopes c"},
	{"LANDLOCK_PATH", "lock", "allow a beneath s; if b, a missing s is fine"},
	{"LANDLOCK_PORT", "lock", "allow a for port b"},
	{"LANDLOCK_SELF", "lock", "enforce the ruleset; flags a"},
	{"LANDLOCK_TRY", "lock", "read back: opening directory s must be refused"},
	{"SECCOMP", "lock", "load the b bytes at t with flags a; the listener goes to the keeper"},
	{"EXEC", "exec", "execute the first of a paths at s that exists, with b arguments and c variables at t"},
	{"ONCE", "join", "pass the path of EXEC from page 0, the one place from which a filter may let execve take it"},
	{"TEMPLATE", "join", "enter a copy of mount namespace fd"},
}

func phaseIndex(name string) int {
	for i, p := range phases {
		if p == name {
			return i
		}
	}
	panic("unknown phase " + name)
}

func size(t string) int {
	if t == "u64" {
		return 8
	}
	return 4
}

func header() []byte {
	var b bytes.Buffer
	b.WriteString("/* Code generated by wiregen; DO NOT EDIT. */\n#ifndef WIRE_H\n#define WIRE_H\n\n")
	for _, c := range constants {
		fmt.Fprintf(&b, "#define CK_%s %#xu /* %s */\n", c.name, c.value, c.doc)
	}
	for _, s := range []struct {
		name   string
		fields []field
	}{{"request", request}, {"step", step}, {"reply", reply}} {
		fmt.Fprintf(&b, "\nstruct ck_%s {\n", s.name)
		n := 0
		for _, f := range s.fields {
			fmt.Fprintf(&b, "\t%s %s;", f.ctype, f.name)
			if f.doc != "" {
				fmt.Fprintf(&b, " /* %s */", f.doc)
			}
			b.WriteString("\n")
			n += size(f.ctype)
		}
		fmt.Fprintf(&b, "};\n_Static_assert(sizeof(struct ck_%s) == %d, \"layout\");\n", s.name, n)
	}
	b.WriteString("\nenum ck_phase {\n")
	for _, p := range phases {
		fmt.Fprintf(&b, "\tCK_PHASE_%s,\n", strings.ToUpper(p))
	}
	b.WriteString("};\n\nenum ck_op {\n")
	for i, o := range ops {
		fmt.Fprintf(&b, "\tCK_OP_%s = %d, /* %s */\n", o.name, i+1, o.doc)
	}
	fmt.Fprintf(&b, "\tCK_OP_END = %d\n};\n\n", len(ops)+1)
	b.WriteString("static const u8 ck_op_phase[CK_OP_END] = {\n\t255,\n")
	for _, o := range ops {
		fmt.Fprintf(&b, "\tCK_PHASE_%s, /* %s */\n", strings.ToUpper(o.phase), o.name)
	}
	b.WriteString("};\n\n#endif\n")
	return b.Bytes()
}

func camel(s string) string {
	parts := strings.Split(strings.ToLower(s), "_")
	for i, p := range parts {
		switch p {
		case "fd", "id", "oom", "nnp", "uid", "gid":
			parts[i] = strings.ToUpper(p)
		default:
			parts[i] = strings.ToUpper(p[:1]) + p[1:]
		}
	}
	return strings.Join(parts, "")
}

func source() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("// Code generated by wiregen; DO NOT EDIT.\n\npackage namespaces\n\n")
	b.WriteString("// The keeper's protocol, shared with keeper/wire.h.\nconst (\n")
	for _, c := range constants {
		fmt.Fprintf(&b, "\twire%s = %#x // %s\n", camel(c.name), c.value, c.doc)
	}
	b.WriteString(")\n")
	for _, s := range []struct {
		name   string
		fields []field
	}{{"request", request}, {"step", step}, {"reply", reply}} {
		fmt.Fprintf(&b, "\n// wire%s is fixed-layout and little-endian.\ntype wire%s struct {\n", camel(s.name), camel(s.name))
		n := 0
		for _, f := range s.fields {
			fmt.Fprintf(&b, "\t%s %s", camel(f.name), strings.Replace(f.ctype, "u", "uint", 1))
			if f.doc != "" {
				fmt.Fprintf(&b, " // %s", f.doc)
			}
			b.WriteString("\n")
			n += size(f.ctype)
		}
		fmt.Fprintf(&b, "}\n\nconst wire%sSize = %d\n", camel(s.name), n)
	}
	b.WriteString("\n// The kinds of steps, in the order of their phases.\nconst (\n")
	for i, o := range ops {
		fmt.Fprintf(&b, "\t// Op%s: %s.\n\tOp%s Op = %d\n", camel(o.name), o.doc, camel(o.name), i+1)
	}
	b.WriteString(")\n\nvar opNames = map[Op]string{\n")
	for _, o := range ops {
		fmt.Fprintf(&b, "\tOp%s: %q,\n", camel(o.name), strings.ReplaceAll(strings.ToLower(o.name), "_", " "))
	}
	b.WriteString("}\n\nvar opPhases = map[Op]int{\n")
	for _, o := range ops {
		fmt.Fprintf(&b, "\tOp%s: %d, // %s\n", camel(o.name), phaseIndex(o.phase), o.phase)
	}
	b.WriteString("}\n\nvar phaseNames = []string{")
	for _, p := range phases {
		fmt.Fprintf(&b, "%q, ", p)
	}
	b.WriteString("}\n")
	return format.Source(b.Bytes())
}

func main() {
	log.SetFlags(0)
	dir := "."
	if len(os.Args) > 1 {
		dir = os.Args[1]
	}
	src, err := source()
	if err != nil {
		log.Fatal(err)
	}
	for name, data := range map[string][]byte{"wire_gen.go": src, "keeper/wire.h": header()} {
		if err := os.WriteFile(dir+"/"+name, data, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}
