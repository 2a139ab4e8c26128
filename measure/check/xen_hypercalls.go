package check

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// xen.hypercalls: each hypercall goes to the function that the image has for it,
// and SYSCALL, by which a PV guest makes them, enters Xen where the image says.
//
// Proves: that the hypercall tables (up to 4.16) are the image's, and that the
// stubs to which SYSCALL leads on each CPU go to Xen's entry points. Since 4.17
// hypercalls are dispatched by code, which is for xen.text. Trusts: the image. That
// a CPU uses its stub is for xen.msrs. The rest of a stub, 64 bytes, is scratch
// space in which the emulators run instructions of guests; it is not judged.
const xenHypercallsName = "xen.hypercalls"

func xenHypercallsCheck() check {
	return check{name: xenHypercallsName, collect: collectXenHypercalls, judge: judgeXenHypercalls}
}

// xenHypercalls are the facts of xen.hypercalls.
type xenHypercalls struct {
	Tables []xenCalls `json:"tables"`
	Stubs  []xenStub  `json:"stubs"`
}

// xenCalls is a table of pointers to functions; those of hypercalls that there
// are not, are zero.
type xenCalls struct {
	Name  string    `json:"name"`
	Start address   `json:"start"`
	Calls []address `json:"calls"`
}

// xenStub is the entry part of a CPU's stub, or all of a slot that no CPU has.
type xenStub struct {
	At     address `json:"at"`
	Code   []byte  `json:"code"`
	Unused bool    `json:"unused,omitempty"`
}

// Bounds of the facts. Tables have 64 entries of one or two pointers.
const (
	maxXenCalls = 256
	maxXenStubs = 1024
)

func collectXenHypercalls(c *collector) (any, measure.Coverage, error) {
	var data xenHypercalls
	var coverage measure.Coverage
	for s := range c.xen.Symbols.All() {
		if !isCallTable(s.Name) {
			continue
		}
		t, err := c.xenCalls(s.Name, mem.Virt(s.Addr))
		if err != nil {
			return nil, coverage, err
		}
		data.Tables = append(data.Tables, t)
		coverage.Objects += int64(len(t.Calls))
		coverage.Bytes += int64(8 * len(t.Calls))
	}
	err := c.xenStubs(&data)
	coverage.Objects += int64(len(data.Stubs))
	coverage.Bytes += int64(xen.StubEntry * len(data.Stubs))
	return data, coverage, err
}

// isCallTable recognizes pv_hypercall_table and, local to a file,
// hvm_hypercall_table (pv/hypercall.c, hvm/hypercall.c).
func isCallTable(symbol string) bool {
	name := symbol[strings.LastIndexByte(symbol, '#')+1:]
	return name == "pv_hypercall_table" || name == "hvm_hypercall_table"
}

// xenCalls reads a table up to the next symbol.
func (c *collector) xenCalls(name string, start mem.Virt) (xenCalls, error) {
	t := xenCalls{Name: name, Start: address(start)}
	n := (c.xen.Symbols.Next(uint64(start)) - uint64(start)) / 8
	raw := make([]byte, 8*min(n, maxXenCalls))
	if err := c.space.Read(raw, start); err != nil {
		return t, err
	}
	for i := 0; i < len(raw); i += 8 {
		t.Calls = append(t.Calls, address(binary.LittleEndian.Uint64(raw[i:])))
	}
	return t, nil
}

// xenStubs reads the stubs: that of each CPU for which a page is mapped, and the
// slots of these pages that are left.
func (c *collector) xenStubs(data *xenHypercalls) error {
	var found []paging.Mapping
	odd := false
	err := c.xen.Space.Walk(xen.StubsFirst, xen.StubsLast, func(m paging.Mapping) bool {
		if m.Flags&paging.NoExecute == 0 {
			found = append(found, m)
			odd = odd || m.Size != mem.PageSize || len(found) > maxXenStubs
		}
		return !odd
	}, nil)
	if err != nil {
		return err
	}
	if odd {
		return fmt.Errorf("%w: executable memory where stubs are", xen.ErrLayout)
	}
	type slot struct {
		page mem.Phys
		at   mem.Virt
	}
	used := make(map[slot]bool)
	for _, m := range found {
		off := xen.StubSlot(m.Virt)
		used[slot{m.Phys, off}] = true
		s := xenStub{At: address(m.Virt + off), Code: make([]byte, xen.StubEntry)}
		if err := c.space.Read(s.Code, m.Virt+off); err != nil {
			return err
		}
		data.Stubs = append(data.Stubs, s)
	}
	for _, m := range found {
		for off := mem.Virt(0); off < mem.PageSize; off += xen.StubSize {
			if used[slot{m.Phys, off}] {
				continue
			}
			used[slot{m.Phys, off}] = true
			s := xenStub{At: address(m.Virt + off), Code: make([]byte, xen.StubSize), Unused: true}
			if err := c.space.Read(s.Code, m.Virt+off); err != nil {
				return err
			}
			data.Stubs = append(data.Stubs, s)
		}
	}
	return nil
}

func judgeXenHypercalls(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data xenHypercalls
	if err := decode(raw, &data); err != nil {
		return err
	}
	img, err := j.xenImage()
	if err != nil {
		return err
	}
	if err := judgeXenCalls(img, data.Tables, out); err != nil {
		return err
	}
	if len(data.Stubs) == 0 {
		return errors.New("no stubs of system calls were found")
	}
	for _, s := range data.Stubs {
		err := img.CheckStub(mem.Virt(s.At), s.Code)
		if s.Unused {
			err = nil
			if !xen.Unused(s.Code) {
				err = errors.New("there is code in a stub that no CPU has")
			}
		}
		if err != nil {
			out.Findings = append(out.Findings, measure.Finding{Address: s.At.String(), Symbol: "stub of a CPU",
				Observed: fmt.Sprintf("%x", s.Code), Explanation: err.Error()})
		}
	}
	return nil
}

// judgeXenCalls compares tables with the image's.
func judgeXenCalls(img *xen.Image, tables []xenCalls, out *measure.Check) error {
	seen := make(map[string]xenCalls)
	for _, t := range tables {
		seen[t.Name] = t
	}
	count := 0
	for s := range img.Symbols.All() {
		if !isCallTable(s.Name) {
			continue
		}
		count++
		t := seen[s.Name]
		n := (img.Symbols.Next(s.Addr) - s.Addr) / 8
		if uint64(t.Start) != s.Addr || uint64(len(t.Calls)) != min(n, maxXenCalls) {
			return fmt.Errorf("the scan read %d entries of %s at %v, the image has %d at %#x", len(t.Calls), s.Name, t.Start, n, s.Addr)
		}
		for i, v := range t.Calls {
			at := mem.Virt(t.Start) + mem.Virt(i*8)
			want := mem.Virt(binary.LittleEndian.Uint64(img.At(at, 8)))
			if mem.Virt(v) == want {
				continue
			}
			out.Findings = append(out.Findings, measure.Finding{Address: at.String(), Symbol: fmt.Sprintf("%s[%d]", s.Name, i),
				Observed: fmt.Sprintf("%v (%s)", v, img.Name(mem.Virt(v))), Expected: fmt.Sprintf("%v (%s)", want, img.Name(want)),
				Explanation: "a hypercall goes to another function than in the image"})
		}
	}
	if count == 0 {
		out.Reason = "this Xen has no hypercall table: it dispatches them in code, which is for xen.text"
	}
	return nil
}
