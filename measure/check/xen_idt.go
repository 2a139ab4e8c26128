package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// xen.idt: every CPU uses an interrupt descriptor table that Xen has for one, and
// every gate of it goes to the handler that the image has for its vector, with the
// privilege and the stack that belong to it.
//
// Proves: that interrupts and exceptions of the CPUs that were read enter Xen
// where they should. Trusts: the IDTR as the VMM shows it, of a CPU that runs a
// hardware-assisted domain that to which the processor goes back; and the image.
// Tables of guests are not looked at: a PV guest has none that the processor sees.
const xenIDTName = "xen.idt"

func xenIDTCheck() check {
	return check{name: xenIDTName, plan: planIDT, collect: collectXenIDT, judge: judgeXenIDT}
}

// xenIDT are the facts of xen.idt.
type xenIDT struct {
	idtData
	Own []address `json:"own"` // where Xen has the tables of its CPUs
}

func collectXenIDT(c *collector) (any, measure.Coverage, error) {
	data := xenIDT{idtData: idtData{Absent: c.absent}}
	own, err := c.xen.InterruptTables()
	if err != nil {
		return nil, measure.Coverage{}, err
	}
	for _, at := range own {
		if at != 0 {
			data.Own = append(data.Own, address(at))
		}
	}
	coverage, err := c.idts(&data.idtData)
	return data, coverage, err
}

func judgeXenIDT(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data xenIDT
	if err := decode(raw, &data); err != nil {
		return err
	}
	img, err := j.xenImage()
	if err != nil {
		return err
	}
	if len(data.CPUs)+len(data.Absent) == 0 {
		return errNotObserved
	}
	for _, cpu := range data.CPUs {
		if at := mem.Virt(cpu.Base); at < xen.Base || at >= xen.DirectMapEnd || at > xen.StubsFirst && at < xen.DirectMap {
			out.Findings = append(out.Findings, measure.Finding{Address: cpu.Base.String(), Symbol: fmt.Sprintf("IDTR of CPU %d", cpu.CPU),
				Explanation: "the CPU's interrupt table lies neither in Xen's image nor in its map of all RAM"})
			continue
		}
		if !slices.Contains(data.Own, cpu.Base) {
			out.Findings = append(out.Findings, measure.Finding{Address: cpu.Base.String(), Symbol: fmt.Sprintf("IDTR of CPU %d", cpu.CPU),
				Explanation: "the CPU's interrupt table is none that Xen has for a CPU"})
		}
		if cpu.Limit != idtSize-1 {
			out.Findings = append(out.Findings, measure.Finding{
				Address: cpu.Base.String(), Symbol: fmt.Sprintf("IDTR of CPU %d", cpu.CPU),
				Observed: fmt.Sprintf("limit %#x", cpu.Limit), Expected: fmt.Sprintf("limit %#x", idtSize-1),
				Explanation: "the CPU's interrupt table is of another size than Xen's",
			})
		} else if !slices.ContainsFunc(data.Tables, func(t idtTable) bool { return t.Base == cpu.Base }) {
			return fmt.Errorf("the table of CPU %d was not read", cpu.CPU)
		}
	}
	for _, table := range data.Tables {
		if len(table.Gates) != gates {
			return fmt.Errorf("observation has %d gates", len(table.Gates))
		}
		for vector, g := range table.Gates {
			out.Findings = append(out.Findings, judgeXenGate(img, vector, g)...)
		}
	}
	return data.Absent.unaccounted()
}

// Gates of Xen (x86_64/traps.c, init_idt_traps; include/asm/processor.h: IST_MCE
// is 1, IST_NMI 2, IST_DB 3, IST_DF 4; include/asm/config.h: __HYPERVISOR_CS).
const (
	xenCS       = 0xe008
	gateKernel  = 0x8e // P, DPL 0, interrupt gate
	gateDPL1    = 0xae
	gateDPL3    = 0xee
	gateTrapBit = 1 // of byte 5: a trap gate leaves interrupts on
	vectorINT80 = 0x80
	vectorINT82 = 0x82 // hypercalls of 32-bit PV guests
)

// xenStacks are the stacks of exceptions that have one of their own. While a CPU
// runs a hardware-assisted guest on AMD they are off (hvm/svm/svm.c).
var xenStacks = map[int]uint8{1: 3, 2: 2, 8: 4, 18: 1}

// xenExceptions are the entry points by vector, of 4.14 and of 4.19 on.
var xenExceptions = map[int][]string{
	0: {"divide_error", "entry_DE"}, 1: {"debug", "entry_DB"}, 2: {"nmi", "entry_NMI"}, 3: {"int3", "entry_BP"},
	4: {"overflow", "entry_OF"}, 5: {"bounds", "entry_BR"}, 6: {"invalid_op", "entry_UD"}, 7: {"device_not_available", "entry_NM"},
	8: {"double_fault", "entry_DF"}, 10: {"invalid_TSS", "entry_TS"}, 11: {"segment_not_present", "entry_NP"},
	12: {"stack_segment", "entry_SS"}, 13: {"general_protection", "entry_GP"}, 14: {"page_fault", "entry_PF"},
	16: {"coprocessor_error", "entry_MF"}, 17: {"alignment_check", "entry_AC"}, 18: {"machine_check", "entry_MC"},
	19: {"simd_coprocessor_error", "entry_XM"}, 21: {"entry_CP"},
	vectorINT80: {"int80_direct_trap", "entry_int80"}, vectorINT82: {"entry_int82"},
}

func judgeXenGate(img *xen.Image, vector int, g gate) []measure.Finding {
	if g.Type&0x80 == 0 {
		return nil // not present: the CPU raises #NP instead
	}
	var out []measure.Finding
	want := uint8(gateKernel)
	switch {
	case vector == 3, vector == 4, vector == vectorINT80:
		want = gateDPL3
	case vector == vectorINT82 && img.Entry(vector) == 0:
		want = gateDPL1
	}
	trap := vector == vectorINT80 || vector == vectorINT82 // a trap gate, in some versions
	stack, own := xenStacks[vector]
	if g.Selector != xenCS || g.Type != want && !(trap && g.Type == want|gateTrapBit) || g.IST != 0 && (!own || g.IST != stack) {
		out = append(out, measure.Finding{
			Address: g.Handler.At.String(), Symbol: g.Handler.Path,
			Observed:    fmt.Sprintf("selector %#x, type %#x, IST %d", g.Selector, g.Type, g.IST),
			Expected:    fmt.Sprintf("selector %#x, type %#x, IST %d", xenCS, want, stack),
			Explanation: "the gate has another privilege, segment or stack than Xen gives this vector",
		})
	}
	at := mem.Virt(g.Handler.Value)
	names := xenExceptions[vector]
	if entry := img.Entry(vector); entry != 0 {
		if at == entry {
			return out
		}
		names = []string{img.Name(entry)}
	} else if slices.ContainsFunc(names, func(name string) bool { v, ok := img.Symbols.Address(name); return ok && mem.Virt(v) == at }) {
		return out
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	return append(out, measure.Finding{
		Address: g.Handler.At.String(), Symbol: g.Handler.Path, Observed: fmt.Sprintf("%v (%s)", at, img.Name(at)),
		Expected: strings.Join(names, " or "), Explanation: "the interrupt gate does not go to Xen's handler for this vector",
	})
}
