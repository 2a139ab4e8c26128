package kernel

import "github.com/plumbline-sec/plumbline/internal/bin"

// exportsOf reads struct kernel_symbol, a triple of 32-bit distances to the
// symbol, its name and its namespace (include/linux/export-internal.h,
// CONFIG_HAVE_ARCH_PREL32_RELOCATIONS). Names of static symbols repeat in
// kallsyms; these are the ones modules are linked with.
func exportsOf(img *Image) map[string]uint64 {
	exports := make(map[string]uint64)
	for _, section := range []string{"__ksymtab", "__ksymtab_gpl"} {
		t := img.section(section)
		for c := bin.Little(t.data); c.Len() >= 12; {
			entry := t.addr + uint64(c.Offset())
			value := entry + uint64(int64(int32(c.U32())))
			name := entry + 4 + uint64(int64(int32(c.U32())))
			c.Skip(4)
			if s := cString(img.At(name, 512), 0); s != "" {
				exports[s] = value
			}
		}
	}
	return exports
}
