package seccomp

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTableAgreesWithTheKernelsNumbers(t *testing.T) {
	for name, want := range map[string]int{
		"read": unix.SYS_READ, "execve": unix.SYS_EXECVE, "mount": unix.SYS_MOUNT, "openat": unix.SYS_OPENAT, "seccomp": unix.SYS_SECCOMP,
		"clone3": unix.SYS_CLONE3, "landlock_create_ruleset": unix.SYS_LANDLOCK_CREATE_RULESET, "uretprobe": 335, "uprobe": 336,
		"statmount": 457, "mseal": 462, "setxattrat": 463, "listns": 470, "rseq_slice_yield": 471,
	} {
		if nr, ok := Number(name); !ok || nr != want {
			t.Errorf("Number(%q) = %d, %v; want %d", name, nr, ok, want)
		}
		if got := Name(want); got != name {
			t.Errorf("Name(%d) = %q; want %q", want, got, name)
		}
	}
}

func TestEveryRowIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for nr, row := range table {
		if row.name == "" {
			continue
		}
		if seen[row.name] || row.since == "" || strings.ToLower(row.name) != row.name {
			t.Errorf("row %d (%q since %q) is not whole or a second one of its name", nr, row.name, row.since)
		}
		seen[row.name] = true
		if row.sig != unimplemented && (len(row.sig) > maxArgs || strings.Trim(row.sig, "iuxfdolXpst") != "") {
			t.Errorf("%s has signature %q", row.name, row.sig)
		}
	}
	want := []Range{{0, 336}, {424, 471}}
	if got := KnownRanges(); !slices.Equal(got, want) {
		t.Errorf("KnownRanges = %v; want %v", got, want)
	}
}

func TestUnknownNumbersHaveNoName(t *testing.T) {
	for nr, want := range map[int]string{-1: "syscall_-1", 337: "syscall_337", 423: "syscall_423", 472: "syscall_472", 1 << 30: "syscall_1073741824"} {
		if got := Name(nr); got != want || Known(nr) {
			t.Errorf("Name(%d) = %q, known %v; want %q", nr, got, Known(nr), want)
		}
	}
	if _, ok := Number(""); ok {
		t.Error("a gap of the table has a number")
	}
}

func TestArgBitsAreWhatTheKernelReads(t *testing.T) {
	for _, c := range []struct {
		call  string
		index uint
		want  int
	}{
		{"socket", 0, 32},
		{"fcntl", 1, 32},
		{"fcntl", 2, 64},
		{"ioctl", 1, 32},
		{"ioctl", 2, 64},
		{"prctl", 0, 32},
		{"prctl", 1, 64},
		{"personality", 0, 32},
		{"clone", 0, 32},
		{"unshare", 0, 64},
		{"mmap", 2, 64},
		{"chmod", 1, 16},
		{"openat", 2, 32},
		{"getpid", 0, 64},
	} {
		nr, _ := Number(c.call)
		if got := ArgBits(nr, c.index); got != c.want {
			t.Errorf("ArgBits(%s, %d) = %d; want %d", c.call, c.index, got, c.want)
		}
	}
}

func TestEveryGroupHoldsKnownCallsAndIsSorted(t *testing.T) {
	if !slices.IsSortedFunc(groups[:], func(a, b group) int { return strings.Compare(a.name, b.name) }) {
		t.Error("the groups are not sorted by name")
	}
	for _, g := range groups {
		if _, err := Expand([]string{g.name}); err != nil {
			t.Errorf("%s: %v", g.name, err)
		}
	}
	if got := len(Groups()); got != len(groups)+1 {
		t.Errorf("Groups lists %d; want %d", got, len(groups)+1)
	}
}

// A call in no group can only be allowed by name; these are meant to be.
func TestCallsInNoGroupAreMeantToBe(t *testing.T) {
	grouped := map[string]bool{}
	for _, g := range groups {
		calls, err := Expand([]string{g.name})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			grouped[c] = true
		}
	}
	var got []string
	for _, row := range table {
		if row.name != "" && !grouped[row.name] {
			got = append(got, row.name)
		}
	}
	want := []string{"userfaultfd"}
	if !slices.Equal(got, want) {
		t.Errorf("calls in no group: %q; want %q", got, want)
	}
}

func TestOrdinaryServicesGetNoDangerousCall(t *testing.T) {
	calls, err := Expand([]string{"@system-service"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{
		"mount", "umount2", "ptrace", "unshare", "setns", "bpf", "perf_event_open", "keyctl", "add_key", "userfaultfd", "kexec_load", "init_module",
		"process_vm_writev", "open_by_handle_at", "pivot_root", "io_uring_setup", "seccomp", "kcmp", "pidfd_getfd", "acct", "reboot", "swapon", "syslog",
	} {
		if slices.Contains(calls, c) {
			t.Errorf("@system-service contains %s", c)
		}
	}
}

func TestExpandSortsAndKeepsEachCallOnce(t *testing.T) {
	got, err := Expand([]string{"write", "@chown", "chown", "@privileged", "read"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) || !slices.Contains(got, "iopl") {
		t.Errorf("Expand = %q", got)
	}
}

func TestUnknownNamesNameTheNearest(t *testing.T) {
	for name, want := range map[string]string{
		"opne": "open", "fstatat": "fstat", "OPENAT": "openat", "@system-servce": "@system-service", "@file_system": "@file-system",
		"umount": "umount2", "nothing-like-it-at-all": "", "": "", "@": "",
	} {
		_, err := Expand([]string{"read", name})
		var unknown *UnknownNameError
		if !errors.As(err, &unknown) {
			t.Errorf("Expand(%q) = %v; want an UnknownNameError", name, err)
			continue
		}
		if want != "" && unknown.Nearest != want {
			t.Errorf("the nearest name to %q is %q; want %q", name, unknown.Nearest, want)
		}
	}
}

func TestExpandNamesEveryUnknownName(t *testing.T) {
	_, err := Expand([]string{"opne", "raed"})
	if err == nil || !strings.Contains(err.Error(), "opne") || !strings.Contains(err.Error(), "raed") {
		t.Errorf("Expand = %v; want both names in it", err)
	}
	if got := Since("openat2"); got != "5.6" {
		t.Errorf("Since(openat2) = %q", got)
	}
	if !reflect.DeepEqual(AlwaysAllowed(), []string{"execve", "exit", "exit_group", "read", "rt_sigreturn", "write"}) {
		t.Errorf("AlwaysAllowed = %q", AlwaysAllowed())
	}
}
