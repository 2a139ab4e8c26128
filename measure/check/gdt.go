package check

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.gdt: every CPU's global descriptor table holds what the kernel puts
// there and no other way into it, such as a call gate, and so do the local ones
// of all processes; each CPU's task state segment lies, with all its stacks, in the CPU's entry area.
//
// Proves: that segments give user mode no more than the kernel means to. Trusts:
// the descriptor registers as the VMM shows them. Interrupt stacks are checked
// for where they are, not for what is on them.
const gdtName = "linux.gdt"

func gdtCheck() check {
	return check{name: gdtName, plan: planGDT, collect: collectGDT, judge: judgeGDT}
}

const (
	gdtEntries = 16
	gdtSize    = gdtEntries * 8
	// taskSelector is that of the task state segment (GDT_ENTRY_TSS,
	// arch/x86/include/asm/segment.h).
	taskSelector = 0x40
	tssSize      = 104 // 64-bit TSS up to the I/O map's offset (Intel SDM vol. 3A, figure 8-11)
)

// gdtData are the facts of linux.gdt.
type gdtData struct {
	CPUs   []gdtFact    `json:"cpus"`
	Absent absentCPUs   `json:"absent,omitempty"`
	Local  []localTable `json:"local,omitempty"`
	// LocalUnread is why local descriptor tables are not known.
	LocalUnread string `json:"local_unread,omitempty"`
}

type gdtFact struct {
	CPU         int                `json:"cpu"`
	Base        address            `json:"base"`
	Limit       uint32             `json:"limit"`
	Descriptors []uint64           `json:"descriptors"`
	TR          uint16             `json:"tr"`
	TSS         address            `json:"tss"`
	Stacks      map[string]address `json:"stacks"` // rsp0 to rsp2 and ist1 to ist7
	// Tops is where the stacks should be by the layout of the entry area; it
	// is missing where the target's types do not tell that.
	Tops map[string]address `json:"tops,omitempty"`
}

func planGDT(c *collector) error {
	if len(c.registers) == 0 {
		return c.noRegisters() // where a CPU's tables are, only they tell
	}
	for _, r := range c.registers {
		if r.InGuest() && r.TR.Selector == 0 { // KVM before 5.12
			return fmt.Errorf("CPU %d ran a guest of the target, and its own task state segment is not where it left the rest", r.CPU)
		}
		if err := c.want(r.GDT.Base, gdtSize); err != nil {
			return err
		}
		if err := c.want(r.TR.Base, tssSize); err != nil {
			return err
		}
	}
	return nil
}

func collectGDT(c *collector) (any, measure.Coverage, error) {
	data := gdtData{Absent: c.absent}
	var coverage measure.Coverage
	for _, r := range c.registers {
		raw, err := c.wanted(r.GDT.Base, gdtSize)
		if err != nil {
			return nil, coverage, fmt.Errorf("CPU %d: descriptors: %w", r.CPU, err)
		}
		f := gdtFact{CPU: r.CPU, Base: address(r.GDT.Base), Limit: r.GDT.Limit, TR: r.TR.Selector, TSS: address(r.TR.Base)}
		for cur := bin.Little(raw); cur.Len() >= 8; {
			f.Descriptors = append(f.Descriptors, cur.U64())
		}
		tss, err := c.wanted(r.TR.Base, tssSize)
		if err != nil {
			return nil, coverage, fmt.Errorf("CPU %d: task state segment: %w", r.CPU, err)
		}
		f.Stacks = stacksOf(tss)
		f.Tops = c.stackTops(r.GDT.Base)
		data.CPUs = append(data.CPUs, f)
		coverage.Objects += int64(len(f.Descriptors))
		coverage.Bytes += gdtSize + tssSize
	}
	var err error
	if data.Local, err = c.localTables(); err != nil {
		data.LocalUnread = err.Error()
	}
	return data, coverage, nil
}

// stacksOf reads the stack pointers of a task state segment.
func stacksOf(tss []byte) map[string]address {
	out := make(map[string]address)
	cur := bin.Little(tss)
	cur.Skip(4) // 0x00 reserved
	for i := range 3 {
		out[fmt.Sprintf("rsp%d", i)] = address(cur.U64()) // 0x04
	}
	cur.Skip(8) // 0x1c reserved
	for i := range 7 {
		out[fmt.Sprintf("ist%d", i+1)] = address(cur.U64()) // 0x24
	}
	return out
}

// istStacks names the stacks in struct cea_exception_stacks by the slot of the
// TSS that points to their tops (IST_INDEX_DF and following,
// arch/x86/include/asm/page_64_types.h).
var istStacks = []string{"DF_stack", "NMI_stack", "DB_stack", "MCE_stack", "VC_stack"}

// stackTops computes where a CPU's stacks end from where its entry area starts,
// which is where its descriptor table is (struct cpu_entry_area,
// arch/x86/include/asm/cpu_entry_area.h).
func (c *collector) stackTops(area mem.Virt) map[string]address {
	types := c.profile.Types
	stacks, err := types.Offset("cpu_entry_area", "estacks")
	if err != nil {
		return nil
	}
	out := make(map[string]address)
	for i, name := range istStacks {
		if m, err := types.Member("cea_exception_stacks", name); err == nil {
			out[fmt.Sprintf("ist%d", i+1)] = address(area + mem.Virt(stacks+m.Offset+m.Size))
		}
	}
	entry, err1 := types.Offset("cpu_entry_area", "entry_stack_page")
	size, err2 := types.Size("entry_stack")
	if err1 == nil && err2 == nil {
		out["rsp0"] = address(area + mem.Virt(entry+size))
	}
	return out
}

// kernelDescriptors are the fixed entries (gdt_page in
// arch/x86/kernel/cpu/common.c), with the accessed bit on.
var kernelDescriptors = map[int]struct {
	name  string
	value uint64
}{
	0: {"null", 0},
	1: {"32-bit kernel code", 0x00cf9b000000ffff},
	2: {"kernel code", 0x00af9b000000ffff},
	3: {"kernel data", 0x00cf93000000ffff},
	4: {"32-bit user code", 0x00cffb000000ffff},
	5: {"user data", 0x00cff3000000ffff},
	6: {"user code", 0x00affb000000ffff},
	7: {"unused", 0},
}

const descriptorAccessed = 1 << 40

// entryArea is where the kernel maps each CPU's entry area: a region of its
// own, in which the CPUs lie at random places since 6.2
// (CPU_ENTRY_AREA_BASE, arch/x86/include/asm/pgtable_areas.h).
const (
	entryAreaFirst address = 0xffff_fe00_0000_0000
	entryAreaLast  address = 0xffff_fe7f_ffff_ffff
)

func judgeGDT(_ *judging, raw json.RawMessage, out *measure.Check) error {
	var data gdtData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if len(data.CPUs) == 0 {
		return errNotObserved
	}
	for _, cpu := range data.CPUs {
		if len(cpu.Descriptors) != gdtEntries {
			return fmt.Errorf("CPU %d: %d descriptors", cpu.CPU, len(cpu.Descriptors))
		}
		out.Findings = append(out.Findings, cpu.judge()...)
	}
	for i := range data.Local {
		out.Findings = append(out.Findings, data.Local[i].judge()...)
	}
	if data.LocalUnread != "" {
		return errors.New("local descriptor tables: " + data.LocalUnread)
	}
	if err := data.Absent.unaccounted(); err != nil {
		return err
	}
	out.Reason = data.Absent.leftOut()
	return nil
}

func (f *gdtFact) judge() []measure.Finding {
	var out []measure.Finding
	found := func(at address, symbol, observed, expected, explanation string) {
		out = append(out, measure.Finding{Address: at.String(), Symbol: fmt.Sprintf("%s of CPU %d", symbol, f.CPU),
			Observed: observed, Expected: expected, Explanation: explanation})
	}
	if f.Limit != gdtSize-1 || !inEntryArea(f.Base) {
		found(f.Base, "GDTR", fmt.Sprintf("base %v, limit %#x", f.Base, f.Limit),
			fmt.Sprintf("in the CPU entry area, limit %#x", gdtSize-1), "the descriptor table is not the kernel's")
	}
	for i, d := range f.Descriptors {
		if expected, ok := f.descriptor(i, d); !ok {
			found(f.Base+address(i*8), fmt.Sprintf("gdt[%d]", i), fmt.Sprintf("%#016x", d), expected,
				"the descriptor is none that the kernel puts there")
		}
	}
	if f.TR != taskSelector || !inEntryArea(f.TSS) {
		found(f.TSS, "TR", fmt.Sprintf("selector %#x, base %v", f.TR, f.TSS), "selector 0x40, in the CPU entry area",
			"the task state segment is not the kernel's")
	}
	for _, name := range []string{"rsp0", "ist1", "ist2", "ist3", "ist4", "ist5", "ist6", "ist7"} {
		at, top := f.Stacks[name], f.Tops[name]
		switch {
		case at == 0 && name != "rsp0" || top != 0 && at == top:
		case top != 0:
			found(f.TSS, "tss."+name, at.String(), top.String(), "a stack of the entry area does not start at its top")
		case !inEntryArea(at):
			found(f.TSS, "tss."+name, at.String(), "in the CPU entry area", "a stack lies outside of the entry area")
		}
	}
	return out
}

func inEntryArea(a address) bool { return a >= entryAreaFirst && a <= entryAreaLast }

// descriptor says what an entry should be and whether it is
// (Intel SDM vol. 3A, 3.4.5 and 8.2.3).
func (f *gdtFact) descriptor(index int, d uint64) (expected string, ok bool) {
	if k, fixed := kernelDescriptors[index]; fixed {
		return fmt.Sprintf("%#016x (%s)", k.value, k.name), d == k.value || d|descriptorAccessed == k.value
	}
	access := uint8(d >> 40)
	switch index {
	case 8: // TSS, low half: present, system, DPL 0, type 9 or 11
		base := d>>16&0xff_ffff | d>>56<<24
		return "the task state segment", access&^2 == 0x89 && uint32(base) == uint32(f.TSS)
	case 9: // TSS, upper half of the base
		return fmt.Sprintf("%#x", uint64(f.TSS)>>32), d == uint64(f.TSS)>>32
	case 10: // LDT of the process that runs: present, system, DPL 0, type 2
		return "no local descriptor table, or one", d == 0 || access == 0x82
	case 11:
		return "upper half of the local descriptor table's base", d>>32 == 0
	case 12, 13, 14: // thread-local storage, set by user mode: DPL 3, not a system segment
		return "nothing, or a user segment", d == 0 || access>>4&1 == 1 && access>>5&3 == 3
	case 15: // CPU and node number for the vDSO: user data
		return "the CPU's number as a user segment", d == 0 || access>>4&1 == 1 && access>>5&3 == 3 && access&8 == 0
	}
	return "", false
}
