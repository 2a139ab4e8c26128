package check

import (
	"encoding/binary"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// TestDetectsIsolatedRights: an attacker leaves the kernel's tables as they are and
// opens a page of it in the tables that user mode runs on.
func TestDetectsIsolatedRights(t *testing.T) {
	const (
		top, own, isolated, text          = 0x1000, 0x2000, 0x3000, 0xe000
		read, write, user, global, noExec = 1, 3, 4, 1 << 8, 1 << 63
	)
	tests := map[string]struct {
		kernels, theirs uint64 // bits of the entry of the page
		foreign         int
	}{
		"the same":                         {read, read, 0},
		"writable in both":                 {write | noExec, write | noExec, 0},
		"global in one":                    {read, read | global, 0},
		"fewer rights":                     {write, read | noExec, 0},
		"marked for user mode, alone":      {read, read | user, 0}, // the levels above do not allow it
		"writable":                         {read, write, 1},
		"executable":                       {write | noExec, write, 1},
		"writable, and no more executable": {read, write | noExec, 1},
	}
	for name, tt := range tests {
		for _, levels := range []uint64{0, user} { // rights of the levels above
			var m tableMemory
			m.maps(top, 0x5000, text)
			binary.LittleEndian.PutUint64(m[0x7000:], text|tt.kernels)
			copy(m[own:own+4096], m[top:top+4096])
			m.maps(isolated, 0x8000, text)
			binary.LittleEndian.PutUint64(m[0xa000:], text|tt.theirs)
			for _, at := range []int{isolated + 511*8, 0x8000 + 510*8, 0x9000 + 8*8} {
				binary.LittleEndian.PutUint64(m[at:], binary.LittleEndian.Uint64(m[at:])|levels)
			}
			want := tt.foreign
			if levels != 0 && tt.theirs&user != 0 {
				want = 1
			}
			space := paging.SpaceAt(&m, top, 4)
			c := &collector{profile: &kernel.Profile{Space: space}, space: space.Cached(), registers: []mem.Registers{
				{CR0: mem.CR0PG, CR3: isolated, CR4: mem.CR4PAE, EFER: mem.EFERLMA, CPL: 3}}}
			var data pageTablesData
			if err := c.roots(&data); err != nil || len(data.Foreign) != want {
				t.Errorf("%s, above %#x: %v, %+v, want %d", name, levels, err, data.Foreign, want)
			}
		}
	}
}
