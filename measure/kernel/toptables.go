package kernel

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// TopTable is the top page table of a process.
type TopTable struct {
	Task Task     // one that uses it
	MM   mem.Virt // struct mm_struct
	At   mem.Virt // its pgd; 0 if that could not be read
}

// TopTables lists the top page tables of tasks, each once. Tasks without memory of
// their own, those that ended among them, have none.
func (p *Profile) TopTables(tasks []Task) ([]TopTable, error) {
	memory, err1 := p.Types.Offset("task_struct", "mm")
	top, err2 := p.Types.Offset("mm_struct", "pgd")
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("page tables of processes: %w", err)
	}
	var out []TopTable
	seen := make(map[uint64]bool)
	for _, t := range tasks {
		mm, err := p.Space.U64(t.At + mem.Virt(memory))
		if err != nil || mm == 0 || seen[mm] {
			continue
		}
		seen[mm] = true
		at, err := p.Space.U64(mem.Virt(mm + top))
		if err != nil {
			at = 0 // nobody can read it
		}
		out = append(out, TopTable{Task: t, MM: mem.Virt(mm), At: mem.Virt(at)})
	}
	return out, nil
}
