package check

import (
	"encoding/json"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// xen.tables: Xen's exception tables are those of its file, sorted.
//
// Proves: that a fault in Xen's code goes on where the image says, and nowhere
// else. Trusts: the image. The tables of live patches and of the emulator's stubs
// are not in the image and not looked at; BUG frames are part of xen.rodata.
const xenTablesName = "xen.tables"

func xenTablesCheck() check {
	return check{name: xenTablesName, collect: collectXenTables, judge: judgeXenTables}
}

// xenTable is an exception table as the target has it.
type xenTable struct {
	Name  string       `json:"name"`
	Start address      `json:"start"`
	Pairs [][2]address `json:"pairs"` // instruction that may fault, where to go on
}

// maxXenTable bounds one table, in bytes; real ones have 2,500.
const maxXenTable = 1 << 20

func collectXenTables(c *collector) (any, measure.Coverage, error) {
	var data []xenTable
	var coverage measure.Coverage
	for _, name := range []string{"ex_table", "pre_ex_table"} {
		from, ok1 := c.xen.Symbol("__start___" + name)
		to, ok2 := c.xen.Symbol("__stop___" + name)
		if !ok1 || !ok2 || to < from || to-from > maxXenTable {
			return nil, coverage, fmt.Errorf("%w: %s at [%v, %v)", xen.ErrLayout, name, from, to)
		}
		raw := make([]byte, to-from)
		if err := c.space.Read(raw, from); err != nil {
			return nil, coverage, err
		}
		t := xenTable{Name: name, Start: address(from)}
		for _, p := range xen.Pairs(from, raw) {
			t.Pairs = append(t.Pairs, [2]address{address(p[0]), address(p[1])})
		}
		data = append(data, t)
		coverage.Bytes += int64(len(raw))
		coverage.Objects += int64(len(t.Pairs))
	}
	return data, coverage, nil
}

func judgeXenTables(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data []xenTable
	if err := decode(raw, &data); err != nil {
		return err
	}
	img, err := j.xenImage()
	if err != nil {
		return err
	}
	want := img.Exceptions()
	if len(data) != len(want) {
		return fmt.Errorf("the scan read %d tables, the image has %d", len(data), len(want))
	}
	for i, t := range data {
		if mem.Virt(t.Start) != want[i].Start || len(t.Pairs) != len(want[i].Pairs) {
			return fmt.Errorf("the scan read %s of %d at %v, the image has %d at %v", t.Name, len(t.Pairs), t.Start, len(want[i].Pairs), want[i].Start)
		}
		for k, p := range t.Pairs {
			w := want[i].Pairs[k]
			if mem.Virt(p[0]) == w[0] && mem.Virt(p[1]) == w[1] {
				continue
			}
			out.Findings = append(out.Findings, measure.Finding{
				Address: (want[i].Start + mem.Virt(k*8)).String(), Symbol: fmt.Sprintf("%s[%d]", t.Name, k),
				Observed:    fmt.Sprintf("%v (%s) goes on at %v (%s)", p[0], img.Name(mem.Virt(p[0])), p[1], img.Name(mem.Virt(p[1]))),
				Expected:    fmt.Sprintf("%v (%s) goes on at %v (%s)", w[0], img.Name(w[0]), w[1], img.Name(w[1])),
				Explanation: "an entry of the exception table is not the image's",
			})
		}
	}
	return nil
}
