package check

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// A page that the target names as kexec's accounts for itself and for nothing behind
// it: a run of pages that begins with a copy of its code is judged page by page.
func TestKexecPageAccountsForItself(t *testing.T) {
	const at = 0xff11000001000000
	d := &dynamicJudge{data: &dynamicData{Kexec: []kexecFact{{At: at}}}}
	for name, c := range map[string]dynamicCode{
		"more pages": {region: region{Start: at, Digests: make([]byte, 2*len(Digest{}))}},
		"a pack":     {region: region{Start: at, Digests: make([]byte, len(Digest{}))}, Pack: true},
		"elsewhere":  {region: region{Start: at + 0x1000, Digests: make([]byte, len(Digest{}))}},
	} {
		if d.kexec(&c) || d.kexecs != 0 {
			t.Errorf("%s: taken for the page of kexec", name)
		}
	}
}

// The kernel of these tests maps its first GiB of memory as that lies.
const (
	kexecBase     = 0xffff_ffff_8000_0000
	kexecVmemmap  = 0xffff_ea00_0000_0000
	kexecVariable = 0x1000 // physical, as what follows
	kexecBases    = 0x2000 // of descriptors and of the direct map
	kexecA        = 0x3000 // struct kimage
	kexecB        = 0x4000

	kexecPageA   = kexecVmemmap + 0x123*64 // descriptors
	kexecPageB   = kexecVmemmap + 0x456*64
	kexecNowhere = kexecVmemmap + 1<<30*64
)

// kexecMemory is memory in which something happens each time after the kernel that is
// loaded was looked up.
type kexecMemory struct {
	memtest.Pages
	looks int
	then  func(m *kexecMemory)
}

func (m *kexecMemory) ReadPhys(b []byte, at mem.Phys) error {
	err := m.Pages.ReadPhys(b, at)
	if at == kexecVariable {
		m.looks++
		m.then(m)
	}
	return err
}

// load has a kernel be loaded, or none.
func (m *kexecMemory) load(image mem.Phys) {
	if image == 0 {
		m.WriteU64(kexecVariable, 0)
		return
	}
	m.WriteU64(kexecVariable, kexecBase+uint64(image))
}

// page has a kernel's account name a page.
func (m *kexecMemory) page(image mem.Phys, descriptor uint64) { m.WriteU64(image+8, descriptor) }

// TestKexecUnloadedMeanwhile: an account that is freed while it is read is read once
// more, and what leads nowhere for good is not measured.
func TestKexecUnloadedMeanwhile(t *testing.T) {
	once := func(then func(*kexecMemory)) func(*kexecMemory) {
		return func(m *kexecMemory) {
			if m.looks == 1 {
				then(m)
			}
		}
	}
	for name, tt := range map[string]struct {
		then func(*kexecMemory)
		page mem.Phys // zero for none
		err  error
	}{
		"it stays":             {func(*kexecMemory) {}, 0x123000, nil},
		"unloaded":             {once(func(m *kexecMemory) { m.load(0); m.page(kexecA, 0) }), 0, nil},
		"unloaded, not reused": {once(func(m *kexecMemory) { m.load(0) }), 0, nil},
		"another is loaded":    {once(func(m *kexecMemory) { m.load(kexecB); m.page(kexecA, kexecNowhere) }), 0x456000, nil},
		"another, not reused":  {once(func(m *kexecMemory) { m.load(kexecB) }), 0x456000, nil},
		"always another": {func(m *kexecMemory) { m.load([2]mem.Phys{kexecA, kexecB}[m.looks%2]) },
			0, errKexecMoved},
		"it leads nowhere": {once(func(m *kexecMemory) { m.page(kexecA, kexecNowhere) }), 0, errNoPage},
	} {
		t.Run(name, func(t *testing.T) {
			m := &kexecMemory{Pages: make(memtest.Pages), then: tt.then}
			m.WriteU64(0x30000+511*8, 0x31000|3)
			m.WriteU64(0x31000+510*8, 0x83)
			m.WriteU64(kexecBases, kexecVmemmap)
			m.WriteU64(kexecBases+8, kexecBase)
			m.page(kexecA, kexecPageA)
			m.page(kexecB, kexecPageB)
			m.load(kexecA)
			number := &btf.Int{Name: "number", Size: 8}
			space := paging.SpaceAt(m, 0x30000, 4)
			symbol := func(at uint64, name string) kernel.Symbol {
				return kernel.Symbol{Addr: kexecBase + at, Kind: 'D', Name: name}
			}
			c := &collector{ctx: t.Context(), space: space, profile: &kernel.Profile{
				Base: kexecBase, End: kexecBase + 0x10000, Space: space,
				Types: typesOf(t, &btf.Struct{Name: "page", Size: 64, Members: []btf.Member{{Name: "flags", Type: number}}},
					&btf.Struct{Name: "kimage", Size: 16, Members: []btf.Member{{Name: "head", Type: number}, {Name: "control_code_page", Type: number, Offset: 64}}}),
				Symbols: kernel.NewSymbols([]kernel.Symbol{symbol(0, "__relocate_kernel_start"), symbol(kexecVariable, "kexec_image"),
					symbol(kexecBases, "vmemmap_base"), symbol(kexecBases+8, "page_offset_base"), symbol(0xf000, "_end")}),
			}}
			var d dynamicData
			err := c.kexecPages(&d)
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			switch {
			case tt.page == 0 && len(d.Kexec) > 0:
				t.Errorf("%+v, and no kernel is loaded", d.Kexec)
			case tt.page != 0 && (len(d.Kexec) != 1 || d.Kexec[0].Phys != tt.page || d.Kexec[0].At != address(kexecBase+uint64(tt.page))):
				t.Errorf("%+v, want the page at %v", d.Kexec, tt.page)
			}
			if m.looks > 2*kexecAttempts {
				t.Errorf("looked %d times", m.looks)
			}
		})
	}
}
