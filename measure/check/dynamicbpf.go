package check

import (
	"encoding/binary"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// packChunk is what memory that BPF programs share is given out in, in bytes
// (kernel/bpf/core.c, BPF_PROG_CHUNK_SIZE).
const packChunk = 64

// pack judges memory that BPF programs share, from an address to the end: what
// is not a program, trampoline or dispatcher is INT3.
func (d *dynamicJudge) pack(c *dynamicCode, at, end address) {
	code, ok := d.bytes(c, at, int(end-at))
	if !ok {
		return
	}
	plain := make(map[address]imageFact)
	for _, i := range d.data.Images {
		if i.Trampoline {
			plain[i.Start] = i
		}
	}
	for off := uint64(0); off+packChunk <= uint64(len(code)); {
		here := at + address(off)
		if i, ok := plain[here]; ok {
			size := uint64(i.End - i.Start)
			if size > uint64(len(code))-off {
				d.odd(here, code[off:], "BPF's "+i.Name+" does not fit into its memory")
				return
			}
			d.trampoline(i.Name, here, code[off:off+size], true)
			off += (size + packChunk - 1) &^ (packChunk - 1)
			continue
		}
		if traps(code[off : off+packChunk]) {
			off += packChunk
			continue
		}
		size := uint64(binary.LittleEndian.Uint32(code[off:])) * d.data.HeaderUnit
		if size < packChunk || size%packChunk != 0 || size > uint64(len(code))-off {
			d.odd(here, code[off:], "memory of BPF programs holds what is neither a program nor a trampoline on the kernel's list")
			return
		}
		d.program(here, code[off:off+size])
		off += size
	}
}

// unnamed judges executable memory that no account has: that of one program.
func (d *dynamicJudge) unnamed(c *dynamicCode, at, end address) {
	code, ok := d.bytes(c, at, int(end-at))
	if !ok || traps(code) {
		return
	}
	size := uint64(binary.LittleEndian.Uint32(code)) * d.data.HeaderUnit
	if d.data.Header == 0 || size < mem.PageSize || size > uint64(len(code)) || !traps(code[size:]) {
		d.odd(at, code, "executable memory that no probe, tracer or BPF program has")
		return
	}
	d.program(at, code[:size])
}

// program judges the memory of a BPF program: a header, filling, its code,
// perhaps a table of exceptions, filling.
func (d *dynamicJudge) program(at address, code []byte) {
	header := d.data.Header
	if header < 4 || header > uint64(len(code)) || !traps(code[4:header]) && !zeros(code[4:header]) {
		d.odd(at, code, "the header of a BPF program is not the kernel's")
		return
	}
	name := "a program without a name"
	start := at + address(header)
	for _, i := range d.data.Images {
		if i.Start >= start && i.Start < at+address(len(code)) {
			name, start = i.Name, i.Start
			break
		}
	}
	if !traps(code[header:uint64(start-at)]) {
		d.odd(at, code, "what is before BPF's "+name+" is not filling")
		return
	}
	d.images = append(d.images, &kernel.JIT{Name: name, Start: mem.Virt(start), Code: code[uint64(start-at):]})
}

// image judges trampolines that have a page of their own.
func (d *dynamicJudge) image(c *dynamicCode, name string, at, end address) {
	if code, ok := d.bytes(c, at, int(end-at)); ok {
		d.trampoline(name, at, code, false)
	}
}

// trampoline judges a trampoline or dispatcher, or those of a table of operations:
// one for each of its functions. Packed: in memory that programs share.
func (d *dynamicJudge) trampoline(name string, at address, code []byte, packed bool) {
	image := &kernel.JIT{Name: name, Start: mem.Virt(at), Code: code, Trampoline: true, Packed: packed, Uncleared: d.data.Uncleared}
	d.images = append(d.images, image)
	if name != structOpsName {
		return
	}
	listed := false
	functions := d.data.functionsIn(at, at+address(len(code)))
	for _, f := range functions {
		image.Functions = append(image.Functions, mem.Virt(f.At))
		listed = listed || f.Listed
	}
	for _, f := range functions {
		if listed && !f.Listed {
			d.odd(f.At, code[f.At-at:], "a table of operations calls code that is no function on the kernel's list (bpf_kallsyms)")
		}
	}
}

// branches judges all of BPF's code: it branches into itself. Memory that holds
// INT3 holds nothing.
func (d *dynamicJudge) branches() {
	found, notes := d.env.ExplainJIT(d.images, func(at mem.Virt) bool {
		for i := range d.data.Code {
			c := &d.data.Code[i]
			if at >= mem.Virt(c.Start) && at < c.page(c.pages()) {
				b, ok := d.read(&c.region, at, 1)
				return !ok || len(b) == 0 || b[0] != 0xcc
			}
		}
		return false
	})
	d.find(found)
	d.out.Notes = append(d.out.Notes, d.outside(notes)...)
}

func (d *dynamicJudge) odd(at address, code []byte, explanation string) {
	d.out.Findings = append(d.out.Findings, measure.Finding{
		Address: at.String(), Observed: fmt.Sprintf("%x", code[:min(len(code), 32)]), Explanation: explanation,
	})
}

// traps reports whether code is nothing but INT3.
func traps(code []byte) bool { return allBytes(code, 0xcc) }

func zeros(code []byte) bool { return allBytes(code, 0) }

func allBytes(code []byte, want byte) bool {
	for _, b := range code {
		if b != want {
			return false
		}
	}
	return true
}
