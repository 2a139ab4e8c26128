package kernel

import "strings"

// imageObject finds the patch tables of a kernel: sections where the linker
// script keeps them apart, symbols where it merges them into others
// (arch/x86/kernel/vmlinux.lds.S, include/asm-generic/vmlinux.lds.h).
func imageObject(img *Image, callDepth bool) (object, error) {
	o := object{text: img.text, replacements: img.section(".altinstr_replacement")}
	t := tables{
		alternatives: img.section(".altinstructions"),
		paravirt:     img.section(".parainstructions"),
		retpolines:   img.section(".retpoline_sites"),
		returns:      img.section(".return_sites"),
		seals:        img.section(".ibt_endbr_seal"),
		locks:        img.section(".smp_locks"),
		trace:        img.between("__start_mcount_loc", "__stop_mcount_loc"),
		jumps:        img.between("__start___jump_table", "__stop___jump_table"),
		calls:        img.between("__start_static_call_sites", "__stop_static_call_sites"),
	}
	if callDepth {
		t.called = img.section(".call_sites")
	}
	for s := range img.Symbols.All() {
		if strings.HasPrefix(s.Name, "__SCT__") {
			t.trampolines = append(t.trampolines, s.Addr)
		}
		switch s.Name {
		case "ftrace_call", "ftrace_regs_call", "ftrace_graph_call":
			t.tracers = append(t.tracers, s.Addr)
		}
		if name, ok := strings.CutPrefix(s.Name, "__start_runtime_"); ok {
			c := img.between(s.Name, "__stop_runtime_"+name)
			c.name = "runtime_" + name
			t.constants = append(t.constants, c)
		}
	}
	err := o.build(&t)
	return o, err
}

// section returns a section with contents, empty if there is none.
func (img *Image) section(name string) span {
	for _, s := range img.spans {
		if s.name == name {
			return s
		}
	}
	return span{}
}
