package kernel

import (
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Stores returns where the module's own code stores to an object of its data, as
// offsets from the object's start: 64-bit MOVs of a register or of an immediate
// to a place relative to RIP, which is how a compiler assigns to a member of a
// static structure.
func (m *ModuleFile) Stores(symbol string) map[uint64]bool {
	out := make(map[uint64]bool)
	for _, s := range m.symbols {
		if s.name != symbol || s.section == shnUndef || int(s.section) >= len(m.elf.sections) {
			continue
		}
		for _, rela := range m.elf.sections {
			if rela.kind != shtRela || int(rela.info) >= len(m.elf.sections) {
				continue
			}
			if code := &m.elf.sections[rela.info]; code.flags&shfExec != 0 {
				m.storesIn(code.data, rela.data, s, out)
			}
		}
	}
	return out
}

func (m *ModuleFile) storesIn(code, relocations []byte, object elfSymbol, out map[uint64]bool) {
	for c := bin.Little(relocations); c.Len() >= 24; {
		at, info, addend := c.U64(), c.U64(), c.U64()
		index := info >> 32
		if uint32(info) != relocPC32 || index >= uint64(len(m.symbols)) || m.symbols[index].section != object.section {
			continue
		}
		behind, ok := storeTo(code, at)
		if off := m.symbols[index].value + addend + behind - object.value; ok && off < object.size {
			out[off] = true
		}
	}
}

// storeTo returns how far behind a relative operand in code the instruction ends
// if it is such a store: REX.W 89 /r, or REX.W C7 /0 with a 32-bit immediate
// (Intel SDM, volume 2B, MOV), the operand's ModRM byte being RIP-relative.
func storeTo(code []byte, operand uint64) (behind uint64, ok bool) {
	if operand < 3 || operand > uint64(len(code)) {
		return 0, false
	}
	rex, opcode, modrm := code[operand-3], code[operand-2], code[operand-1]
	switch {
	case rex&0xf8 != 0x48 || modrm&0xc7 != 0x05:
		return 0, false
	case opcode == 0x89:
		return 4, true
	case opcode == 0xc7 && modrm == 0x05:
		return 8, true
	}
	return 0, false
}
