package kernel

import "bytes"

// cutAtBoot are texts in the read-only data that the kernel takes apart where
// they are, with strsep, before it protects that data: a NUL takes the place of
// each comma. Here it is what resctrl does not use of Skylake servers up to
// stepping 4 (arch/x86/kernel/cpu/resctrl/core.c, __check_quirks_intel and
// set_rdt_options; seen in 6.1). Only code that is gone after boot reads them.
var cutAtBoot = [...]string{"!cmt,!mbmtotal,!mbmlocal,!l3cat"}

// cuts returns where in the read-only data of a file commas may have become NULs.
func cuts(rodata []byte) []int {
	var at []int
	for _, text := range cutAtBoot {
		whole := []byte("\x00" + text + "\x00")
		for from := 0; ; {
			i := bytes.Index(rodata[from:], whole)
			if i < 0 {
				break
			}
			for k, c := range whole {
				if c == ',' {
					at = append(at, from+i+k)
				}
			}
			from += i + len(whole) - 1 // the NUL behind it may be that before the next
		}
	}
	return at
}
