package supervisor

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stopped is a process that stands still, with needle in its memory.
func stopped(t *testing.T, needle string) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Env = []string{"CORE=" + needle}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	until(t, "it sleeps", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", cmd.Process.Pid))
		return err == nil && strings.HasPrefix(string(text), fmt.Sprint(unix.SYS_CLOCK_NANOSLEEP)+" ")
	})
	return cmd.Process.Pid
}

// TestCore: a debugger finds in a core what the process had in its memory, where
// it stood, and which files it had mapped.
func TestCore(t *testing.T) {
	const needle = "the-needle-in-the-stack"
	pid := stopped(t, needle)
	w := &evidenceWriter{dir: t.TempDir(), left: evidenceSize}
	w.core(pid)
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.dir, fmt.Sprintf("core-%d", pid))
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Type != elf.ET_CORE || f.Machine != coreMachine {
		t.Errorf("it is %v of %v", f.Type, f.Machine)
	}
	found, mapped := false, map[uint64]bool{}
	var notes []byte
	for _, p := range f.Progs {
		data, err := io.ReadAll(p.Open())
		if err != nil {
			t.Fatal(err)
		}
		if p.Type == elf.PT_NOTE {
			notes = data
			continue
		}
		found = found || bytes.Contains(data, []byte(needle))
		mapped[p.Vaddr] = true
	}
	if !found {
		t.Error("its memory is not in it")
	}
	byKind := map[uint32][]byte{}
	for len(notes) >= 20 {
		size := int(binary.LittleEndian.Uint32(notes[4:]))
		byKind[binary.LittleEndian.Uint32(notes[8:])] = notes[20 : 20+size]
		notes = notes[20+(size+3)&^3:]
	}
	status := byKind[uint32(elf.NT_PRSTATUS)]
	if len(status) != statusSize || binary.LittleEndian.Uint32(status[statusPID:]) != uint32(pid) {
		t.Fatalf("a status of %d bytes", len(status))
	}
	if nr := binary.LittleEndian.Uint64(status[statusRegs+8*regOrigRAX:]); nr != unix.SYS_CLOCK_NANOSLEEP {
		t.Errorf("it stood in call %d", nr)
	}
	files := byKind[ntFile]
	if !bytes.Contains(files, []byte("/sleep\x00")) || !mapped[binary.LittleEndian.Uint64(files[16:])] {
		t.Errorf("the files are %q", files)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Size() > evidenceSize {
		t.Errorf("%v, %v", info, err)
	}
}

// TestCoreHasRoom: it takes no more than it was given, and none is made that would
// have no memory at all, or came late.
func TestCoreHasRoom(t *testing.T) {
	pid := stopped(t, "x")
	for _, room := range []int{100, 64 << 10, 200 << 10} {
		w := &evidenceWriter{dir: t.TempDir(), left: room}
		w.core(pid)
		err := w.close()
		size := int64(0)
		if info, err := os.Stat(filepath.Join(w.dir, fmt.Sprintf("core-%d", pid))); err == nil {
			size = info.Size()
		}
		if size > int64(room) || (size == 0) != (err != nil) || room > 64<<10 && err != nil {
			t.Errorf("room for %d: %d bytes, %v", room, size, err)
		}
	}
	w := &evidenceWriter{dir: t.TempDir(), left: evidenceSize}
	w.closed.Store(true)
	if w.core(pid); w.close() == nil {
		t.Error("a late one was written")
	}
}

func FuzzParseMaps(f *testing.F) {
	own, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(own), 1<<20)
	f.Add("0-1 rwxp 0 0:0 0\n1000-0 r--p 0 0:0 0 /x\nffffffffffffffff-0 rw-p", 5)
	f.Fuzz(func(t *testing.T, text string, room int) {
		maps := parseMaps(text)
		room = max(room, 0)
		chooseMemory(maps, room)
		kept := uint64(0)
		for _, m := range maps {
			if m.keep > m.end-m.start {
				t.Errorf("%d bytes are kept of %d", m.keep, m.end-m.start)
			}
			kept += m.keep
		}
		if len(maps) > coreMaps || kept > uint64(room) {
			t.Errorf("%d mappings, %d bytes of %d", len(maps), kept, room)
		}
		if head := coreHead(maps); len(coreHeaders(maps, head, 0)) != head {
			t.Error("the headers are not as long as they are said to be")
		}
	})
}
