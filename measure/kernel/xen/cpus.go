package xen

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// CPU is what Xen has in memory for one of the machine's CPUs, to run
// hardware-assisted domains on it (arch/x86/hvm/svm/svm.c). It is found by its
// interrupt table: numbers of the VMM's need not be Xen's.
type CPU struct {
	Interrupts mem.Virt // idt_tables
	// HostState is where VMRUN saves Xen's state and #VMEXIT loads it from (per-CPU
	// hsa), zero without SVM.
	HostState mem.Phys
	// Kept are the registers of system calls that VMLOAD gives back before the CPU
	// runs anything but a hardware-assisted domain (per-CPU host_vmcb;
	// svm_ctxt_switch_from), zero without SVM.
	Kept mem.SystemCalls
	// Loaded is the domain whose state is in the CPU (per-CPU curr_vcpu), and
	// Assisted that it is a hardware-assisted one: its own registers of system calls
	// are then there, also while Xen runs. It stays when the CPU idles.
	Loaded   uint16
	Assisted bool
}

// perCPU is where the members of [CPU] lie of the first CPU.
type perCPU struct{ hostState, kept, loaded mem.Virt }

// InterruptTables lists where Xen has them, by its numbers of CPUs; zero where there
// is none.
func (p *Profile) InterruptTables() ([]mem.Virt, error) { return p.perNumber("idt_tables") }

// perNumber reads an array of addresses that has one for each CPU.
func (p *Profile) perNumber(name string) ([]mem.Virt, error) {
	at, ok := p.Symbol(name)
	if !ok {
		return nil, fmt.Errorf("%w: no %s", ErrLayout, name)
	}
	raw := make([]byte, 8*min((p.Symbols.Next(uint64(at))-uint64(at))/8, maxCPUs))
	if err := p.Space.Read(raw, at); err != nil {
		return nil, err
	}
	out := make([]mem.Virt, len(raw)/8)
	for i := range out {
		out[i] = mem.Virt(le64(raw[8*i:]))
	}
	return out, nil
}

// CPUs reads those that have an interrupt table.
func (p *Profile) CPUs() ([]CPU, error) {
	places, ok := p.perCPU()
	if !ok {
		return nil, fmt.Errorf("%w: no data of each CPU", ErrLayout)
	}
	tables, err := p.InterruptTables()
	if err != nil {
		return nil, err
	}
	offsets, err := p.perNumber("__per_cpu_offset")
	if err != nil {
		return nil, err
	}
	var out []CPU
	for i, table := range tables {
		if table == 0 || i >= len(offsets) {
			continue
		}
		cpu, err := p.cpu(places, offsets[i])
		if err != nil {
			return nil, fmt.Errorf("CPU %d by Xen's number: %w", i, err)
		}
		cpu.Interrupts = table
		out = append(out, cpu)
	}
	return out, nil
}

// perCPU finds symbols, two of which are local to a file.
func (p *Profile) perCPU() (at perCPU, ok bool) {
	at.loaded, ok = p.Symbol("per_cpu__curr_vcpu")
	for s := range p.Symbols.All() {
		switch {
		case strings.HasSuffix(s.Name, "svm.c#per_cpu__hsa"):
			at.hostState = mem.Virt(s.Addr)
		case strings.HasSuffix(s.Name, "svm.c#per_cpu__host_vmcb"):
			at.kept = mem.Virt(s.Addr)
		}
	}
	return at, ok && at.hostState != 0 && at.kept != 0
}

func (p *Profile) cpu(at perCPU, offset mem.Virt) (cpu CPU, err error) {
	var words [3]uint64
	for i, place := range []mem.Virt{at.hostState, at.kept, at.loaded} {
		if words[i], err = p.Space.U64(place + offset); err != nil {
			return cpu, err
		}
	}
	cpu.HostState = mem.Phys(words[0])
	if words[1] != 0 {
		var page [mem.PageSize]byte
		if err := p.Space.Memory().ReadPhys(page[:], mem.Phys(words[1])); err != nil {
			return cpu, fmt.Errorf("its own VMCB: %w", err)
		}
		cpu.Kept = mem.ParseSaveArea(page[:]).SystemCalls
	}
	if words[2] != 0 {
		cpu.Loaded, cpu.Assisted, err = p.domainOf(mem.Virt(words[2]))
	}
	return cpu, err
}

// domainOf reads which domain a virtual CPU is of.
func (p *Profile) domainOf(vcpu mem.Virt) (id uint16, assisted bool, err error) {
	l, err := p.assistedLayout()
	if err != nil {
		return 0, false, err
	}
	d, err := p.domainLayout()
	if err != nil {
		return 0, false, err
	}
	at, err := p.pointer(vcpu + l.next - 8)
	if err != nil {
		return 0, false, err
	}
	number, err1 := p.Space.U32(at)
	options, err2 := p.Space.U32(at + d.options)
	if err1 != nil {
		err2 = err1
	}
	return uint16(number), options&1 != 0, err2
}

// BehindVMRUN is where Xen goes on when a domain's CPU leaves it, by the image.
func (img *Image) BehindVMRUN() (mem.Virt, error) {
	at, ok := img.Symbols.Address("svm_asm_do_resume")
	if !ok {
		return 0, fmt.Errorf("%w: no svm_asm_do_resume", ErrLayout)
	}
	code := img.At(mem.Virt(at), int(min(img.Symbols.Next(at)-at, mem.PageSize)))
	i := bytes.Index(code, vmrun)
	if i < 0 {
		return 0, fmt.Errorf("%w: svm_asm_do_resume is other code", ErrLayout)
	}
	return mem.Virt(at) + mem.Virt(i+len(vmrun)), nil
}

// vmrun is the instruction (AMD64 APM vol. 3).
var vmrun = []byte{0x0f, 0x01, 0xd8}
