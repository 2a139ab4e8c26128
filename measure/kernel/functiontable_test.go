package kernel

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A pointer to a table may lead to constant data, or to a place where a file has a
// pointer to a function: nowhere else in what can be written.
func TestTable(t *testing.T) {
	const data, fn1, ownText = 3, 1, 6 // a section; symbols
	e, text := withTestModule(t)
	at := func() map[string]bool {
		return map[string]bool{
			"constant data": e.Table(testModuleRodata + 16), "behind constant data": e.Table(testModuleRodata + 24),
			"data": e.Table(testModuleData), "the end of data": e.Table(testModuleData + 8), "behind data": e.Table(testModuleData + 16),
			"text": e.Table(testModuleText), "elsewhere": e.Table(0xffff888000001000), "the kernel's": e.Table(uint64(e.Rodata().Start) + 8),
		}
	}
	want := func(tables ...string) {
		t.Helper()
		for name, got := range at() {
			expected := false
			for _, one := range tables {
				expected = expected || one == name
			}
			if got != expected {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
	text.linker.relocations[data] = relocation(8, ownText, 0)
	want("constant data", "the kernel's", "data", "the end of data")
	for _, slot := range text.slots {
		if slot.At != mem.Virt(testModuleData+8) {
			t.Errorf("slots %+v", text.slots)
		}
	}
}
