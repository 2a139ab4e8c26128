package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Every process has the kernel's half in its own top page table, copied when it is made
// (pgd_ctor, and clone_pgd_range for the second table of page-table isolation;
// arch/x86/mm/pgtable.c). A process that sleeps is on no CPU, so its tables are looked
// at by the list of processes: an attacker can keep a view of all memory in one that
// wakes when he likes.

// processRoot is an entry of a process's top table that differs from the kernel's.
type processRoot struct {
	Process  int32   `json:"process"`
	At       address `json:"at"` // of the table
	Index    int     `json:"index"`
	Have     uint64  `json:"have"`
	Want     uint64  `json:"want"`
	Isolated bool    `json:"isolated,omitempty"` // it is the table for user mode, with page-table isolation
	Unread   string  `json:"unread,omitempty"`   // why it could not be read; Index and entries are zero then
	Comm     string  `json:"comm"`
}

func (r processRoot) compare(o processRoot) int {
	return cmp.Or(cmp.Compare(r.Process, o.Process), cmp.Compare(r.At, o.At), cmp.Compare(r.Index, o.Index), cmp.Compare(r.Unread, o.Unread))
}

// maxForeignTables bounds what is kept of processes' tables: a target can claim some
// millions of processes. What is over it is a difference by itself, so that those that
// pass cannot push out one that stays.
const maxForeignTables = 1000

// others stands for the processes that were over the bound.
const others int32 = -1

// isolation is X86_FEATURE_PTI (arch/x86/include/asm/cpufeatures.h, 5.10 to 7.2).
const isolation = 7*32 + 11

// processRoots compares the kernel's half of the top table of each process with the
// kernel's own, and says how many were compared. Processes end while they are read,
// and their tables become other memory: what differs counts if it lasts.
func (c *collector) processRoots() (foreign []processRoot, compared int, err error) {
	words, err := c.capability()
	if err != nil {
		return nil, 0, err
	}
	isolated := isolation/32 < len(words) && words[isolation/32]>>(isolation%32)&1 != 0
	names := make(map[int32]string)
	left, err := lasting(c.ctx, func() (map[processRoot]bool, error) {
		tasks, err := c.profile.Tasks()
		if err != nil {
			return nil, err
		}
		tables, err := c.profile.TopTables(tasks)
		if err != nil {
			return nil, err
		}
		compared = len(tables)
		return c.foreignTables(tables, isolated, names)
	})
	foreign = slices.SortedFunc(maps.Keys(left), processRoot.compare)
	for i := range foreign {
		foreign[i].Comm = names[foreign[i].Process]
	}
	return foreign, compared, err
}

func (c *collector) foreignTables(tables []kernel.TopTable, isolated bool, names map[int32]string) (map[processRoot]bool, error) {
	space := c.profile.Space
	half := func(root mem.Phys) ([]byte, error) {
		b := make([]byte, mem.PageSize)
		return b, space.Memory().ReadPhys(b[mem.PageSize/2:], root+mem.PageSize/2)
	}
	want, err := half(space.Root())
	if err != nil {
		return nil, err
	}
	var wantUser []byte
	if isolated {
		if wantUser, err = half(space.Root() | isolatedRoot); err != nil {
			return nil, err
		}
	}
	out := make(map[processRoot]bool)
	for _, t := range tables {
		if len(out) >= maxForeignTables {
			names[others] = "others"
			out[processRoot{Process: others, Unread: fmt.Sprintf("not looked at behind %d differences", maxForeignTables)}] = true
			break
		}
		fact := processRoot{Process: t.Task.TGID, At: address(t.At)}
		add := func(want []byte, root mem.Phys, isolated bool) error {
			have, err := half(root)
			if err != nil {
				return err
			}
			for _, d := range topDifferences(mem.Registers{}, space.Levels(), want, have) {
				names[t.Task.TGID] = t.Task.Comm
				f := fact
				f.Index, f.Have, f.Want, f.Isolated = d.Index, d.Have&^volatileBits, d.Want, isolated
				out[f] = true
			}
			return nil
		}
		root, err := c.space.Phys(t.At)
		if err == nil {
			err = add(want, root, false)
		}
		if err == nil && isolated {
			err = add(wantUser, root|isolatedRoot, true)
		}
		if err != nil {
			names[t.Task.TGID] = t.Task.Comm
			fact.Unread = err.Error()
			out[fact] = true
		}
	}
	return out, nil
}
