package check

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// entryAreas is where the kernel maps what each CPU needs to enter it, after the
// interrupt descriptors (CPU_ENTRY_AREA_PER_CPU, arch/x86/include/asm/
// pgtable_areas.h).
const entryAreas = mem.Virt(entryAreaFirst) + mem.PageSize

// errNoneOnline: some CPU runs the kernel, whatever its mask says.
var errNoneOnline = errors.New("the kernel says that no CPU is on line")

// onlineCPUs is what the kernel says of its CPUs.
type onlineCPUs struct {
	online map[int]bool
	tables map[mem.Virt]int // by where its descriptor table is once it has started
}

// onlineCPUs reads which CPUs are on line (__cpu_online_mask, kernel/cpu.c), and
// where their entry areas are: one after the other, since 6.2 at random places
// (per-CPU _cea_offset, arch/x86/mm/cpu_entry_area.c).
func (c *collector) onlineCPUs() (*onlineCPUs, error) {
	bases, err := c.profile.PerCPU()
	if err != nil {
		return nil, err
	}
	mask, ok := c.profile.Symbol("__cpu_online_mask")
	if !ok {
		return nil, fmt.Errorf("%w: no __cpu_online_mask", kernel.ErrNoSymbols)
	}
	bits := make([]byte, (len(bases)+7)/8)
	size, err1 := c.profile.Types.Size("cpu_entry_area")
	table, err2 := c.profile.Types.Offset("cpu_entry_area", "gdt")
	if err := errors.Join(err1, err2, c.space.Read(bits, mask)); err != nil {
		return nil, err
	}
	out := &onlineCPUs{online: make(map[int]bool), tables: make(map[mem.Virt]int)}
	random, isRandom := c.profile.Symbol("_cea_offset")
	for n, base := range bases {
		place := uint64(n)
		if isRandom {
			if place, err = c.space.U64(base + random); err != nil {
				return nil, err
			}
		}
		out.tables[entryAreas+mem.Virt(place*size+table)] = n
		if bits[n/8]>>(n%8)&1 != 0 {
			out.online[n] = true
		}
	}
	if len(out.online) == 0 {
		return nil, errNoneOnline
	}
	return out, nil
}

// unstarted returns which of the VMM's CPUs have not started, in order. ok is
// false if one of those that are on line may be among them. Besides these CPUs there
// are some whose registers are not known, which run guests: they are on line.
func (o *onlineCPUs) unstarted(registers []mem.Registers, unread int) (rest []mem.Registers, ok bool) {
	started := make(map[int]bool)
	for _, r := range registers {
		n, own := o.tables[r.GDT.Base]
		if !own || started[n] || r.CR0&mem.CR0PG == 0 || !r.InGuest() && r.TR.Selector != taskSelector {
			rest = append(rest, r)
			continue
		}
		started[n] = true
	}
	for n := range o.online {
		if !started[n] {
			unread--
		}
	}
	return rest, unread >= 0
}
