package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// nestedTampers change the nested page tables of the hardware-assisted domain that
// [Machine.MakeHVM] makes.
var nestedTampers = []Tamper{
	{
		Name: "xen-nested-text", Check: "xen.domains",
		Doc:   "map a page of Xen's code into the hardware-assisted domain",
		apply: mapNested(xenPage("_stext"), false),
	},
	{
		Name: "xen-nested-data", Check: "xen.domains",
		Doc:   "map the 2 MiB around Xen's list of domains into the hardware-assisted domain",
		apply: mapNested(xenPage("domain_list"), true),
	},
	{
		Name: "xen-nested-foreign", Check: "xen.domains",
		Doc:   "map a page of the first domain's memory into the hardware-assisted domain",
		apply: mapNested(firstDomainsPage, false),
	},
	{
		Name: "xen-nested-table", Check: "xen.domains",
		Doc:   "map a nested page table of the hardware-assisted domain into that domain",
		apply: mapNested(func(_ context.Context, _ *change, n nested) (uint64, error) { return n.l1, nil }, false),
	},
	{
		Name: "xen-nested-off", Check: "xen.domains",
		Doc:   "take nested paging from the CPU of the hardware-assisted domain",
		apply: nestedOff,
	},
}

// nested is where the nested page tables of the domain lie, and the VMCB of a CPU of
// its that has never run: without nested paging one that runs would end the domain.
type nested struct{ l1, l2, vmcb uint64 }

// nestedOff clears NP_ENABLE of the VMCB (AMD64 APM vol. 2, table B-1: offset 90h).
func nestedOff(ctx context.Context, c *change) error {
	n, err := c.findNested(ctx)
	if err != nil {
		return err
	}
	return c.writePhys(ctx, n.vmcb+vmcbNested, 0)
}

// Offsets into a VMCB (AMD64 APM vol. 2, table B-1).
const (
	vmcbExit   = 0x70 // EXITCODE
	vmcbNested = 0x90
	vmcbRoot   = 0xb0 // N_CR3
)

// mapNested makes an entry for ordinary memory (AMD64 APM vol. 2, 15.25.5; Xen's
// type of such is 0), of 4 KiB or 2 MiB, where the domain has nothing.
func mapNested(frame func(context.Context, *change, nested) (uint64, error), large bool) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		n, err := c.findNested(ctx)
		if err != nil {
			return err
		}
		phys, err := frame(ctx, c, n)
		if err != nil {
			return err
		}
		const memory = entryPresent | entryWritable | entryUser
		if large {
			return c.writePhys(ctx, n.l2+8*8, phys&^(2<<20-1)|memory|entryLarge)
		}
		return c.writePhys(ctx, n.l1+8*0x180, phys|memory)
	}
}

// findNested looks for the tables by what they hold (hvmdomain: 64 pages from 1
// MiB on and two of 2 MiB from 4 MiB on, and nothing else), and so by nothing that
// the product goes by.
func (c *change) findNested(ctx context.Context) (nested, error) {
	mem, err := c.memory(ctx)
	if err != nil {
		return nested{}, err
	}
	first := make(map[uint64]uint64) // first entries of pages that may be tables
	small := make(map[uint64]bool)
	var tables []uint64
	err = mem.eachPage(func(phys uint64, page []byte) {
		switch presence(page) {
		case "256+64":
			small[phys] = true
		case "0+1", "0+1 2+2":
			first[phys] = binary.LittleEndian.Uint64(page) & entryAddress
			tables = append(tables, phys)
		}
	})
	if err != nil {
		return nested{}, err
	}
	for _, l4 := range tables {
		l3 := first[l4]
		l2 := first[l3]
		if l1 := first[l2]; small[l1] {
			n := nested{l1: l1, l2: l2}
			err := mem.eachPage(func(phys uint64, page []byte) {
				if wordOf(page[vmcbRoot:]) == l4 && wordOf(page[vmcbNested:]) == 1 && wordOf(page[vmcbExit:]) == 0 {
					n.vmcb = phys
				}
			})
			if err == nil && n.vmcb == 0 {
				err = errors.New("no VMCB of a CPU that has never run for the nested page tables")
			}
			return n, err
		}
	}
	return nested{}, fmt.Errorf("no hardware-assisted domain: %w", ErrNoSubject)
}

// presence says which entries of a table are present, such as "0+1 2+2" for the
// first one and two from the third on; empty if entries that are not present hold
// something.
func presence(page []byte) string {
	var out []byte
	run := 0
	for i := 0; i <= 512; i++ {
		var entry uint64
		if i < 512 {
			entry = binary.LittleEndian.Uint64(page[8*i:])
		}
		switch {
		case entry&entryPresent != 0:
			run++
		case entry != 0 || len(out) > 16:
			return ""
		case run > 0:
			out = fmt.Appendf(out, " %d+%d", i-run, run)
			run = 0
		}
	}
	return string(bytes.TrimPrefix(out, []byte(" ")))
}

// eachPage reads all of memory.
func (g *guestMemory) eachPage(do func(phys uint64, page []byte)) error {
	buf := make([]byte, 1<<20)
	for phys := uint64(0); phys < uint64(g.size); phys += uint64(len(buf)) {
		if err := g.readPhys(phys, buf); err != nil {
			return err
		}
		for off := uint64(0); off < uint64(len(buf)); off += 4096 {
			do(phys+off, buf[off:off+4096])
		}
	}
	return nil
}

// xenPage is the frame that holds a symbol of Xen.
func xenPage(symbol string) func(context.Context, *change, nested) (uint64, error) {
	return func(_ context.Context, c *change, _ nested) (uint64, error) {
		at, err := c.xenSymbols(symbol)
		if err != nil {
			return 0, err
		}
		phys, err := c.mem.translate(at[0])
		return phys &^ 4095, err
	}
}

// firstDomainsPage has the first domain make a file in memory, and looks for it.
func firstDomainsPage(ctx context.Context, c *change, _ nested) (uint64, error) {
	const mark = "the first domain's\n"
	if err := c.shell(ctx, `yes "`+mark[:len(mark)-1]+`" | head -c 4096 > /run/lab-frame`, "rm -f /run/lab-frame"); err != nil {
		return 0, err
	}
	want := bytes.Repeat([]byte(mark), 4096/len(mark)+1)[:4096]
	var found uint64
	err := c.mem.eachPage(func(phys uint64, page []byte) {
		if bytes.Equal(page, want) {
			found = phys
		}
	})
	if err == nil && found == 0 {
		err = errors.New("the first domain's file is not in memory")
	}
	return found, err
}
