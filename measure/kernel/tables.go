package kernel

import (
	"bytes"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Table is a table of the kernel's that lies outside of its read-only data and
// still does not change.
type Table struct {
	Name  string // the symbol it starts at
	Start mem.Virt

	want []byte
	once []byte // bits of each byte that may become set
}

// fixedTables are symbols between which such tables lie.
var fixedTables = [][2]string{
	{"__start_orc_unwind_ip", "__stop_orc_unwind_ip"},
	{"__start_orc_unwind", "__stop_orc_unwind"},
	{"__start___bug_table", "__stop___bug_table"},
}

// TableNames returns the symbols between which tables lie, start and end.
func TableNames() [][2]string { return fixedTables }

// Tables returns the tables that the kernel has: for unwinding stacks and for
// BUG and WARN. Exception tables are part of its read-only data.
func (e *Expected) Tables() []Table {
	var out []Table
	for _, names := range fixedTables {
		s := e.image.between(names[0], names[1])
		if s.data == nil {
			continue
		}
		t := Table{Name: names[0], Start: mem.Virt(s.addr + e.slide), want: e.image.moved(s, e.slide)}
		if names[0] == "__start___bug_table" {
			t.once = bugFlags(e.image, len(s.data))
		}
		out = append(out, t)
	}
	return out
}

// bugDone is BUGFLAG_DONE: a WARN_ONCE has warned (include/linux/bug.h).
const bugDone = 1 << 2

// bugFlags masks that flag in a table of struct bug_entry: two 32-bit distances,
// from 6.18 on a third, to a format string, then line and flags
// (include/asm-generic/bug.h).
func bugFlags(img *Image, size int) []byte {
	entry := 12
	if _, ok := img.Symbols.Address("__WARN_trap"); ok && size%16 == 0 {
		entry = 16
	}
	mask := make([]byte, size)
	for at := entry - 2; at < size; at += entry {
		mask[at] = bugDone
	}
	return mask
}

// Size is the table's length in bytes.
func (t *Table) Size() int { return len(t.want) }

// Compare returns what differs; seen is the whole table.
func (t *Table) Compare(seen []byte) []Difference {
	if len(seen) != len(t.want) {
		return nil
	}
	want := t.want
	if t.once != nil {
		want = bytes.Clone(want)
		for i, mask := range t.once {
			want[i] |= seen[i] & mask
		}
	}
	return runs(t.Start, seen, want, "table differs from the file")
}
