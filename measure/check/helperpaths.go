package check

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// helperPaths are the variables with the programs that the kernel runs as root by
// itself: where a process dumps core (fs/coredump.c, a pattern, or a program after
// a bar), a module is asked for (kernel/kmod.c, kernel/module/kmod.c), the machine
// is to be powered off (kernel/reboot.c), a device comes or goes
// (lib/kobject_uevent.c; Debian's kernels have none). An administrator may set each,
// and attackers do to have a program of theirs run: another than the file's is no
// finding, but worth telling.
var helperPaths = []string{"core_pattern", "modprobe_path", "poweroff_cmd", "uevent_helper"}

// maxHelperPath is the size of the largest of them, in bytes (KMOD_PATH_LEN, 256).
const maxHelperPath = 256

// helpers notes the programs that were set since the kernel was built. Regions are
// those of the kernel's data.
func (s *slotJudge) helpers(regions ...*region) {
	for _, name := range helperPaths {
		at, ok := s.code.symbols.Address(name)
		if !ok {
			continue
		}
		size := int(min(s.code.symbols.Next(at)-at, maxHelperPath))
		i := slices.IndexFunc(regions, func(r *region) bool {
			return mem.Virt(at) >= r.page(0) && mem.Virt(at)+mem.Virt(size) <= r.page(r.pages())
		})
		want := s.image.At(at-s.code.slide, size)
		if i < 0 || len(want) < size {
			continue
		}
		seen, ok := s.read(regions[i], mem.Virt(at), size)
		if !ok || seen == nil || bytes.Equal(cString(seen), cString(want)) {
			continue
		}
		observed, expected := strconv.QuoteToASCII(string(cString(seen))), strconv.QuoteToASCII(string(cString(want)))
		s.out.Notes = append(s.out.Notes, measure.Finding{Address: address(at).String(), Symbol: name, Observed: observed, Expected: expected,
			Explanation: fmt.Sprintf("is %s, the file has %s: what the kernel runs by itself was set", observed, expected)})
	}
}

// cString is what of a string in C is before its end.
func cString(b []byte) []byte {
	before, _, _ := bytes.Cut(b, []byte{0})
	return before
}
