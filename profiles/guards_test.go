package profiles

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordonhq/cordon/seccomp"
)

// decide answers one call as the kernel would, by the filter's own rule of
// precedence; "SCMP_ACT_NOTIFY" is a violation.
func decide(t *testing.T, f seccomp.Filter, name string, args ...uint64) seccomp.Action {
	t.Helper()
	calls, err := f.Calls()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if c.Name != name {
			continue
		}
		for _, arm := range c.Arms {
			if holds(c.NR, arm.Args, args) {
				return arm.Action
			}
		}
	}
	return seccomp.ActNotify
}

func holds(nr int, conditions []seccomp.Condition, args []uint64) bool {
	for _, c := range conditions {
		var v uint64
		if int(c.Index) < len(args) {
			v = args[c.Index]
		}
		if bits := seccomp.ArgBits(nr, c.Index); bits < 64 {
			v &= 1<<bits - 1
		}
		switch c.Op {
		case seccomp.OpEqual:
			if v != c.Value {
				return false
			}
		case seccomp.OpMaskedEqual:
			if v&c.Value != c.ValueTwo {
				return false
			}
		default:
			panic("the guards use no " + c.Op)
		}
	}
	return true
}

// TestGuards asks every built-in profile about the arguments that make a
// harmless call a dangerous one.
func TestGuards(t *testing.T) {
	const (
		allow, errno, violation = seccomp.ActAllow, seccomp.ActErrno, seccomp.ActNotify
		high                    = 1 << 32 // a bit that the kernel does not read of an int
	)
	for _, name := range BuiltinNames() {
		p, err := Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		f := resolve(t, Input{Profile: p}).Seccomp
		jit := name == "node" || name == "jvm"
		threads := name != "strict"
		either := func(cond bool, yes, no seccomp.Action) seccomp.Action {
			if cond {
				return yes
			}
			return no
		}
		for _, c := range []struct {
			call string
			want seccomp.Action
			args []uint64
		}{
			{"clone", either(threads, allow, violation), []uint64{0x3d0f00}},      // a thread
			{"clone", violation, []uint64{0x10000000 | 17}},                       // CLONE_NEWUSER
			{"clone", violation, []uint64{0x20000 | 17}},                          // CLONE_NEWNS
			{"clone", violation, []uint64{0x2000000}},                             // CLONE_NEWCGROUP
			{"clone3", errno, nil},                                                // falls back
			{"unshare", violation, nil},                                           //
			{"setns", violation, nil},                                             //
			{"mmap", either(jit, allow, violation), []uint64{0, 4096, 7, 0x22}},   // rwx
			{"mmap", either(jit, allow, violation), []uint64{0, 4096, 5, 0x22}},   // rx of nothing
			{"mmap", allow, []uint64{0, 4096, 5, 0x2}},                            // rx of a file
			{"mmap", allow, []uint64{0, 4096, 3, 0x22}},                           // rw
			{"mprotect", either(jit, allow, violation), []uint64{0, 4096, 5}},     // to rx
			{"mprotect", either(jit, allow, violation), []uint64{0, 4096, 7}},     // to rwx
			{"mprotect", allow, []uint64{0, 4096, 1}},                             // to r
			{"ioctl", allow, []uint64{0, 0x5401}},                                 // TCGETS
			{"ioctl", violation, []uint64{0, 0x5412}},                             // TIOCSTI
			{"ioctl", violation, []uint64{0, high | 0x5412}},                      // TIOCSTI, as the kernel reads it
			{"ioctl", violation, []uint64{0, 0x541c}},                             // TIOCLINUX
			{"ioctl", errno, []uint64{0, 0x12345}},                                //
			{"fcntl", allow, []uint64{0, 1030}},                                   // F_DUPFD_CLOEXEC
			{"fcntl", errno, []uint64{0, 1024}},                                   // F_SETLEASE
			{"fcntl", errno, []uint64{0, high | 1026}},                            // F_NOTIFY, as the kernel reads it
			{"fcntl", errno, []uint64{0, 10}},                                     // F_SETSIG
			{"prctl", allow, []uint64{15}},                                        // PR_SET_NAME
			{"prctl", violation, []uint64{22}},                                    // PR_SET_SECCOMP
			{"prctl", violation, []uint64{47}},                                    // PR_CAP_AMBIENT
			{"prctl", violation, []uint64{high | 47}},                             //
			{"prctl", errno, []uint64{4}},                                         // PR_SET_DUMPABLE
			{"personality", violation, []uint64{0x400000}},                        // READ_IMPLIES_EXEC
			{"socket", either(threads, allow, errno), []uint64{1, 1}},             // AF_UNIX
			{"socket", violation, []uint64{17, 3, 3}},                             // AF_PACKET
			{"socket", violation, []uint64{2, 3, 1}},                              // AF_INET, SOCK_RAW
			{"socket", either(name == "jvm", errno, violation), []uint64{2, 1}},   // AF_INET, SOCK_STREAM
			{"socket", violation, []uint64{40, 1}},                                // AF_VSOCK
			{"socket", either(name == "node", allow, violation), []uint64{16, 3}}, // NETLINK_ROUTE
			{"socket", violation, []uint64{16, 3, 9}},                             // NETLINK_AUDIT
			{"memfd_create", violation, nil},                                      //
			{"io_uring_setup", errno, nil},                                        //
			{"io_uring_enter", errno, nil},                                        //
			{"execveat", violation, nil},                                          //
			{"mknod", violation, nil},                                             //
			{"open", allow, []uint64{0, 0, 0xffff}},                               // a mode that nobody reads
			{"open", allow, []uint64{0, 0x10000, 0o6755}},                         // O_DIRECTORY
			{"open", allow, []uint64{0, 0x41, 0o777}},                             // O_CREAT
			{"open", violation, []uint64{0, 0x41, 0o4755}},                        // set-user-id
			{"open", violation, []uint64{0, high | 0x40, 0xffff0000 | 0o2755}},    // as the kernel reads it
			{"openat", allow, []uint64{0, 0, 0, 0o4755}},                          //
			{"openat", allow, []uint64{0, 0, 0x410001, 0o700}},                    // O_TMPFILE
			{"openat", violation, []uint64{0, 0, 0x40, 0o2755}},                   //
			{"openat", violation, []uint64{0, 0, 0x410001, 0o4700}},               // O_TMPFILE
			{"openat2", errno, nil},                                               // its mode lies in memory
			{"creat", violation, []uint64{0, 0o4755}},                             //
			{"creat", allow, []uint64{0, 0o755}},                                  //
			{"chmod", allow, []uint64{0, 0o1777}},                                 // sticky
			{"chmod", violation, []uint64{0, 0o4755}},                             //
			{"chmod", violation, []uint64{0, 0x10000 | 0o2755}},                   // of a mode 16 bits are read
			{"fchmod", violation, []uint64{0, 0o2755}},                            //
			{"fchmodat", allow, []uint64{0, 0, 0o644}},                            //
			{"fchmodat", violation, []uint64{0, 0, 0o6755}},                       //
			{"fchmodat2", violation, []uint64{0, 0, 0o4755}},                      //
			{"mkdir", violation, []uint64{0, 0o2755}},                             //
			{"mkdir", allow, []uint64{0, 0o1777}},                                 //
			{"mkdirat", violation, []uint64{0, 0, 0o2755}},                        //
			{"keyctl", violation, nil},                                            //
		} {
			if got := decide(t, f, c.call, c.args...); got != c.want {
				t.Errorf("%s: %s%#x is %s, want %s", name, c.call, c.args, got, c.want)
			}
		}
	}
}

// TestNeverAllowed: no built-in profile opens what only attacks and
// administrators use.
func TestNeverAllowed(t *testing.T) {
	for _, name := range BuiltinNames() {
		p, err := Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		pl := resolve(t, Input{Profile: p})
		b := builderOf(t, p)
		for _, d := range dangers {
			for _, call := range d.names {
				if b.calls.may(call) {
					t.Errorf("%s allows %s", name, call)
				}
			}
		}
		for _, call := range expanded("@privileged") {
			if b.calls.may(call) {
				t.Errorf("%s allows %s, which needs a capability", name, call)
			}
		}
		for _, f := range pl.Files {
			if contains(f.Access, "write_file") {
				t.Errorf("%s grants writing %s", name, f.Path)
			}
		}
	}
}

func builderOf(t *testing.T, p *Profile) *builder {
	t.Helper()
	b := newBuilder(Input{Profile: p, Ceiling: DefaultCeiling(), Argv: []string{"x"}})
	for _, l := range p.layers {
		b.layer(l)
	}
	return b
}

// TestRulesAndGuards: a rule with conditions adds to the guard, one without
// lifts it, and deny takes all away.
func TestRulesAndGuards(t *testing.T) {
	adds := resolve(t, Input{Profile: parse(t, `
[seccomp]
allow = ["socket", "personality"]
[[seccomp.rule]]
names = ["socket"]
args = [{ index = 0, op = "SCMP_CMP_EQ", value = 38 }]
action = "SCMP_ACT_ALLOW"
[[seccomp.rule]]
names = ["personality"]
action = "SCMP_ACT_ALLOW"
`)}).Seccomp
	for family, want := range map[uint64]seccomp.Action{1: seccomp.ActAllow, 38: seccomp.ActAllow, 2: seccomp.ActNotify} {
		if got := decide(t, adds, "socket", family); got != want {
			t.Errorf("socket of family %d is %s, want %s", family, got, want)
		}
	}
	if !adds.Allows("personality") {
		t.Error("a rule without conditions does not lift the guard")
	}
	denied := resolve(t, Input{Profile: parse(t, `
extends = ["node"]
[seccomp]
deny = ["@network-io"]
`)}).Seccomp
	if got := decide(t, denied, "socket", 1); got != seccomp.ActNotify {
		t.Errorf("a denied call is %s", got)
	}
}

// TestNoRuleIsInVain: in no built-in filter does a rule shadow another, change
// nothing or leave open which of two decides.
func TestNoRuleIsInVain(t *testing.T) {
	for _, name := range BuiltinNames() {
		p, err := Builtin(name)
		if err != nil {
			t.Fatal(err)
		}
		overlaps, err := resolve(t, Input{Profile: p}).Seccomp.Overlaps()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range overlaps {
			t.Errorf("%s: %s", name, o)
		}
	}
}

// TestGuardsHoldForGroups: who allows a call by its group gets its guard, also
// the calls whose arguments no filter can see.
func TestGuardsHoldForGroups(t *testing.T) {
	f := resolve(t, Input{Profile: parse(t, `
[seccomp]
allow = ["@system-service", "@process", "@file-system", "mknod", "mknodat"]
`)}).Seccomp
	for _, c := range []struct {
		call string
		want seccomp.Action
		args []uint64
	}{
		{"clone3", seccomp.ActErrno, nil},
		{"openat2", seccomp.ActErrno, nil},
		{"chmod", seccomp.ActNotify, []uint64{0, 0o4755}},
		{"mknod", seccomp.ActNotify, []uint64{0, unix.S_IFREG | unix.S_ISUID}},
		{"mknodat", seccomp.ActNotify, []uint64{0, 0, unix.S_IFREG | unix.S_ISGID}},
		{"mknodat", seccomp.ActAllow, []uint64{0, 0, unix.S_IFIFO | 0o600}},
	} {
		if got := decide(t, f, c.call, c.args...); got != c.want {
			t.Errorf("%s%#o is %s, want %s", c.call, c.args, got, c.want)
		}
	}
}
