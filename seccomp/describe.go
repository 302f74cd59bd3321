package seccomp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Describe decodes the arguments of a call as a person would write them, and
// returns the path that the call is about, if it is about one.
//
// Strings, paths and addresses are read from the plugin's memory, which it can
// change at any time: what is shown may not be what the kernel saw, and
// nothing may be decided by it. They are escaped as in a Go string, so that
// control characters are visible, and capped. What cannot be read is shown as
// its pointer. The path is made absolute by the plugin's working directory or
// descriptor and cleaned, links are not followed; it is as the plugin sees it.
//
// Reading can block for as long as the plugin likes, because it may hold the
// lock that this needs: never call it in a Handler. A plugin that is frozen, or
// whose call is pending, cannot change what is read.
func Describe(n Notification) (args []string, path string) {
	if !Known(n.NR) || table[n.NR].sig == unimplemented {
		return hexAll(n.Args[:]), ""
	}
	for i := range len(table[n.NR].sig) {
		text, p := n.argument(i)
		args = append(args, text)
		if path == "" {
			path = p
		}
	}
	return args, path
}

// hexAll shows arguments of which nothing is known.
func hexAll(args []uint64) []string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = fmt.Sprintf("%#x", a)
	}
	return out
}

// argument shows one argument, and the path that it is.
func (n Notification) argument(i int) (text, path string) {
	kind := table[n.NR].sig[i]
	v := n.Args[i]
	if bits := ArgBits(n.NR, uint(i)); bits < 64 { // #nosec G115 -- an index
		v &= 1<<bits - 1
	}
	if text, ok := n.word(i, v); ok {
		return text, ""
	}
	switch kind {
	case 's':
		return n.pathArgument(i)
	case 't':
		return n.stringArgument(v), ""
	case 'p':
		return n.structure(i)
	case 'i', 'f':
		return strconv.Itoa(int(int32(v))), "" // #nosec G115 -- an int in the kernel
	case 'd':
		return dirWord(v), ""
	case 'u':
		return strconv.FormatUint(v, 10), ""
	case 'l':
		return strconv.FormatInt(int64(v), 10), "" // #nosec G115 -- a long in the kernel
	case 'o':
		return fmt.Sprintf("%#o", v), ""
	default:
		return fmt.Sprintf("%#x", v), ""
	}
}

// dirWord shows a directory descriptor.
func dirWord(v uint64) string {
	if int32(v) == unix.AT_FDCWD { // #nosec G115 -- an int in the kernel
		return "AT_FDCWD"
	}
	return strconv.Itoa(int(int32(v))) // #nosec G115 -- an int in the kernel
}

// word names an argument that has a name.
func (n Notification) word(i int, v uint64) (string, bool) {
	switch {
	case n.Call == "clone" && i == 0:
		return cloneWord(v), true
	case (n.Call == "socket" || n.Call == "socketpair") && i == 1:
		return socketTypeWord(v), true
	case (n.Call == "socket" || n.Call == "socketpair") && i == 2:
		return protocolWord(n.Args[0]&0xffffffff, v), true
	case n.Call == callOpen && i == 1, n.Call == callOpenat && i == 2:
		return openWord(v), true
	case signalArgument(n.Call) == i:
		return signalWord(v), true
	}
	if words := flagWords(n.Call, i); words != nil {
		return combine(words, v), true
	}
	return pick(choiceWords(n.Call, i), v)
}

// pathArgument shows a path, and returns it resolved.
func (n Notification) pathArgument(i int) (text, resolved string) {
	addr := n.Args[i]
	raw, ok := n.readString(addr, maxPath)
	if !ok && raw == "" {
		return fmt.Sprintf("%#x", addr), ""
	}
	if !ok { // too long, and so for the kernel
		return quoted(raw), ""
	}
	dirfd := int32(unix.AT_FDCWD)
	if i > 0 && table[n.NR].sig[i-1] == 'd' {
		dirfd = int32(n.Args[i-1]) // #nosec G115 -- an int in the kernel
	}
	return quoted(raw), escape(n.resolve(dirfd, raw), maxPath)
}

// stringArgument shows a string that is no path.
func (n Notification) stringArgument(addr uint64) string {
	if addr == 0 {
		return "NULL"
	}
	s, ok := n.readString(addr, maxString)
	if !ok && s == "" {
		return fmt.Sprintf("%#x", addr)
	}
	return quoted(s)
}

// quoted shows a string of the plugin, as a Go string; dots behind it say that
// it was cut.
func quoted(s string) string {
	if len(s) > maxString {
		return strconv.Quote(s[:maxString]) + "..."
	}
	return strconv.Quote(s)
}

// structure shows what a pointer leads to where that is worth it, and the path
// in it.
func (n Notification) structure(i int) (text, path string) {
	pointer := fmt.Sprintf("%#x", n.Args[i])
	if n.Args[i] == 0 {
		return "NULL", ""
	}
	switch {
	case (n.Call == "connect" || n.Call == "bind") && i == 1:
		text, path = n.address(n.Args[1], n.Args[2])
	case n.Call == "sendto" && i == 4:
		text, path = n.address(n.Args[4], n.Args[5])
	case n.Call == "openat2" && i == 2:
		text = n.openHow(n.Args[2])
	case n.Call == "clone3" && i == 0:
		text = n.cloneArgs(n.Args[0])
	}
	if text == "" {
		return pointer, ""
	}
	return text, path
}

// openHow shows struct open_how.
func (n Notification) openHow(addr uint64) string {
	var b [24]byte
	if n.read(addr, b[:]) < len(b) {
		return ""
	}
	u64 := binary.NativeEndian.Uint64
	return fmt.Sprintf("{flags=%s, mode=%#o, resolve=%#x}", openWord(u64(b[:])), u64(b[8:]), u64(b[16:]))
}

// cloneArgs shows what matters of struct clone_args.
func (n Notification) cloneArgs(addr uint64) string {
	var b [40]byte
	if n.read(addr, b[:]) < len(b) {
		return ""
	}
	u64 := binary.NativeEndian.Uint64
	return fmt.Sprintf("{flags=%s, exit_signal=%s}", combine(cloneFlags, u64(b[:])), signalWord(u64(b[32:])))
}

// address shows a socket address, and the path that it is.
func (n Notification) address(addr, length uint64) (text, path string) {
	var b [128]byte // sizeof(struct sockaddr_storage)
	size := min(length&0xffffffff, uint64(len(b)))
	got := n.read(addr, b[:size])
	if got < 2 {
		return "", ""
	}
	return n.addressWord(b[:got])
}

// addressWord shows the bytes of struct sockaddr.
func (n Notification) addressWord(b []byte) (text, path string) {
	family := uint64(binary.NativeEndian.Uint16(b))
	switch {
	case family == unix.AF_UNIX:
		return n.unixAddress(b[2:])
	case family == unix.AF_INET && len(b) >= 8:
		ip := netip.AddrFrom4([4]byte(b[4:8]))
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[2:])).String(), ""
	case family == unix.AF_INET6 && len(b) >= 24:
		ip := netip.AddrFrom16([16]byte(b[8:24]))
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[2:])).String(), ""
	}
	name, ok := pick(families, family)
	if !ok {
		name = strconv.FormatUint(family, 10)
	}
	return fmt.Sprintf("{family=%s, data=%x}", name, b[2:]), ""
}

// unixAddress shows sun_path: a path, or "@" and an abstract name.
func (n Notification) unixAddress(b []byte) (text, path string) {
	switch {
	case len(b) == 0:
		return "unix:unnamed", ""
	case b[0] == 0:
		return "unix:@" + escape(string(b[1:]), maxString), ""
	}
	p, _, _ := strings.Cut(string(b), "\x00")
	return "unix:" + escape(p, maxString), escape(n.resolve(unix.AT_FDCWD, p), maxPath)
}

// The calls of the file watch.
const (
	callOpen    = "open"
	callOpenat  = "openat"
	callOpenat2 = "openat2"
	callCreat   = "creat"
)

// WatchCalls returns the calls that the file watch observes: the open family.
// A filter may watch only those that it allows (see Filter.Allows).
func WatchCalls() []string { return []string{callCreat, callOpen, callOpenat, callOpenat2} }

// IsWatchCall tells whether a call is of the open family.
func IsWatchCall(call string) bool {
	return call == callOpen || call == callOpenat || call == callOpenat2 || call == callCreat
}

// OpenAccess tells for a call of the open family which path is opened, and
// whether to "read" or to "write" (which creating, truncating and both at once
// are too). What is said of Describe holds: the path is unverified, and it is
// "" if it cannot be told; both are "" for other calls.
func OpenAccess(n Notification) (file, access string) {
	var at int
	var flags uint64
	switch n.Call {
	case callOpen:
		at, flags = 0, n.Args[1]
	case callCreat:
		at, flags = 0, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC
	case callOpenat:
		at, flags = 1, n.Args[2]
	case callOpenat2:
		at, flags = 1, n.openHowFlags()
	default:
		return "", ""
	}
	_, file = n.pathArgument(at)
	if !path.IsAbs(file) {
		file = ""
	}
	return file, openAccess(flags)
}

// openHowFlags reads the flags of openat2; what cannot be read opens nothing.
func (n Notification) openHowFlags() uint64 {
	var b [8]byte
	n.read(n.Args[2], b[:])
	return binary.NativeEndian.Uint64(b[:])
}

// openAccess is what flags ask for. O_PATH ignores all others that matter.
func openAccess(flags uint64) string {
	if flags&unix.O_PATH != 0 {
		return "read"
	}
	if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&(unix.O_CREAT|unix.O_TRUNC) != 0 {
		return "write"
	}
	return "read"
}
