package check

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// localTable is a process's local descriptor table, which modify_ldt makes
// (arch/x86/kernel/ldt.c, struct ldt_struct). The kernel lets it hold user
// segments only; the processor would take a call gate from it as well.
type localTable struct {
	Task    string   `json:"task"` // one that has it
	At      address  `json:"at"`
	Entries []uint64 `json:"entries"`
}

// Bounds: the kernel's own (LDT_ENTRIES) and that of all tables in a scan.
const (
	maxLocalEntries    = 8192
	maxAllLocalEntries = 1 << 18
)

var errLocalTables = fmt.Errorf("over %d entries in local descriptor tables", maxAllLocalEntries)

// localTables reads the table of each process that has one. What cannot be read
// is of a process that has ended since it was listed.
func (c *collector) localTables() ([]localTable, error) {
	if _, ok := c.profile.Symbol("__x64_sys_modify_ldt"); !ok {
		return nil, nil // built without
	}
	var offsets [4]uint64
	for i, path := range [][]string{{"task_struct", "mm"}, {"mm_struct", "context", "ldt"},
		{"ldt_struct", "entries"}, {"ldt_struct", "nr_entries"}} {
		var err error
		if offsets[i], err = c.profile.Types.Offset(path[0], path[1:]...); err != nil {
			return nil, err
		}
	}
	tasks, err := c.profile.Tasks()
	if err != nil {
		return nil, err
	}
	var out []localTable
	seen := make(map[uint64]bool)
	room := maxAllLocalEntries
	for _, task := range tasks {
		mm, err := c.space.U64(task.At + mem.Virt(offsets[0]))
		if err != nil || mm == 0 || seen[mm] {
			continue
		}
		seen[mm] = true
		table, err := c.space.U64(mem.Virt(mm + offsets[1]))
		if err != nil || table == 0 {
			continue
		}
		at, err1 := c.space.U64(mem.Virt(table + offsets[2]))
		count, err2 := c.space.U32(mem.Virt(table + offsets[3]))
		if errors.Join(err1, err2) != nil {
			continue
		}
		if count > maxLocalEntries {
			return nil, fmt.Errorf("local descriptor table of %d entries", count)
		}
		if room -= int(count); room < 0 {
			return nil, errLocalTables
		}
		raw := make([]byte, 8*count)
		if c.space.Read(raw, mem.Virt(at)) != nil {
			continue
		}
		t := localTable{Task: fmt.Sprintf("task %d (%s)", task.PID, task.Comm), At: address(at)}
		for cur := bin.Little(raw); cur.Len() >= 8; {
			t.Entries = append(t.Entries, cur.U64())
		}
		out = append(out, t)
	}
	return out, nil
}

// judge finds what is no segment of user mode: each entry that is not empty must
// be for code or data, not a gate or another system descriptor, with privilege 3
// (fill_ldt, arch/x86/include/asm/desc.h).
func (t *localTable) judge() []measure.Finding {
	var out []measure.Finding
	for i, d := range t.Entries {
		if access := uint8(d >> 40); d == 0 || access>>4&1 == 1 && access>>5&3 == 3 {
			continue
		}
		out = append(out, measure.Finding{Address: (t.At + address(8*i)).String(), Symbol: fmt.Sprintf("%s.ldt[%d]", t.Task, i),
			Observed: fmt.Sprintf("%#016x", d), Expected: "nothing, or a user segment",
			Explanation: "a local descriptor leads into the kernel"})
	}
	return out
}
