package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A checkpoint says how many records there are and the root of the tree over
// them, signed: the origin, the size and the root in base64, a line each, as in
// https://c2sp.org/tlog-checkpoint. Who keeps one can prove later that the log
// has only grown since.
const (
	origin        = "cordon-audit"
	maxCheckpoint = 4 << 10 // bytes, of a signed one
	maxKey        = 1 << 10 // bytes, of a file with a key
)

// signTree makes the signed checkpoint of a tree.
func signTree(t tlog.Tree, key note.Signer) ([]byte, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, t.N, t.Hash)
	return note.Sign(&note.Note{Text: text}, key)
}

// OpenCheckpoint checks a signed checkpoint against the public key and returns
// what it says.
func OpenCheckpoint(signed []byte, publicKey string) (tlog.Tree, error) {
	if len(signed) > maxCheckpoint {
		return tlog.Tree{}, fmt.Errorf("%w: a checkpoint of more than %d bytes", ErrBroken, maxCheckpoint)
	}
	key, err := note.NewVerifier(strings.TrimSpace(publicKey))
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("cannot read the audit log's public key: %w", err)
	}
	opened, err := note.Open(signed, note.VerifierList(key))
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("%w: its checkpoint is not signed by its key: %w", ErrBroken, err)
	}
	return parseTree(opened.Text)
}

func parseTree(text string) (tlog.Tree, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] != origin || lines[3] != "" {
		return tlog.Tree{}, fmt.Errorf("%w: its checkpoint is none of %s", ErrBroken, origin)
	}
	n, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != lines[1] {
		return tlog.Tree{}, fmt.Errorf("%w: its checkpoint has the size %q", ErrBroken, lines[1])
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("%w: the root of its checkpoint: %w", ErrBroken, err)
	}
	return tlog.Tree{N: n, Hash: root}, nil
}

// keys is the pair that signs: the secret never leaves its file (0600).
type keys struct {
	signer note.Signer
	public string
	made   bool // just now
}

// loadKeys reads the key file (the secret and the public key, a line each), or
// makes both and its readable half.
func loadKeys(p paths, random io.Reader) (keys, error) {
	data, err := readSmall(p.key, maxKey)
	if errors.Is(err, os.ErrNotExist) {
		return makeKeys(p, random)
	}
	if err != nil {
		return keys{}, err
	}
	return parseKeys(data)
}

func parseKeys(data []byte) (keys, error) {
	secret, public, _ := strings.Cut(string(data), "\n")
	public = strings.TrimSpace(public)
	signer, err := note.NewSigner(secret)
	if err != nil {
		return keys{}, errors.New("its key is damaged: restore it from a backup") // never the key's text
	}
	check, err := note.NewVerifier(public)
	if err != nil || check.KeyHash() != signer.KeyHash() {
		return keys{}, errors.New("its key is damaged: the two halves do not belong together")
	}
	return keys{signer: signer, public: public}, nil
}

func makeKeys(p paths, random io.Reader) (keys, error) {
	if _, err := os.Lstat(p.checkpoint); err == nil {
		return keys{}, fmt.Errorf("%w: there is a checkpoint, but %s is gone: restore it from a backup, or move the audit log away", ErrBroken, filepath.Base(p.key))
	}
	secret, public, err := note.GenerateKey(random, origin)
	if err != nil {
		return keys{}, err
	}
	data := []byte(secret + "\n" + public + "\n")
	if err := errors.Join(replaceFile(p.key, data, 0o600), replaceFile(p.public, []byte(public+"\n"), 0o644)); err != nil {
		return keys{}, fmt.Errorf("cannot keep a new key: %w", err)
	}
	k, err := parseKeys(data)
	k.made = true
	return k, err
}

// readSmall reads a regular file of at most limit bytes.
func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", filepath.Base(path), limit)
	}
	return data, err
}

// replaceFile writes a file as a whole: a crash leaves the old one or the new.
func replaceFile(path string, data []byte, mode os.FileMode) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
