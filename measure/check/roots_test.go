package check

import (
	"encoding/binary"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// tableMemory is 64 KiB of memory in which tests lay out page tables.
type tableMemory [0x10000]byte

func (m *tableMemory) ReadPhys(p []byte, at mem.Phys) error {
	if uint64(at)+uint64(len(p)) > uint64(len(m)) {
		return mem.ErrNotMapped
	}
	copy(p, m[at:])
	return nil
}

func (m *tableMemory) Extents() []mem.Extent { return []mem.Extent{{Size: uint64(len(m))}} }

// maps puts a page into a top table by way of three tables of its own.
func (m *tableMemory) maps(root, tables, page uint64) {
	entry := func(table uint64, index int, to uint64) {
		binary.LittleEndian.PutUint64(m[table+uint64(index)*8:], to|3)
	}
	entry(root, 511, tables)
	entry(tables, 510, tables+0x1000)
	entry(tables+0x1000, 8, tables+0x2000)
	entry(tables+0x2000, 0, page)
}

// TestDetectsForeignTables: an attacker lets a process run on tables in which
// the kernel is another. The CPU is stopped in user mode, where page-table
// isolation would explain other tables.
func TestDetectsForeignTables(t *testing.T) {
	const own, isolated, alone, text, addedPage = 0x2000, 0x3000, 0x4000, 0xe000, 1
	tests := map[string]struct {
		root    uint64 // of the CPU
		page    uint64 // what isolated and alone map in place of text
		cpl     int
		foreign int
	}{
		"the kernel's own tables":              {own, text, 3, 0},
		"isolated tables":                      {isolated, text, 3, 0},
		"isolated tables with other text":      {isolated, 0xf000, 3, 1},
		"tables without isolation":             {alone, 0xf000, 3, 1},
		"tables without isolation, same pages": {alone, text, 3, 1},
		"isolated tables with a page more":     {isolated, addedPage, 3, 1},
		"kernel mode on isolated tables":       {isolated, text, 0, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var m tableMemory
			m.maps(0x1000, 0x5000, text) // init_top_pgt
			copy(m[own:own+4096], m[0x1000:0x2000])
			if tt.page == addedPage { // beside the text, where the kernel has nothing
				m.maps(isolated, 0x8000, text)
				binary.LittleEndian.PutUint64(m[0xa008:], 0xf000|3)
			} else {
				m.maps(isolated, 0x8000, tt.page)
				m.maps(alone, 0xb000, tt.page)
			}
			space := paging.SpaceAt(&m, 0x1000, 4)
			c := &collector{profile: &kernel.Profile{Space: space}, space: space.Cached(), registers: []mem.Registers{
				{CR0: mem.CR0PG, CR3: tt.root, CR4: mem.CR4PAE, EFER: mem.EFERLMA, CPL: tt.cpl}}}
			var data pageTablesData
			if err := c.roots(&data); err != nil || len(data.Foreign) != tt.foreign {
				t.Errorf("%v, %+v", err, data.Foreign)
			}
		})
	}
}

// TestAcceptsEndedProcess: the process that a CPU ran has ended, and its tables are
// other memory by the time they are read. The registers are read again; a CPU that is
// on such tables each time is not measured.
func TestAcceptsEndedProcess(t *testing.T) {
	const top, own, ended, reserved = 0x1000, 0x2000, 0x3000, 1 << 7
	var m tableMemory
	m.maps(top, 0x5000, 0xe000)
	copy(m[own:own+4096], m[top:top+4096])
	binary.LittleEndian.PutUint64(m[ended+256*8:], 0xdead_beef_0000|reserved|3)
	on := func(root uint64) []mem.Registers {
		return []mem.Registers{{CR0: mem.CR0PG, CR3: root, CR4: mem.CR4PAE, EFER: mem.EFERLMA, CPL: 3}}
	}
	reads := func(root uint64) func(*cpuMachine) []mem.Registers {
		return func(*cpuMachine) []mem.Registers { return on(root) }
	}
	for name, tt := range map[string]struct {
		later    []func(*cpuMachine) []mem.Registers
		measured bool
	}{
		"another process runs":       {[]func(*cpuMachine) []mem.Registers{reads(own)}, true},
		"another, the third time":    {[]func(*cpuMachine) []mem.Registers{reads(ended), reads(own)}, true},
		"it is on such tables still": {[]func(*cpuMachine) []mem.Registers{reads(ended)}, false},
	} {
		space := paging.SpaceAt(&m, top, 4)
		c := &collector{ctx: t.Context(), profile: &kernel.Profile{Space: space}, space: space.Cached(),
			machine: &cpuMachine{memory: &m, readings: tt.later}, registers: on(ended)}
		var data pageTablesData
		if err := c.roots(&data); (err == nil) != tt.measured || len(data.Foreign) > 0 && tt.measured {
			t.Errorf("%s: %v, %+v", name, err, data.Foreign)
		}
	}
}
