package check

import (
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen/xentest"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

const (
	nestedMemory = xentest.Present | xentest.Writable | xentest.User
	nestedLarge  = nestedMemory | 1<<7
	nestedHole   = xentest.NestedL1 + 8*0x180 // maps nothing
)

func TestAcceptsHVM(t *testing.T) {
	r := scanXen(t, xentest.BootHVM())
	c := xenDomainsOf(t, r)
	if r.Outcome != measure.Pass || !strings.Contains(c.Reason, "domain 1 has 1 CPUs, 4 nested page tables, 17 entries that map 528 frames") {
		t.Errorf("%s: %+v", r.Outcome, r.Checks)
	}
}

func xenDomainsOf(t *testing.T, r *measure.Report) measure.Check {
	t.Helper()
	return xenCheckOf(t, r, xenDomainsName)
}

// Each attack on the nested tables of a domain is found, by what it is.
func TestDetectsOnHVM(t *testing.T) {
	type machine = xentest.Machine
	tests := map[string]struct {
		says   string
		change func(*machine)
	}{
		"a page of Xen's text": {"Xen's image", func(m *machine) { m.Put64(nestedHole, uint64(xentest.Phys)|nestedMemory) }},
		"Xen's text, as the domain's own by the frame table": {"Xen's image", func(m *machine) {
			m.Put64(nestedHole, uint64(xentest.Phys)|nestedMemory)
			m.Frame(xentest.Phys, 1<<63|1, 1, xentest.Assisted)
		}},
		"2 MiB with Xen's image": {"Xen's image", func(m *machine) { m.Put64(xentest.NestedL2+3*8, uint64(xentest.Phys)|nestedLarge) }},
		"Xen's text, as granted": {"Xen's image", func(m *machine) { m.Put64(nestedHole, uint64(xentest.Phys)|nestedMemory|7<<52) }},
		"a nested table":         {"nested page tables of Xen", func(m *machine) { m.Put64(nestedHole, uint64(xentest.NestedL1)|nestedMemory) }},
		"a nested table, as its own": {"nested page tables of Xen", func(m *machine) {
			m.Put64(nestedHole, uint64(xentest.NestedL1)|nestedMemory)
			m.Frame(xentest.NestedL1, 1<<63|1, 1, xentest.Assisted)
		}},
		"a page table of Xen's": {"reach the page tables of Xen", func(m *machine) { m.Put64(nestedHole, 0x10_0000|nestedMemory) }},
		"the frame table":       {"frame table of Xen", func(m *machine) { m.Put64(nestedHole, 0x15_0000|nestedMemory) }},
		"where Xen's registers are saved, as its own": {"saved state of Xen", func(m *machine) {
			m.Put64(nestedHole, uint64(xentest.HostState)|nestedMemory)
			m.Frame(xentest.HostState, 1<<63|1, 1, xentest.Assisted)
		}},
		"Xen's heap":                 {"free or Xen's", func(m *machine) { m.Put64(nestedHole, uint64(xentest.VMCB)|nestedMemory) }},
		"free memory":                {"free or Xen's", func(m *machine) { m.Put64(nestedHole, 0x1b_0000|nestedMemory) }},
		"another domain's memory":    {"memory of domain 0", func(m *machine) { m.Put64(nestedHole, uint64(xentest.Foreign)|nestedMemory) }},
		"its own, but given back":    {"gave back", func(m *machine) { m.Frame(xentest.Small, 1, 1, xentest.Assisted) }},
		"no memory at all":           {"none of the machine's", func(m *machine) { m.Put64(nestedHole, 0xfee0_0000|nestedMemory) }},
		"one of a domain unknown":    {"not its own", func(m *machine) { m.Frame(xentest.Small, 1<<63|1, 1, 0x1c_0000) }},
		"a table that is its memory": {"not as Xen makes them", func(m *machine) { m.Put64(xentest.NestedL2+4*8, uint64(xentest.Small)|nestedMemory) }},
		"a loop":                     {"not as Xen makes them", func(m *machine) { m.Put64(xentest.NestedL3+8, uint64(xentest.NestedL4)|nestedMemory) }},
		"a table nowhere":            {"not as Xen makes them", func(m *machine) { m.Put64(xentest.NestedL3+8, 0xdead_0000|nestedMemory) }},
		"a reserved bit":             {"not as Xen makes them", func(m *machine) { m.Put64(xentest.NestedL4+8, 0x40_0000|nestedLarge) }},
		"a misaligned page":          {"not as Xen makes them", func(m *machine) { m.Put64(xentest.NestedL2+5*8, 0x41_0000|nestedLarge) }},
		"nested paging off":          {"all of the machine's memory", func(m *machine) { m.Put64(xentest.VMCB+0x90, 0) }},
		"tables of the CPU's own": {"not as Xen makes them", func(m *machine) {
			m.Put64(xentest.VMCB+0xb0, uint64(xentest.Small))
		}},
		"all of 8 GiB": {"none of the machine's", func(m *machine) {
			for i := range mem.Phys(8) {
				m.Put64(xentest.NestedL3+8*i, uint64(i)<<30|nestedLarge)
			}
		}},
		"more than is kept": {"none of the machine's", func(m *machine) {
			for i := range mem.Phys(512) {
				m.Put64(xentest.NestedL1+8*i, 0xf000_0000|uint64(i^1)<<12|nestedMemory)
				m.Put64(xentest.NestedL2+8*i, 0x8000_0000|nestedLarge|uint64(i&1)<<52)
			}
			m.Put64(xentest.NestedL2, uint64(xentest.NestedL1)|nestedMemory)
		}},
		"a VMCB in its own memory": {"what the processor runs the domain by", func(m *machine) {
			copy(m.RAM[xentest.Small:], m.RAM[xentest.VMCB:][:mem.PageSize])
			m.Put64(xentest.VCPU+xentest.CPUVMCB, uint64(xentest.Small))
		}},
	}
	for name, test := range tests {
		m := xentest.BootHVM()
		test.change(m)
		r := scanXen(t, m)
		c := xenDomainsOf(t, r)
		found := false
		for _, f := range c.Findings {
			found = found || strings.Contains(f.Explanation, test.says)
		}
		if r.Outcome != measure.Fail || !found {
			t.Errorf("%s: %s %s: %+v", name, c.Outcome, c.Reason, c.Findings)
		}
	}
}

// What cannot be judged is not a pass, and says what it is.
func TestHVMNotMeasured(t *testing.T) {
	type machine = xentest.Machine
	tests := map[string]struct {
		says   string
		change func(*machine)
	}{
		"EPT":               {"EPT", func(m *machine) { m.CPUs[0].EFER &^= mem.EFERSVME }},
		"EFER not shown":    {"does not show EFER", func(m *machine) { m.CPUs[0].Missing = append(m.CPUs[0].Missing, "EFER") }},
		"shadow tables":     {"shadow", func(m *machine) { m.RAM[xentest.Assisted+xentest.Options] = 1 }},
		"a granted page":    {"as granted, shared or foreign", func(m *machine) { m.Put64(nestedHole, uint64(xentest.Foreign)|nestedMemory|7<<52) }},
		"a foreign page":    {"as granted, shared or foreign", func(m *machine) { m.Put64(nestedHole, uint64(xentest.Foreign)|nestedMemory|14<<52) }},
		"a device":          {"of devices", func(m *machine) { m.Put64(nestedHole, 0xfee0_0000|nestedMemory|5<<52) }},
		"tables of another": {"unknown layout", func(m *machine) { m.Put64(xentest.P2M+xentest.P2MDomain, 0) }},
		"CPUs of another":   {"CPUs of a domain", func(m *machine) { m.Put64(xentest.VCPU+xentest.CPUDomain, 0) }},
		"CPUs in a loop": {"CPUs of a domain", func(m *machine) {
			m.Put64(xentest.VCPU+xentest.CPUDomain+8, uint64(xentest.DirectMap)+uint64(xentest.VCPU))
		}},
		"no frame table": {"frame table", func(m *machine) { m.Frame(xentest.Assisted, 0, 0, 0) }},
		"a frame table without end": {errTooManyRanges.Error(), func(m *machine) {
			const level2, level1, page = mem.Phys(0x14_0000), mem.Phys(0x14_1000), 0x15_0000
			for i := range mem.Phys(512) {
				m.Put64(level2+8*i, uint64(level1)|xentest.Present|xentest.Writable|xentest.NX)
				m.Put64(level1+8*i, page|xentest.Present|xentest.Writable|xentest.NX)
			}
		}},
	}
	for name, test := range tests {
		m := xentest.BootHVM()
		test.change(m)
		r := scanXen(t, m)
		if c := xenDomainsOf(t, r); r.Outcome != measure.Incomplete || !strings.Contains(c.Reason, test.says) {
			t.Errorf("%s: %s %s: %+v", name, c.Outcome, c.Reason, c.Findings)
		}
	}
}

// FuzzNested scans a machine in whose nested tables, CPUs and frame table
// something else stands.
func FuzzNested(f *testing.F) {
	f.Add(uint32(xentest.NestedL3+8), uint64(xentest.NestedL4)|nestedMemory, uint32(xentest.NestedL1), uint64(0))
	f.Add(uint32(xentest.VMCB+0xb0), uint64(0x10_0000), uint32(xentest.VCPU+xentest.CPUVMCB), uint64(1))
	f.Add(uint32(xentest.P2M+xentest.P2MRoot), uint64(1)<<39, uint32(xentest.NestedL2), uint64(nestedLarge))
	m := xentest.BootHVM()
	profile, err := xen.NewProfile(m, m.CPUs)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, a uint32, av uint64, b uint32, bv uint64) {
		for at, v := range map[uint32]uint64{a: av, b: bv} {
			word := m.RAM[uint64(at)%uint64(len(m.RAM)-8):][:8]
			old := binary.LittleEndian.Uint64(word)
			binary.LittleEndian.PutUint64(word, v)
			defer binary.LittleEndian.PutUint64(word, old)
		}
		c := &collector{ctx: t.Context(), machine: m, registers: m.CPUs, xen: profile}
		data, _, err := collectXenDomains(c)
		if err != nil {
			return
		}
		raw, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		var out measure.Check
		if err := judgeXenDomains(nil, raw, &out); (err == nil) != (out.Reason != "") {
			t.Fatalf("reason %q, error %v", out.Reason, err)
		}
	})
}

// balloon is a machine whose domain gives back a page each time its table was read.
type balloon struct {
	*xentest.Machine
	given mem.Phys
}

func (b *balloon) Memory() mem.Reader { return b }

func (b *balloon) ReadPhys(p []byte, at mem.Phys) error {
	err := b.Machine.ReadPhys(p, at)
	if at == xentest.NestedL1 && len(p) == mem.PageSize && b.given < 16 {
		b.Put64(xentest.NestedL1+8*(0x100+b.given), 0)
		b.Frame(xentest.Small+b.given*mem.PageSize, 0, 0, 0)
		b.given++
	}
	return err
}

// A domain that gives memory back while it is looked at is not caught between.
func TestAcceptsBalloonOfHVM(t *testing.T) {
	m := &balloon{Machine: xentest.BootHVM()}
	result, err := Scan(t.Context(), m, &Options{Checks: []string{xenDomainsName}})
	if err != nil {
		t.Fatal(err)
	}
	refs := xenRefs(t, result)
	refs.Checks = []string{xenDomainsName}
	r, err := Judge(result.Observations, refs)
	if err != nil || r.Outcome != measure.Pass || m.given < 2 {
		t.Errorf("%d pages given back: %+v, %v", m.given, r, err)
	}
}
