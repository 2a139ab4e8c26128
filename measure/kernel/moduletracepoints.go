package kernel

import "github.com/plumbline-sec/plumbline/measure/mem"

// tracepointSection is a module's table of tracepoints: for each the 32-bit
// distance to it (include/linux/tracepoint.h, __TRACEPOINT_ENTRY, with
// CONFIG_HAVE_ARCH_PREL32_RELOCATIONS, which x86-64 has since 4.19).
const (
	tracepointSection = "__tracepoints_ptrs"
	tracepointEntry   = 4 // bytes
)

// TracepointTable is what a struct module should have of its tracepoints by its
// file (find_module_sections, kernel/module/main.c).
type TracepointTable struct {
	Count uint64
	At    mem.Virt // where the target says that it put the section; 0 if there is none
	// Compared: it lies in the module's read-only data, which [Text.Rodata]
	// compares with the file.
	Compared bool
}

// Tracepoints returns the table of a module.
func (t *Text) Tracepoints() TracepointTable {
	if t.linker == nil {
		return TracepointTable{}
	}
	for i, s := range t.linker.file.elf.sections {
		if s.name != tracepointSection || s.flags&shfAlloc == 0 || s.size < tracepointEntry {
			continue
		}
		at := mem.Virt(t.linker.addr[i])
		return TracepointTable{Count: s.size / tracepointEntry, At: at,
			Compared: t.rodata.Contains(at) && t.rodata.Contains(at+mem.Virt(s.size-1))}
	}
	return TracepointTable{}
}
