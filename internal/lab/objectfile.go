package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// objectFile puts together an ELF relocatable file for x86-64 (System V ABI,
// "Object Files"). Local symbols come first; indices start at 1.
type objectFile struct {
	sections []objectSection
	symbols  []elf.Sym64
	locals   int
	strings  []byte
}

type objectSection struct {
	name        string
	kind        elf.SectionType
	flags       elf.SectionFlag
	data        []byte
	relocations []elf.Rela64
	info, link  uint32 // of relocations made here
}

func (o *objectFile) section(name string, flags elf.SectionFlag, data []byte) int {
	kind := elf.SHT_PROGBITS
	if bytes.HasPrefix([]byte(name), []byte(".note")) {
		kind = elf.SHT_NOTE
	}
	o.sections = append(o.sections, objectSection{name: name, kind: kind, flags: flags, data: data})
	return len(o.sections)
}

func (o *objectFile) symbol(name string, bind elf.SymBind, kind elf.SymType, section int, value uint64) int {
	if len(o.strings) == 0 {
		o.strings = []byte{0}
	}
	o.symbols = append(o.symbols, elf.Sym64{Name: uint32(len(o.strings)), Info: elf.ST_INFO(bind, kind), Shndx: uint16(section), Value: value})
	o.strings = append(append(o.strings, name...), 0)
	if bind == elf.STB_LOCAL {
		o.locals = len(o.symbols)
	}
	return len(o.symbols)
}

func (o *objectFile) relocate(section int, at uint64, kind elf.R_X86_64, symbol int, addend int64) {
	s := &o.sections[section-1]
	s.relocations = append(s.relocations, elf.Rela64{Off: at, Info: elf.R_INFO(uint32(symbol), uint32(kind)), Addend: addend})
}

// livepatchRelocation makes a section of one relocation that the kernel keeps
// and applies itself: SHF_RELA_LIVEPATCH (include/uapi/linux/elf.h).
func (o *objectFile) livepatchRelocation(name string, section int, at uint64, kind elf.R_X86_64, symbol int, addend int64) {
	var data bytes.Buffer
	_ = binary.Write(&data, binary.LittleEndian, elf.Rela64{Off: at, Info: elf.R_INFO(uint32(symbol), uint32(kind)), Addend: addend}) // a buffer takes all
	o.sections = append(o.sections, objectSection{name: name, kind: elf.SHT_RELA, flags: elf.SHF_ALLOC | 0x0010_0000, data: data.Bytes(), info: uint32(section)})
}

// bytes lays the file out: header, contents, section headers.
func (o *objectFile) bytes() []byte {
	all := append([]objectSection{{}}, o.sections...)
	for i, s := range o.sections {
		if len(s.relocations) == 0 {
			continue
		}
		var data bytes.Buffer
		_ = binary.Write(&data, binary.LittleEndian, s.relocations) // a buffer takes all
		all = append(all, objectSection{name: ".rela" + s.name, kind: elf.SHT_RELA, flags: elf.SHF_INFO_LINK, data: data.Bytes(), info: uint32(i + 1)})
	}
	var table bytes.Buffer
	_ = binary.Write(&table, binary.LittleEndian, append([]elf.Sym64{{}}, o.symbols...))
	symbols := uint32(len(all))
	all = append(all, objectSection{name: ".symtab", kind: elf.SHT_SYMTAB, data: table.Bytes(), info: uint32(o.locals + 1), link: symbols + 1},
		objectSection{name: ".strtab", kind: elf.SHT_STRTAB, data: o.strings}, objectSection{name: ".shstrtab", kind: elf.SHT_STRTAB})
	names := []byte{0}
	headers := make([]elf.Section64, len(all))
	for i, s := range all[1:] {
		h := &headers[i+1]
		h.Name, h.Type, h.Flags, h.Info, h.Link, h.Addralign = uint32(len(names)), uint32(s.kind), uint64(s.flags), s.info, s.link, 16
		switch {
		case s.kind == elf.SHT_RELA:
			h.Link, h.Entsize = symbols, 24
		case s.kind == elf.SHT_SYMTAB:
			h.Entsize = 24
		case s.name == ".gnu.linkonce.this_module":
			h.Addralign = 64
		}
		names = append(append(names, s.name...), 0)
	}
	all[len(all)-1].data = names
	const header = 64
	body := make([]byte, header)
	for i := 1; i < len(all); i++ {
		body = append(body, make([]byte, -len(body)&63)...)
		headers[i].Off, headers[i].Size = uint64(len(body)), uint64(len(all[i].data))
		body = append(body, all[i].data...)
	}
	body = append(body, make([]byte, -len(body)&63)...)
	var out bytes.Buffer
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	_ = binary.Write(&out, binary.LittleEndian, elf.Header64{Ident: ident, Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64),
		Version: 1, Shoff: uint64(len(body)), Ehsize: header, Shentsize: 64, Shnum: uint16(len(all)), Shstrndx: uint16(len(all) - 1)})
	copy(body, out.Bytes())
	out.Reset()
	_ = binary.Write(&out, binary.LittleEndian, headers)
	return append(body, out.Bytes()...)
}
