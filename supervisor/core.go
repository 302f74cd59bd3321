package supervisor

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A core of a plugin that stands still: elf(5) and core(5), as debuggers read it.
// It has the memory that the plugin wrote, as far as there is room, the smallest
// pieces first: stacks and data rather than half of a heap. Files that are mapped
// are named, not copied. Nothing is redacted in it, so nobody has one who did not
// ask for it: [evidence] core.

// coreMaps bounds how many mappings a core tells of; the kernel's own bound for a
// process is 65530 (vm.max_map_count).
const coreMaps = 4096

var errLate = errors.New("it was late")

// mapping is a line of /proc/PID/maps.
type mapping struct {
	start, end, offset uint64
	flags              elf.ProgFlag
	path               string
	keep               uint64 // bytes of it that the core has
}

// core writes the core of a process that stands still.
func (w *evidenceWriter) core(pid int) {
	name := fmt.Sprintf("core-%d", pid)
	if err := w.writeCore(name, pid); err != nil {
		w.fail(fmt.Errorf("cannot keep %s: %w", name, err))
	}
}

func (w *evidenceWriter) writeCore(name string, pid int) (err error) {
	if w.closed.Load() {
		return errLate
	}
	text, err := readSome(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer func() { _ = memory.Close() }() // only read from
	maps := parseMaps(string(text))
	notes := coreNotes(pid, maps)
	head := coreHead(maps)
	w.left -= head + len(notes)
	if w.left < 0 {
		return errors.New("there is no room")
	}
	chooseMemory(maps, w.left)
	out, err := os.OpenFile(filepath.Join(w.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := out.Write(append(coreHeaders(maps, head, len(notes)), notes...)); err != nil {
		return err
	}
	at := int64(head + len(notes))
	for _, m := range maps {
		if err := w.copyMemory(out, at, memory, m); err != nil {
			return err
		}
		at += int64(m.keep) // #nosec G115 -- at most evidenceSize
		w.left -= int(m.keep)
	}
	return out.Truncate(at)
}

// parseMaps reads what can be read of proc_pid_maps(5).
func parseMaps(text string) (maps []mapping) {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 6)
		if len(f) < 5 || len(f[1]) < 3 || f[1][0] != 'r' || len(maps) == coreMaps {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		m := mapping{flags: elf.PF_R}
		var errs [3]error
		m.start, errs[0] = strconv.ParseUint(from, 16, 64)
		m.end, errs[1] = strconv.ParseUint(to, 16, 64)
		m.offset, errs[2] = strconv.ParseUint(f[2], 16, 64)
		if len(f) == 6 {
			m.path = strings.TrimSpace(f[5])
		}
		if errors.Join(errs[:]...) != nil || m.end <= m.start || strings.HasPrefix(m.path, "[v") { // the kernel's: vvar, vdso, vsyscall
			continue
		}
		if f[1][1] == 'w' {
			m.flags |= elf.PF_W
		}
		if f[1][2] == 'x' {
			m.flags |= elf.PF_X
		}
		maps = append(maps, m)
	}
	return maps
}

// chooseMemory says how much is kept of each mapping: what can have been written,
// the smallest first, whole pages.
func chooseMemory(maps []mapping, room int) {
	order := make([]*mapping, 0, len(maps))
	for i := range maps {
		if maps[i].flags&elf.PF_W != 0 || !strings.HasPrefix(maps[i].path, "/") {
			order = append(order, &maps[i])
		}
	}
	slices.SortStableFunc(order, func(a, b *mapping) int { return cmp.Compare(a.end-a.start, b.end-b.start) })
	page := os.Getpagesize()
	for _, m := range order {
		m.keep = min(m.end-m.start, uint64(room/page*page)) // #nosec G115 -- not negative
		room -= int(m.keep)                                 // #nosec G115 -- at most room
	}
}

// coreHead is how many bytes stand before the notes.
func coreHead(maps []mapping) int { return 64 + 56*(len(maps)+1) }

// coreHeaders are the file's and the program's.
func coreHeaders(maps []mapping, head, notes int) []byte {
	var b bytes.Buffer
	h := elf.Header64{
		Type: uint16(elf.ET_CORE), Machine: uint16(coreMachine), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: uint16(len(maps) + 1), // #nosec G115 -- coreMaps and one
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // into memory
	put(h)
	put(elf.Prog64{Type: uint32(elf.PT_NOTE), Off: uint64(head), Filesz: uint64(notes)}) // #nosec G115 -- sizes
	at := uint64(head + notes)                                                           // #nosec G115 -- sizes
	for _, m := range maps {
		put(elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(m.flags), Off: at, Vaddr: m.start, Filesz: m.keep, Memsz: m.end - m.start, Align: 1})
		at += m.keep
	}
	return b.Bytes()
}

// ntFile is the note that names the files that are mapped.
const ntFile = 0x46494c45

// coreNotes are where its threads stand, as far as this machine's kind tells, and
// which files are mapped.
func coreNotes(pid int, maps []mapping) []byte {
	var notes []byte
	for _, tid := range threadsOf(pid) {
		notes = appendNote(notes, uint32(elf.NT_PRSTATUS), threadStatus(tid))
	}
	var table, names []byte
	count := uint64(0)
	for _, m := range maps {
		if !strings.HasPrefix(m.path, "/") {
			continue
		}
		count++
		for _, v := range []uint64{m.start, m.end, m.offset / uint64(os.Getpagesize())} { // #nosec G115 -- a size
			table = binary.LittleEndian.AppendUint64(table, v)
		}
		names = append(append(names, m.path...), 0)
	}
	head := binary.LittleEndian.AppendUint64(nil, count)
	head = binary.LittleEndian.AppendUint64(head, uint64(os.Getpagesize())) // #nosec G115 -- a size
	return appendNote(notes, ntFile, append(append(head, table...), names...))
}

// threadsOf are the threads of a process, its first one first.
func threadsOf(pid int) []int {
	tids := []int{pid}
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)) // the first is known without
	for _, e := range entries[:min(len(entries), evidenceProcs)] {
		if tid, err := strconv.Atoi(e.Name()); err == nil && tid != pid {
			tids = append(tids, tid)
		}
	}
	return tids
}

// appendNote appends one of the kernel's notes.
func appendNote(b []byte, kind uint32, data []byte) []byte {
	const name = "CORE\x00\x00\x00\x00"
	b = binary.LittleEndian.AppendUint32(b, 5)                 // of the name, with its end
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data))) // #nosec G115 -- some KiB
	b = append(binary.LittleEndian.AppendUint32(b, kind), name...)
	b = append(b, data...)
	return append(b, make([]byte, -len(data)&3)...)
}

// copyMemory copies what is kept of a mapping; pages of zeros, which is also what
// cannot be read, are left out of the file.
func (w *evidenceWriter) copyMemory(out *os.File, at int64, memory *os.File, m mapping) error {
	buf := make([]byte, 64<<10)
	zero := make([]byte, len(buf))
	for done := uint64(0); done < m.keep; {
		if w.closed.Load() {
			return errLate
		}
		piece := buf[:min(uint64(len(buf)), m.keep-done)]
		n, _ := memory.ReadAt(piece, int64(m.start+done)) // #nosec G115 -- an address of a program's
		if piece = piece[:n]; !bytes.Equal(piece, zero[:n]) {
			if _, err := out.WriteAt(piece, at+int64(done)); err != nil { // #nosec G115 -- at most evidenceSize
				return err
			}
		}
		done += uint64(max(n, os.Getpagesize())) // #nosec G115 -- not negative
	}
	return nil
}
