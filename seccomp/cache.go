package seccomp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// cacheMagic begins every file; the number changes with the format.
	cacheMagic = "cordon-bpf 1\n"
	// instructionBytes is the size of struct sock_filter.
	instructionBytes = 8
	// maxProgram is the greatest program in bytes.
	maxProgram = unix.BPF_MAXINSNS * instructionBytes
	// maxFile is the greatest file in bytes: magic, key, checksum, program.
	maxFile = len(cacheMagic) + 2*sha256.Size + maxProgram
	// maxHeld bounds the programs that are held in memory.
	maxHeld = 256
)

// Cache keeps compiled programs in memory and in files, each by the digest of
// its filter. It may be used concurrently.
type Cache struct {
	dir     string
	compile func(Filter) ([]byte, error)
	vary    []string

	mu   sync.Mutex
	held map[string][]byte
	// asWritten finds a program of held by the spec's own words, whole: what a
	// filter means takes a hundred times as long to tell, and a checksum of the
	// words ten times.
	asWritten map[string][]byte
}

// NewCache returns a cache whose files lie in dir, which must belong to this
// process's user and be writable by nobody else, or it is not used; with dir
// empty there are no files. vary names what the bytes depend on beside the
// filter: the version of the library that compiles.
func NewCache(dir string, compile func(Filter) ([]byte, error), vary ...string) *Cache {
	return &Cache{dir: dir, compile: compile, vary: vary, held: make(map[string][]byte), asWritten: make(map[string][]byte)}
}

// Program returns the program of a filter, from memory, from a file or newly
// compiled. What it finds in a file is taken only if the file belongs to this
// user, is writable by nobody else, was made for this filter and version, and
// is whole; otherwise the filter is compiled and the file replaced. Failing to
// keep a program is no error. The caller must not change the bytes.
func (c *Cache) Program(f Filter) ([]byte, error) {
	words := f.appendWords(make([]byte, 0, maxOnStack))
	c.mu.Lock()
	program, ok := c.asWritten[string(words)] // compared in place, not copied
	c.mu.Unlock()
	if ok {
		return program, nil
	}
	program, err := c.byMeaning(f)
	if err == nil {
		c.remember(string(words), program)
	}
	return program, err
}

// byMeaning is Program for a spec that was not met in these words.
func (c *Cache) byMeaning(f Filter) ([]byte, error) {
	key := c.key(f)
	c.mu.Lock()
	program, ok := c.held[key]
	c.mu.Unlock()
	if ok {
		return program, nil
	}
	program, err := c.load(key)
	if err != nil {
		if program, err = c.compile(f); err != nil {
			return nil, err
		}
		if err := checkProgram(program); err != nil {
			return nil, fmt.Errorf("cannot use the compiled filter: %w", err)
		}
		_ = c.store(key, program) // a program that is not kept is compiled again
	}
	c.hold(key, program)
	return program, nil
}

// hold keeps a program in memory. When there are too many, all go: the files
// are near, and plugins share few filters.
func (c *Cache) hold(key string, program []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held) >= maxHeld {
		clear(c.held)
	}
	c.held[key] = program
}

// remember keeps a program by the words that led to it.
func (c *Cache) remember(words string, program []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.asWritten) >= maxHeld {
		clear(c.asWritten)
	}
	c.asWritten[words] = program
}

// maxOnStack is how long a spec may be in bytes that is looked up without
// taking memory; a built-in profile's is 6 KB.
const maxOnStack = 16 << 10

// appendWords writes the spec as it stands; two specs have the same words only
// if they are the same.
func (f Filter) appendWords(b []byte) []byte {
	for i := range f.Rules {
		b = append(b, 1) // another rule
		b = f.Rules[i].appendWords(b)
	}
	b = append(b, 0)
	b = appendList(b, f.Watch)
	if f.ExecOnce {
		b = append(b, 1)
	}
	return b
}

func (r *Rule) appendWords(b []byte) []byte {
	b = appendList(b, r.Names)
	b = binary.AppendUvarint(b, uint64(len(r.Args)))
	for _, c := range r.Args {
		b = binary.AppendUvarint(b, uint64(c.Index))
		b = appendText(b, string(c.Op))
		b = binary.AppendUvarint(b, c.Value)
		b = binary.AppendUvarint(b, c.ValueTwo)
	}
	b = appendText(b, string(r.Action))
	return appendText(b, r.Errno)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendList(b []byte, names []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, n := range names {
		b = appendText(b, n)
	}
	return b
}

// key is the name of a filter's file: 64 hex digits.
func (c *Cache) key(f Filter) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s%q", f.Digest(), c.vary))
	return hex.EncodeToString(sum[:])
}

func (c *Cache) file(key string) string { return filepath.Join(c.dir, key+".bpf") }

var (
	errNoCache = errors.New("there is no cache directory")
	errSpoiled = errors.New("the cached program is not what was written")
)

// load reads and verifies a file.
func (c *Cache) load(key string) ([]byte, error) {
	if err := c.trustDir(); err != nil {
		return nil, err
	}
	fd, err := unix.Open(c.file(key), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), key) // #nosec G115 -- a descriptor
	defer file.Close()                   // it is only read
	if err := trustFile(fd); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, int64(maxFile+1)))
	if err != nil {
		return nil, err
	}
	return unpack(key, content)
}

// trustDir refuses a directory in which another could put files.
func (c *Cache) trustDir() error {
	if c.dir == "" {
		return errNoCache
	}
	var st unix.Stat_t
	if err := unix.Lstat(c.dir, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || !ours(st) {
		return errSpoiled
	}
	return nil
}

// trustFile refuses a file that another could have written or still can, and
// one that is too long.
func trustFile(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || !ours(st) || st.Nlink != 1 || st.Size > int64(maxFile) {
		return errSpoiled
	}
	return nil
}

// ours tells whether only this user can write to it.
func ours(st unix.Stat_t) bool {
	return int(st.Uid) == os.Geteuid() && st.Mode&0o022 == 0
}

// pack is the content of a file: magic, key, checksum of all the rest, and the
// program.
func pack(key string, program []byte) ([]byte, error) {
	id, err := hex.DecodeString(key)
	if err != nil {
		return nil, err
	}
	sum := checksum(id, program)
	return bytes.Join([][]byte{[]byte(cacheMagic), id, sum[:], program}, nil), nil
}

// unpack returns the program of a file's content, if it was made for the key
// and is whole.
func unpack(key string, content []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(content, []byte(cacheMagic))
	if !ok || len(rest) < 2*sha256.Size || len(content) > maxFile {
		return nil, errSpoiled
	}
	id, sum, program := rest[:sha256.Size], rest[sha256.Size:2*sha256.Size], rest[2*sha256.Size:]
	want := checksum(id, program)
	if hex.EncodeToString(id) != key || !bytes.Equal(sum, want[:]) {
		return nil, errSpoiled
	}
	if err := checkProgram(program); err != nil {
		return nil, err
	}
	return program, nil
}

func checksum(id, program []byte) [sha256.Size]byte {
	return sha256.Sum256(bytes.Join([][]byte{[]byte(cacheMagic), id, program}, nil))
}

// checkProgram refuses what the kernel would not take for a program.
func checkProgram(program []byte) error {
	if len(program) == 0 || len(program)%instructionBytes != 0 || len(program) > maxProgram {
		return fmt.Errorf("%d bytes are no program of 1 to %d instructions", len(program), unix.BPF_MAXINSNS)
	}
	return nil
}

// store writes a file whole or not at all, readable by this user alone. The
// file has no name until it is whole, so that a process which ends in between
// leaves nothing behind. It needs no sync: what a crash of the host spoils
// does not have its checksum.
func (c *Cache) store(key string, program []byte) error {
	if err := c.trustDir(); err != nil {
		return err
	}
	content, err := pack(key, program)
	if err != nil {
		return err
	}
	fd, err := unix.Open(c.dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), key) // #nosec G115 -- a descriptor
	if _, err = file.Write(content); err == nil {
		err = c.link(fd, key)
	}
	return errors.Join(err, file.Close())
}

// link names a finished file. One of that name is there only if it was no
// good, or if another process was faster, whose file is as good.
func (c *Cache) link(fd int, key string) error {
	if err := unix.Unlink(c.file(key)); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	return unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, c.file(key), unix.AT_SYMLINK_FOLLOW)
}
