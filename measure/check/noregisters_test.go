package check

import (
	"errors"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// Without registers there is less to say, and the report says so.
func TestWithoutRegisters(t *testing.T) {
	bare := func(t *testing.T) *measure.Observations {
		obs := recorded(t)
		edit(t, obs, idtName, func(d *idtData) { d.CPUs, d.Unused = nil, true })
		edit(t, obs, pageTablesName, func(d *pageTablesData) { d.NoCPUs = true })
		return obs
	}
	for _, name := range []string{idtName, pageTablesName} {
		if c := judgeOne(t, bare(t), name); c.Outcome != measure.Pass || !strings.Contains(c.Reason, "no registers") {
			t.Errorf("%s: %s (%s) %+v", name, c.Outcome, c.Reason, c.Findings)
		}
	}
	hooked := bare(t)
	edit(t, hooked, idtName, func(d *idtData) { d.Tables[0].Gates[14].Handler.Value = 0xffffffffc0300000 })
	requireFinding(t, judgeOne(t, hooked, idtName), "idt[0x0e]", "does not go to the kernel's handler")

	// Neither nothing nor a table that no register showed and no symbol named passes.
	empty, unnamed := bare(t), bare(t)
	edit(t, empty, idtName, func(d *idtData) { d.Tables = nil })
	edit(t, unnamed, idtName, func(d *idtData) { d.Unused = false })
	for _, obs := range []*measure.Observations{empty, unnamed} {
		if c := judgeOne(t, obs, idtName); c.Outcome != measure.NotMeasured {
			t.Errorf("%s (%s)", c.Outcome, c.Reason)
		}
	}

	c := &collector{machine: stillMachine{}}
	if err := planGDT(c); !errors.Is(err, kernel.ErrNoRegisters) {
		t.Errorf("%s: %v", gdtName, err)
	}
	if _, _, err := collectRegisters(c); !errors.Is(err, kernel.ErrNoRegisters) {
		t.Errorf("%s: %v", registersName, err)
	}
}
