package xen

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Assisted is how a hardware-assisted domain is given memory on AMD processors:
// through nested page tables, of which Xen keeps one set for the domain, and of
// which each CPU of the domain is told the top by its VMCB.
type Assisted struct {
	Root mem.Phys `json:"root"` // of the domain's tables
	CPUs []VCPU   `json:"cpus"`
}

// VCPU is a CPU of a hardware-assisted domain.
type VCPU struct {
	ID     int      `json:"id"`
	VMCB   mem.Phys `json:"vmcb"`   // that VMRUN is given
	Heap   bool     `json:"heap"`   // the VMCB lies in Xen's heap
	Nested bool     `json:"nested"` // nested paging is on
	Root   mem.Phys `json:"root"`   // the nested tables it runs on
}

// ErrVCPUs means that the CPUs of a domain do not hold together, or changed while
// they were read.
var ErrVCPUs = errors.New("CPUs of a domain that do not hold together")

// maxVCPUs bounds a list: a hardware-assisted domain has 128 at most
// (HVM_MAX_VCPUS).
const maxVCPUs = 1024

// Fields of a VMCB (AMD64 APM vol. 2, appendix B, table B-1).
const (
	vmcbNested = 0x90 // bit 0: NP_ENABLE
	vmcbRoot   = 0xb0 // N_CR3
	vmcbEnd    = 0x400
)

// assistedLayout is where members lie, from the code of functions that use them.
type assistedLayout struct {
	p2m    mem.Virt // struct domain: arch.p2m
	back   mem.Virt // struct p2m_domain: domain
	root   mem.Virt // struct p2m_domain: phys_table
	vcpus  mem.Virt // struct domain: vcpu
	next   mem.Virt // struct vcpu: next_in_list; its domain is right before it (include/xen/sched.h)
	vmcbAt mem.Virt // struct vcpu: arch.hvm.svm.vmcb_pa
}

// Assisted reads a domain's nested page tables' places.
func (p *Profile) Assisted(d Domain, frames *Frames) (*Assisted, error) {
	l, err := p.assistedLayout()
	if err != nil {
		return nil, err
	}
	p2m, err := p.pointer(d.At + l.p2m)
	if err != nil {
		return nil, err
	}
	var out Assisted
	if back, err := p.Space.U64(p2m + l.back); err != nil || mem.Virt(back) != d.At {
		return nil, fmt.Errorf("%w: tables at %v are of the domain at %#x and not of %v (%v)", ErrLayout, p2m, back, d.At, err)
	}
	root, err := p.Space.U64(p2m + l.root)
	if err != nil {
		return nil, err
	}
	if root == 0 || root >= 1<<40 { // a frame number, 52 bits of address
		return nil, fmt.Errorf("%w: tables at frame %#x", ErrLayout, root)
	}
	out.Root = mem.Phys(root) * mem.PageSize
	out.CPUs, err = p.vcpus(d, l, frames)
	return &out, err
}

// pointer reads a pointer into the map of all RAM.
func (p *Profile) pointer(at mem.Virt) (mem.Virt, error) {
	v, err := p.Space.U64(at)
	if err == nil && (mem.Virt(v) < DirectMap || mem.Virt(v) >= DirectMapEnd || v%8 != 0) {
		err = fmt.Errorf("%w: a pointer to %#x at %v", ErrLayout, v, at)
	}
	return mem.Virt(v), err
}

func (p *Profile) vcpus(d Domain, l assistedLayout, frames *Frames) ([]VCPU, error) {
	array, err := p.Space.U64(d.At + l.vcpus)
	if err != nil || array == 0 {
		return nil, err
	}
	at, err := p.Space.U64(mem.Virt(array))
	var out []VCPU
	for err == nil && at != 0 {
		v := mem.Virt(at)
		if v < DirectMap || v >= DirectMapEnd || v%mem.PageSize != 0 || len(out) == maxVCPUs {
			return nil, fmt.Errorf("%w: one at %v after %d", ErrVCPUs, v, len(out))
		}
		if of, err := p.Space.U64(v + l.next - 8); err != nil || mem.Virt(of) != d.At {
			return nil, fmt.Errorf("%w: one at %v is of the domain at %#x (%v)", ErrVCPUs, v, of, err)
		}
		cpu, err := p.vcpu(v, l, frames)
		if err != nil {
			return nil, err
		}
		out = append(out, cpu)
		if at, err = p.Space.U64(v + l.next); err != nil {
			return nil, err
		}
	}
	return out, err
}

func (p *Profile) vcpu(at mem.Virt, l assistedLayout, frames *Frames) (VCPU, error) {
	id, err := p.Space.U32(at)
	if err != nil {
		return VCPU{}, err
	}
	pa, err := p.Space.U64(at + l.vmcbAt)
	if err != nil {
		return VCPU{}, err
	}
	cpu := VCPU{ID: int(id), VMCB: mem.Phys(pa)}
	if pa == 0 || pa%mem.PageSize != 0 {
		return cpu, fmt.Errorf("%w: CPU %d has a VMCB at %#x", ErrVCPUs, id, pa)
	}
	var vmcb [vmcbEnd]byte
	if err := p.Space.Memory().ReadPhys(vmcb[:], cpu.VMCB); err != nil {
		return cpu, fmt.Errorf("VMCB of CPU %d: %w", id, err)
	}
	var info [1]FrameInfo
	if err := frames.Of(info[:], cpu.VMCB); err != nil {
		return cpu, err
	}
	cpu.Heap = frames.XenHeap(info[0])
	cpu.Nested = vmcb[vmcbNested]&1 != 0
	cpu.Root = mem.Phys(le64(vmcb[vmcbRoot:]) & (1<<52 - 1) &^ (mem.PageSize - 1))
	return cpu, nil
}

// assistedLayout decodes five functions.
func (p *Profile) assistedLayout() (assistedLayout, error) {
	var l assistedLayout
	var ok [4]bool
	l.p2m, ok[0] = clearedPointer(p.code("p2m_final_teardown", 256))
	l.back, l.root, ok[1] = tableMembers(p.code("p2m_alloc_table", 256))
	l.vcpus, l.next, ok[2] = vcpuMembers(p.code("domain_unpause", 96))
	l.vmcbAt, ok[3] = vmrunOperand(p.code("svm_asm_do_resume", 256))
	for i, name := range []string{"p2m_final_teardown", "p2m_alloc_table", "domain_unpause", "svm_asm_do_resume"} {
		if !ok[i] {
			return l, fmt.Errorf("%w: %s is other code", ErrLayout, name)
		}
	}
	return l, nil
}

// code returns up to n bytes of a function.
func (p *Profile) code(name string, n int) []byte {
	at, ok := p.Symbol(name)
	if !ok {
		return nil
	}
	if size := p.Symbols.Next(uint64(at)) - uint64(at); size < uint64(n) {
		n = int(size)
	}
	return bytes.TrimPrefix(p.at(at, n), endbr64)
}

// clearedPointer finds the last pointer that a function frees and clears: "MOV
// disp32(%R), %RDI; TEST %RDI, %RDI; JE; CALL; MOVQ $0, disp32(%R)", R being RBX
// or R12.
func clearedPointer(code []byte) (at mem.Virt, ok bool) {
	for i := 0; i+7 <= len(code); i++ {
		load, base := code[i:], 3
		switch {
		case bytes.HasPrefix(load, []byte{0x48, 0x8b, 0xbb}):
		case bytes.HasPrefix(load, []byte{0x49, 0x8b, 0xbc, 0x24}):
			base = 4
		default:
			continue
		}
		n := base + 4
		if len(load) < n+10+base+8 || !bytes.Equal(load[n:n+4], []byte{0x48, 0x85, 0xff, 0x74}) || load[n+5] != 0xe8 {
			continue
		}
		store := append(map[int][]byte{3: {0x48, 0xc7, 0x83}, 4: {0x49, 0xc7, 0x84, 0x24}}[base], load[base:n]...)
		if bytes.HasPrefix(load[n+10:], append(store, 0, 0, 0, 0)) {
			at, ok = mem.Virt(le32(load[base:])), true
		}
	}
	return at, ok && at%8 == 0 && at < mem.PageSize
}

// tableMembers decodes p2m_alloc_table, which loads p2m->domain ("MOV
// disp8(%RDI), %R64"), refuses if p2m->phys_table is set ("CMPQ $0, disp8(%R)")
// and later stores there what p2m_alloc_ptp gave ("CMP $-1, %RAX", ..., "MOV %RAX,
// disp8(%R)"), R being RBX or RBP.
func tableMembers(code []byte) (back, root mem.Virt, ok bool) {
	var checked, stored, tested bool
	for i := 0; i+5 <= len(code); i++ {
		c := code[i:]
		switch {
		case back == 0 && c[0]&0xfb == 0x48 && c[1] == 0x8b && c[2]&0xc7 == 0x47:
			back = mem.Virt(c[3])
		case !checked && c[0] == 0x48 && c[1] == 0x83 && (c[2] == 0x7b || c[2] == 0x7d) && c[4] == 0:
			checked, root = true, mem.Virt(c[3])
		case c[0] == 0x48 && c[1] == 0x83 && c[2] == 0xf8 && c[3] == 0xff:
			tested = true
		case tested && !stored && c[0] == 0x48 && c[1] == 0x89 && (c[2] == 0x43 || c[2] == 0x45):
			stored = mem.Virt(c[3]) == root
		}
	}
	return back, root, back != 0 && back%8 == 0 && root != 0 && root%8 == 0 && checked && stored
}

// vcpuMembers decodes for_each_vcpu of domain_unpause: "MOV vcpu(%RBX), %RAX; TEST
// %RAX, %RAX; JE; MOV (%RAX), %RBX; TEST %RBX, %RBX; JE" and "MOV next(%RBX),
// %RBX; TEST %RBX, %RBX; JNE".
func vcpuMembers(code []byte) (vcpus, next mem.Virt, ok bool) {
	for i := 0; i+8 <= len(code); i++ {
		c := code[i:]
		switch {
		case vcpus == 0 && len(c) >= 16 && bytes.HasPrefix(c, []byte{0x48, 0x8b, 0x43}) && bytes.Equal(c[4:8], []byte{0x48, 0x85, 0xc0, 0x74}) &&
			bytes.Equal(c[9:16], []byte{0x48, 0x8b, 0x18, 0x48, 0x85, 0xdb, 0x74}):
			vcpus = mem.Virt(c[3])
		case vcpus != 0 && next == 0 && bytes.HasPrefix(c, []byte{0x48, 0x8b, 0x5b}) && bytes.Equal(c[4:8], []byte{0x48, 0x85, 0xdb, 0x75}):
			next = mem.Virt(c[3])
		}
	}
	return vcpus, next, vcpus != 0 && vcpus%8 == 0 && next >= 16 && next%8 == 0
}

// vmrunOperand finds what RAX holds at VMRUN: the last "MOV disp32(%RBX), %RAX"
// before it, RBX being the struct vcpu.
func vmrunOperand(code []byte) (mem.Virt, bool) {
	end := bytes.Index(code, vmrun)
	if end < 0 {
		return 0, false
	}
	i := bytes.LastIndex(code[:end], []byte{0x48, 0x8b, 0x83})
	if i < 0 || i+7 > end {
		return 0, false
	}
	at := mem.Virt(le32(code[i+3:]))
	return at, at%8 == 0 && at < mem.PageSize
}
