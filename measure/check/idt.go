package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.idt: every gate of every CPU's interrupt descriptor table goes to the
// handler the kernel has for its vector, with the privilege and stack that
// belong to it.
//
// Proves: that interrupts and exceptions of the CPUs that were read enter the
// kernel where they should. Trusts: the IDTR as the VMM shows it; the handlers'
// names come from the expected image or, without one, from the target itself.
// An attacker can still change what the handlers do (linux.text) or the data
// they read. Nested hypervisors may use tables of their own for their guests.
//
// Where the source has no registers the table is the kernel's own (idt_table).
// That is less: which table the CPUs use is not known then, and the report says so.
const idtName = "linux.idt"

func idtCheck() check {
	return check{name: idtName, plan: planIDT, collect: collectIDT, judge: judgeIDT, memo: true}
}

// gateSize and idtSize are of long mode (Intel SDM vol. 3A, 6.14.1).
const (
	gateSize = 16
	gates    = 256
	idtSize  = gates * gateSize
)

// idtData are the facts of linux.idt.
type idtData struct {
	CPUs   []idtrFact `json:"cpus"`
	Absent absentCPUs `json:"absent,omitempty"`
	Tables []idtTable `json:"tables"` // one for each base that a CPU uses
	// IRQEntries and SpuriousEntries are where the stubs of device and spurious
	// interrupts start, as the target says; zero if it has none.
	IRQEntries      address `json:"irq_entries"`
	SpuriousEntries address `json:"spurious_entries"`
	EarlyHandlers   address `json:"early_handlers"`
	// Unused says that the table is the one that a symbol names: no registers
	// show what CPUs use.
	Unused bool `json:"unused,omitempty"`
}

type idtrFact struct {
	CPU   int     `json:"cpu"`
	Base  address `json:"base"`
	Limit uint32  `json:"limit"`
}

type idtTable struct {
	Base  address `json:"base"`
	Gates []gate  `json:"gates"`
}

// gate is one interrupt or trap gate.
type gate struct {
	Handler  pointer `json:"handler"`
	Selector uint16  `json:"selector"`
	IST      uint8   `json:"ist"`
	Type     uint8   `json:"type"` // P, DPL and type as in byte 5 of the gate
}

func planIDT(c *collector) error {
	if len(c.registers) == 0 {
		at, ok := c.profile.Symbol("idt_table")
		if !ok {
			return kernel.ErrNoRegisters
		}
		return c.want(at, idtSize)
	}
	seen := make(map[mem.Virt]bool)
	for _, r := range c.registers {
		if !seen[r.IDT.Base] && r.IDT.Limit == idtSize-1 {
			seen[r.IDT.Base] = true
			if err := c.want(r.IDT.Base, idtSize); err != nil {
				return err
			}
		}
	}
	return nil
}

func collectIDT(c *collector) (any, measure.Coverage, error) {
	data := idtData{Absent: c.absent}
	for name, into := range map[string]*address{
		"irq_entries_start":       &data.IRQEntries,
		"spurious_entries_start":  &data.SpuriousEntries,
		"early_idt_handler_array": &data.EarlyHandlers,
	} {
		at, _ := c.profile.Symbol(name)
		*into = address(at)
	}
	if at, ok := c.profile.Symbol("idt_table"); ok && len(c.registers) == 0 {
		raw, err := c.wanted(at, idtSize)
		if err != nil {
			return nil, measure.Coverage{}, err
		}
		data.Unused = true
		data.Tables = []idtTable{{address(at), c.gates(at, raw)}}
		return data, measure.Coverage{Bytes: idtSize, Objects: gates}, nil
	}
	coverage, err := c.idts(&data)
	return data, coverage, err
}

// idts takes the tables of all CPUs. One that cannot be read beside others that can
// is a finding by its address alone.
func (c *collector) idts(data *idtData) (measure.Coverage, error) {
	var coverage measure.Coverage
	var unread error
	seen := make(map[mem.Virt]bool)
	for _, r := range c.registers {
		data.CPUs = append(data.CPUs, idtrFact{r.CPU, address(r.IDT.Base), r.IDT.Limit})
		if seen[r.IDT.Base] || r.IDT.Limit != idtSize-1 {
			continue
		}
		seen[r.IDT.Base] = true
		raw, err := c.wanted(r.IDT.Base, idtSize)
		if err != nil {
			unread = errors.Join(unread, fmt.Errorf("CPU %d: %w", r.CPU, err))
			continue
		}
		data.Tables = append(data.Tables, idtTable{address(r.IDT.Base), c.gates(r.IDT.Base, raw)})
		coverage.Bytes += idtSize
		coverage.Objects += gates
	}
	if len(data.Tables) == 0 {
		return coverage, unread
	}
	return coverage, nil
}

// gates decodes a table (Intel SDM vol. 3A, figure 6-8).
func (c *collector) gates(base mem.Virt, raw []byte) []gate {
	out := make([]gate, 0, gates)
	for vector := range gates {
		g := bin.Little(raw[vector*gateSize:][:gateSize])
		low, selector, ist, kind, middle, high := g.U16(), g.U16(), g.U8(), g.U8(), g.U16(), g.U32()
		handler := mem.Virt(low) | mem.Virt(middle)<<16 | mem.Virt(high)<<32
		at := base + mem.Virt(vector*gateSize)
		out = append(out, gate{
			Handler:  c.pointer(fmt.Sprintf("idt[%#02x]", vector), at, handler),
			Selector: selector, IST: ist, Type: kind,
		})
	}
	return out
}

func judgeIDT(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data idtData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if len(data.CPUs) == 0 && !data.Unused || len(data.Tables) == 0 {
		return errNotObserved
	}
	if j.code.err != nil {
		return j.code.err
	}
	for _, cpu := range data.CPUs {
		if cpu.Base != data.CPUs[0].Base || cpu.Limit != idtSize-1 {
			out.Findings = append(out.Findings, measure.Finding{
				Address: cpu.Base.String(), Symbol: fmt.Sprintf("IDTR of CPU %d", cpu.CPU),
				Observed:    fmt.Sprintf("base %v, limit %#x", cpu.Base, cpu.Limit),
				Expected:    fmt.Sprintf("base %v, limit %#x", data.CPUs[0].Base, idtSize-1),
				Explanation: "the CPU uses another interrupt table than the first CPU, or one of another size",
			})
		}
	}
	judge := gateJudge{judging: j, data: &data}
	for _, table := range data.Tables {
		if len(table.Gates) != gates {
			return fmt.Errorf("observation has %d gates", len(table.Gates))
		}
		for vector, g := range table.Gates {
			out.Findings = append(out.Findings, judge.gate(vector, g)...)
		}
	}
	if err := data.Absent.unaccounted(); err != nil {
		return err
	}
	out.Reason = remarks(data.Absent.leftOut(), j.trusts())
	if data.Unused {
		out.Reason = remarks(out.Reason, "the source has no registers: this is the table that the kernel's symbol names, not one that CPUs were seen to use")
	}
	return nil
}

// gateJudge judges gates of a table.
type gateJudge struct {
	*judging
	data *idtData
}

const (
	gatePresentInterrupt = 0x8e // P, DPL 0, 64-bit interrupt gate
	gateUser             = 0xee // the same with DPL 3
	kernelCS             = 0x10 // __KERNEL_CS, arch/x86/include/asm/segment.h
)

func (j *gateJudge) gate(vector int, g gate) []measure.Finding {
	if g.Type&0x80 == 0 {
		return nil // not present: the CPU raises #NP instead
	}
	var out []measure.Finding
	wantType := uint8(gatePresentInterrupt)
	if userVectors[vector] && !j.unused(vector, g.Handler) {
		wantType = gateUser
	}
	if g.Selector != kernelCS || g.Type != wantType || g.IST != 0 && !istVectors[vector] || g.IST > 7 {
		out = append(out, measure.Finding{
			Address: g.Handler.At.String(), Symbol: g.Handler.Path,
			Observed:    fmt.Sprintf("selector %#x, type %#x, IST %d", g.Selector, g.Type, g.IST),
			Expected:    fmt.Sprintf("selector %#x, type %#x", kernelCS, wantType),
			Explanation: "the gate has another privilege, segment or stack than the kernel gives this vector",
		})
	}
	if expected, ok := j.handler(vector, g.Handler); !ok {
		out = append(out, j.finding(g.Handler, expected, "the interrupt gate does not go to the kernel's handler for this vector"))
	}
	return out
}

// userVectors may be raised by user mode with INT n (arch/x86/kernel/idt.c,
// SYSG); istVectors run on a stack of their own (ISTG).
var (
	userVectors = map[int]bool{3: true, 4: true, 0x80: true}
	istVectors  = map[int]bool{1: true, 2: true, 8: true, 18: true, 29: true}
)

// unused reports whether a vector that user mode may raise is a device's instead:
// without 32-bit system calls (ia32_emulation=off, from 6.7 on) 0x80 is one like
// any other (idt_setup_traps, idt_setup_apic_and_irq_gates).
func (j *gateJudge) unused(vector int, h pointer) bool {
	return vector >= 32 && j.isIRQ(vector, h)
}

func (j *gateJudge) isIRQ(vector int, h pointer) bool {
	return j.isStub(h, j.array("irq_entries_start", j.data.IRQEntries), vector-32, 8, 16)
}

// handler says what handler a vector should have and whether it has it.
func (j *gateJudge) handler(vector int, h pointer) (expected string, ok bool) {
	name := j.name(h)
	names := vectorHandlers(vector)
	for _, want := range names {
		if name == want {
			return want, j.lands(h) == ""
		}
	}
	if vector < 32 && j.isStub(h, j.early(), vector, 9, 13) {
		return "", true
	}
	if vector >= 32 && (j.isIRQ(vector, h) || j.isSpurious(h, vector)) {
		return "", true
	}
	switch {
	case len(names) > 0:
		return strings.Join(names, " or "), false
	case vector < 32:
		return "none", false
	}
	return fmt.Sprintf("entry %d of irq_entries_start", vector-32), false
}

// isStub reports whether a handler is the stub with an index, in an array with
// stubs of one of the sizes: they depend on the kernel's configuration (IBT).
func (j *gateJudge) isStub(h pointer, start address, index int, sizes ...int) bool {
	for _, size := range sizes {
		if start != 0 && h.Value == start+address(index*size) {
			return true
		}
	}
	return false
}

// isSpurious accepts the stubs of system vectors that nothing uses: they start
// at FIRST_SYSTEM_VECTOR, which differs between kernels, but not their order.
func (j *gateJudge) isSpurious(h pointer, vector int) bool {
	start := j.array("spurious_entries_start", j.data.SpuriousEntries)
	for first := 0xe0; first <= vector; first++ {
		if j.isStub(h, start, vector-first, 8, 16) {
			return true
		}
	}
	return false
}

// early is where the handlers of early boot start. Vectors that no exception
// has keep them, although their memory was freed with the init sections.
func (j *gateJudge) early() address { return j.array("early_idt_handler_array", j.data.EarlyHandlers) }

// array is where a symbol is, zero if there is none.
func (j *gateJudge) array(symbol string, claim address) address {
	at, _ := j.at(symbol, claim)
	return at
}
