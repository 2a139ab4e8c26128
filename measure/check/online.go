package check

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A CPU that is off line was parked with all that the kernel set up in it. One
// that comes on line begins anew (arch/x86/kernel/smpboot.c): INIT clears its
// registers; it goes through the real mode trampoline, the kernel's first steps
// with the descriptor table of the image or of the CPU's own data
// (secondary_startup_64), and cpu_init, which writes the registers of system calls
// and at its end loads the table that is mapped in the CPU's entry area. Only
// then does start_secondary put it into cpu_online_mask. Until the last of these
// steps nothing of the CPU is as a running kernel has it.
//
// The VMM's CPUs are not numbered as the kernel's are. So a CPU that has not come
// so far is known by exclusion: if each CPU that is on line is one of the others,
// which the entry area tells, it is none. A CPU with a table elsewhere that the
// kernel says is on line stays in, and is a finding.

// Bounds of looking again while CPUs come and go.
const (
	onlineAttempts = 8
	onlinePause    = 20 * time.Millisecond
)

// entryAreas is where the kernel maps what each CPU needs to enter it, after the
// interrupt descriptors (CPU_ENTRY_AREA_PER_CPU, arch/x86/include/asm/
// pgtable_areas.h).
const entryAreas = mem.Virt(entryAreaFirst) + mem.PageSize

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
	return out, nil
}

// unstarted returns which of the VMM's CPUs have not started, in order. ok is
// false if one of those that are on line may be among them.
func (o *onlineCPUs) unstarted(registers []mem.Registers) (left []int, ok bool) {
	started := make(map[int]bool)
	for i := range registers {
		r := &registers[i]
		n, own := o.tables[r.GDT.Base]
		if !own || started[n] || r.CR0&mem.CR0PG == 0 || r.TR.Selector != taskSelector {
			left = append(left, r.CPU)
			continue
		}
		started[n] = true
	}
	for n := range o.online {
		if !started[n] {
			return left, false
		}
	}
	return left, true
}

// leaveOut takes CPUs out of the scan that have not started.
func (c *collector) leaveOut() {
	if o, err := c.onlineCPUs(); err != nil {
		return // then all are judged
	} else if left, _ := o.unstarted(c.registers); len(left) > 0 {
		c.lookAtCPUs()
	}
}

// lookAtCPUs reads all CPUs again, between two looks at which are on line, until
// those that have not started are all off line.
func (c *collector) lookAtCPUs() {
	for range onlineAttempts {
		before, err1 := c.onlineCPUs()
		registers, err2 := c.machine.Registers(c.ctx)
		after, err3 := c.onlineCPUs()
		if errors.Join(err1, err2, err3) != nil {
			return
		}
		for n := range before.online {
			after.online[n] = true
		}
		if left, ok := after.unstarted(registers); ok {
			c.left = left
			c.registers = slices.DeleteFunc(registers, func(r mem.Registers) bool { return slices.Contains(left, r.CPU) })
			return
		}
		select {
		case <-c.ctx.Done():
			return
		case <-time.After(onlinePause):
		}
	}
}

// leftOut says which CPUs a check does not judge.
func leftOut(cpus []int) string {
	if len(cpus) == 0 {
		return ""
	}
	numbers := make([]string, len(cpus))
	for i, n := range cpus {
		numbers[i] = strconv.Itoa(n)
	}
	return "left out, as not on line: CPU " + strings.Join(numbers, ", ")
}
