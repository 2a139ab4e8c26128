package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen/xentest"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

type xenSource struct{ image *xen.Image }

func (s xenSource) Xen(buildID string) (*xen.Image, error) {
	if buildID != s.image.BuildID {
		return nil, kernel.ErrOtherBuild
	}
	return s.image, nil
}

func xenRefs(t testing.TB, result *Result) *References {
	t.Helper()
	img, err := xen.NewImage(xentest.File())
	if err != nil {
		t.Fatal(err)
	}
	return &References{Xen: xenSource{img}, Pages: result.Pages}
}

// scanXen scans a machine and judges what the verifier would get.
func scanXen(t testing.TB, m *xentest.Machine) *measure.Report {
	t.Helper()
	result, err := Scan(context.Background(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := result.Observations.Encode()
	if err != nil {
		t.Fatal(err)
	}
	obs, err := measure.DecodeObservations(encoded)
	if err != nil {
		t.Fatal(err)
	}
	report, err := Judge(obs, xenRefs(t, result))
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// The kind of the target decides which checks there are.
func TestAcceptsXen(t *testing.T) {
	r := scanXen(t, xentest.Boot())
	if r.Outcome != measure.Pass || r.Kernel.Kind != measure.Xen {
		t.Errorf("%s of %q: %+v", r.Outcome, r.Kernel.Kind, r.Checks)
	}
	var names []string
	for _, c := range r.Checks {
		names = append(names, c.Name)
	}
	want := []string{"xen.text", "xen.rodata", "xen.tables", "xen.hypercalls", "xen.registers", "xen.msrs", "xen.idt", "xen.pagetables", "xen.domains"}
	if !slices.Equal(names, want) {
		t.Errorf("checks %v, want %v", names, want)
	}
}

// Each attack is found by the check meant for it, and by no other.
func TestDetectsOnXen(t *testing.T) {
	const flags = xentest.Present | xentest.Writable
	put16 := binary.LittleEndian.PutUint16
	hole := xentest.Page(0x30) // maps nothing
	tests := map[string]struct {
		check  string
		change func(*xentest.Machine)
	}{
		"code of a function":          {xenTextName, func(m *xentest.Machine) { m.Image(xentest.Cold)[0] = 0xc3 }},
		"a mitigation left out":       {xenTextName, func(m *xentest.Machine) { copy(m.Image(xentest.Twin), []byte{0x90, 0x90, 0x90}) }},
		"a constant":                  {xenRodataName, func(m *xentest.Machine) { m.Image(xentest.Constant)[1]++ }},
		"a pointer set at boot":       {xenRodataName, func(m *xentest.Machine) { m.Image(xentest.SetAtBoot + 8)[0]++ }},
		"where a fault goes on":       {xenTablesName, func(m *xentest.Machine) { m.Image(xentest.Exceptions + 4)[0]++ }},
		"the stub of SYSCALL":         {xenHypercallsName, func(m *xentest.Machine) { m.RAM[xentest.StubPage+24]++ }},
		"code in another CPU's stub":  {xenHypercallsName, func(m *xentest.Machine) { m.RAM[xentest.StubPage+xen.StubSize] = 0x90 }},
		"write protection":            {xenRegistersName, func(m *xentest.Machine) { m.CPUs[0].CR0 &^= mem.CR0WP }},
		"SMAP":                        {xenRegistersName, func(m *xentest.Machine) { m.CPUs[0].CR4 &^= mem.CR4SMAP }},
		"no-execute":                  {xenRegistersName, func(m *xentest.Machine) { m.CPUs[0].EFER &^= mem.EFERNXE }},
		"SYSCALL past its stub":       {xenMSRsName, func(m *xentest.Machine) { m.MSRs[0].LSTAR += 8 }},
		"SYSCALL with interrupts on":  {xenMSRsName, func(m *xentest.Machine) { m.MSRs[0].FMASK = 0 }},
		"SYSENTER to a function":      {xenMSRsName, func(m *xentest.Machine) { m.MSRs[0].SysenterEIP = uint64(xentest.Address("first")) }},
		"an interrupt's handler":      {xenIDTName, func(m *xentest.Machine) { put16(m.Image(xentest.IDT+16*9), uint16(xentest.Address("first"))) }},
		"an exception's handler":      {xenIDTName, func(m *xentest.Machine) { put16(m.Image(xentest.IDT+16*13), uint16(xentest.Address("debug"))) }},
		"an interrupt open to guests": {xenIDTName, func(m *xentest.Machine) { m.Image(xentest.IDT + 16*9)[5] |= 0x60 }},
		"a copy of the table": {xenIDTName, func(m *xentest.Machine) {
			copy(m.RAM[0x1c_0000:], m.Image(xentest.IDT)[:0x1000])
			m.CPUs[0].IDT.Base = xentest.DirectMap + 0x1c_0000
		}},
		"another stack of a fault": {xenIDTName, func(m *xentest.Machine) { m.Image(xentest.IDT + 16*8)[4] = 7 }},
		"writable text":            {xenPageTablesName, func(m *xentest.Machine) { m.Put64(xentest.Page(1), uint64(xentest.Phys)+0x1000|flags) }},
		"executable data":          {xenPageTablesName, func(m *xentest.Machine) { m.Put64(xentest.Page(10), uint64(xentest.Phys)+0xa000|flags) }},
		"text open to guests": {xenPageTablesName, func(m *xentest.Machine) {
			m.Put64(xentest.Page(1), uint64(xentest.Phys)+0x1000|xentest.Present|xentest.User)
		}},
		"a second mapping of text":     {xenPageTablesName, func(m *xentest.Machine) { m.Put64(hole, uint64(xentest.Phys)|flags|xentest.NX) }},
		"a guest that maps Xen":        {xenPageTablesName, func(m *xentest.Machine) { guest(m, 300, uint64(xentest.Phys)+xentest.Data) }},
		"a guest's own view of Xen":    {xenPageTablesName, func(m *xentest.Machine) { guest(m, 261, 0x10_0000) }},
		"a domain missing in the list": {xenDomainsName, func(m *xentest.Machine) { clear(m.Image(int(xentest.Address("domain_list") - xentest.Base))[:8]) }},
	}
	for name, test := range tests {
		m := xentest.Boot()
		test.change(m)
		r := scanXen(t, m)
		if r.Outcome != measure.Fail {
			t.Errorf("%s: %s: %+v", name, r.Outcome, r.Checks)
		}
		for _, c := range r.Checks {
			if want := c.Name == test.check; (c.Outcome == measure.Fail) != want || want && len(c.Findings) == 0 || !want && c.Outcome != measure.Pass {
				t.Errorf("%s: %s is %s %s %+v", name, c.Name, c.Outcome, c.Reason, c.Findings)
			}
		}
	}
}

// Each CPU has one page of stubs, and tables lie in memory that is Xen's alone.
func TestDetectsWhatBelongsToNoCPU(t *testing.T) {
	m := xentest.Boot()
	m.Put64(0x10_4000+8*509, uint64(xentest.StubPage)|xentest.Present)
	m.CPUs = append(m.CPUs, m.CPUs[0])
	m.MSRs = append(m.MSRs, m.MSRs[0])
	m.CPUs[1].CPU = 1
	result, err := Scan(context.Background(), m, nil)
	if err != nil {
		t.Fatal(err)
	}
	item := result.Observations.Item(xenIDTName)
	item.Data = bytes.ReplaceAll(item.Data, []byte(`"base":"0xffff82d04020c000"`), []byte(`"base":"0xffff810000000000"`))
	for cpus, want := range map[int]measure.Outcome{1: measure.Fail, 2: measure.Pass} {
		result.Observations.Kernel.CPUs = cpus
		r, err := Judge(result.Observations, xenRefs(t, result))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Checks {
			switch c.Name {
			case xenPageTablesName:
				if c.Outcome != want {
					t.Errorf("two stubs of %d CPUs: %s", cpus, c.Outcome)
				}
			case xenIDTName, xenMSRsName: // the second CPU has the first one's stub
				if c.Outcome != measure.Fail {
					t.Errorf("%s: %s", c.Name, c.Outcome)
				}
			}
		}
	}
}

// guest gives the CPU the tables of a guest, with one entry of the top table that
// maps 4 KiB of memory.
func guest(m *xentest.Machine, slot int, maps uint64) {
	const top, link = 0x12_0000, xentest.Present | xentest.Writable | xentest.User
	copy(m.RAM[top:], m.RAM[xentest.Slot(0):][:mem.PageSize])
	for level := range 3 {
		m.Put64(mem.Phys(top+0x1000*(level+1)), uint64(top+0x1000*(level+2))|link)
	}
	m.Put64(top+0x3000, maps|link|xentest.NX)
	m.Put64(top+mem.Phys(8*slot), top+0x1000|link)
	if slot == 261 { // as Xen has it up to the page itself
		l3, l2 := m.RAM[0x10_0000:][:0x1000], m.RAM[0x10_1000:][:0x1000]
		copy(m.RAM[top+0x1000:], l3)
		copy(m.RAM[top+0x2000:], l2)
		copy(m.RAM[top+0x3000:], m.RAM[0x10_2000:][:0x1000])
		m.Put64(top+0x1000+8*321, top+0x2000|link)
		m.Put64(top+0x2000+8, top+0x3000|link)
		m.Put64(top+0x3000+8*11, maps|link|xentest.NX)
	}
	m.CPUs[0].CR3, m.CPUs[0].CPL = top, 3
}

// With XPTI a CPU runs guests on tables that show a part of what Xen's show.
func TestAcceptsXPTI(t *testing.T) {
	m := xentest.Boot()
	guest(m, 300, 0x13_0000)
	m.Put64(0x12_0000+8*262, 0)
	if r := scanXen(t, m); r.Outcome != measure.Pass {
		t.Errorf("%+v", r.Checks)
	}
}

// Since 4.20 the map of all RAM has Xen's image read-only.
func TestDetectsWritableDirectMap(t *testing.T) {
	file := xentest.File()
	at := bytes.Index(file, []byte{0xb8, 17, 0, 0, 0, 0xc3})
	file[at+1] = 20
	img, err := xen.NewImage(file)
	if err != nil {
		t.Fatal(err)
	}
	m := xentest.Boot()
	result, err := Scan(context.Background(), m, &Options{Checks: []string{xenPageTablesName}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Judge(result.Observations, &References{Xen: xenSource{img}, Checks: []string{xenPageTablesName}})
	if err != nil || r.Outcome != measure.Fail {
		t.Errorf("%+v, %v", r, err)
	}
}

// Without its file a Xen's code is not measured; with another's neither.
func TestXenWithoutImage(t *testing.T) {
	result, err := Scan(context.Background(), xentest.Boot(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Judge(result.Observations, &References{Pages: result.Pages})
	if err != nil || r.Outcome != measure.Incomplete || len(r.Unmeasured()) != 7 {
		t.Errorf("%s, %v: %+v", r.Outcome, err, r.Unmeasured())
	}
	result.Observations.Kernel.BuildID = "00"
	if r, err = Judge(result.Observations, xenRefs(t, result)); err != nil || r.Outcome != measure.Incomplete {
		t.Errorf("%s, %v", r.Outcome, err)
	}
}

// The verifier gets pages by digest and asks for the bytes of those it lacks.
func TestXenMissingPages(t *testing.T) {
	result, err := Scan(context.Background(), xentest.Boot(), nil)
	if err != nil {
		t.Fatal(err)
	}
	refs := xenRefs(t, result)
	refs.Pages = nil
	var missing *MissingPagesError
	if _, err := Judge(result.Observations, refs); !errors.As(err, &missing) || len(missing.Digests) == 0 {
		t.Errorf("error %v", err)
	}
}

// A check that was asked for by name but is for another kind of target is not
// measured.
func TestChecksOfAnotherKind(t *testing.T) {
	names := []string{textName, xenTextName}
	result, err := Scan(context.Background(), xentest.Boot(), &Options{Checks: names})
	if err != nil {
		t.Fatal(err)
	}
	refs := xenRefs(t, result)
	refs.Checks = names
	r, err := Judge(result.Observations, refs)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if want := c.Name == xenTextName; (c.Outcome == measure.Pass) != want {
			t.Errorf("%s: %s %s", c.Name, c.Outcome, c.Reason)
		}
	}
}

// A Xen that cannot be profiled is not measured by the checks of a Xen.
func TestXenWithoutProfile(t *testing.T) {
	m := xentest.Boot()
	clear(m.Image(0x4000)[:0x2000])
	r := scanXen(t, m)
	if r.Outcome != measure.Incomplete || len(r.Checks) != len(xenChecks()) {
		t.Errorf("%s: %+v", r.Outcome, r.Checks)
	}
}

// FuzzJudgeXen gives the judging halves observations that a producer made up.
func FuzzJudgeXen(f *testing.F) {
	result, err := Scan(context.Background(), xentest.Boot(), nil)
	if err != nil {
		f.Fatal(err)
	}
	for i, item := range result.Observations.Items {
		f.Add(i, []byte(item.Data))
	}
	assisted, err := Scan(context.Background(), xentest.BootHVM(), nil)
	if err != nil {
		f.Fatal(err)
	}
	for i, item := range assisted.Observations.Items {
		if item.Check == xenDomainsName {
			f.Add(i, []byte(item.Data))
		}
	}
	all := xenRefs(f, result)
	f.Fuzz(func(t *testing.T, i int, data []byte) {
		obs := *result.Observations
		obs.Items = slices.Clone(obs.Items)
		item := &obs.Items[uint(i)%uint(len(obs.Items))]
		if !json.Valid(data) {
			return
		}
		item.Data = data
		refs := *all
		refs.Checks = []string{item.Check} // no other reads these facts, and all together take a millisecond
		r, err := Judge(&obs, &refs)
		if (r == nil) == (err == nil) {
			t.Fatalf("report %v, error %v", r, err)
		}
	})
}
