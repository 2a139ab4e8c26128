package check

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

func TestDetectsProtectionsOff(t *testing.T) {
	tests := map[string]struct {
		change func(*registersData)
		symbol string
	}{
		"write protection":                 {func(d *registersData) { d.CPUs[1].CR0 &^= mem.CR0WP }, "CR0 of CPU 1"},
		"SMEP":                             {func(d *registersData) { d.CPUs[0].CR4 &^= mem.CR4SMEP }, "CR4 of CPU 0"},
		"SMAP":                             {func(d *registersData) { d.CPUs[0].CR4 &^= mem.CR4SMAP }, "CR4 of CPU 0"},
		"UMIP":                             {func(d *registersData) { d.CPUs[0].CR4 &^= mem.CR4UMIP }, "CR4 of CPU 0"},
		"no-execute":                       {func(d *registersData) { d.CPUs[0].EFER &^= mem.EFERNXE }, "EFER of CPU 0"},
		"the system call instruction":      {func(d *registersData) { d.CPUs[0].EFER &^= mem.EFERSCE }, "EFER of CPU 0"},
		"SMEP and the feature, not pinned": {func(d *registersData) { d.CPUs[0].CR4 &^= mem.CR4SMEP; d.Capability[9] &^= 1 << 7 }, "CR4 of CPU 0"},
		"a breakpoint on kernel code":      {func(d *registersData) { d.CPUs[1].DR7 |= 1 << 2; d.CPUs[1].DR[1] = 0xffffffff81000000 }, "DR1 of CPU 1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			obs := recorded(t)
			edit(t, obs, registersName, tt.change)
			requireFinding(t, judgeOne(t, obs, registersName), tt.symbol, "")
		})
	}
}

// A dump shows neither EFER nor debug registers: that is no pass, and what it
// does show still fails.
func TestRegistersOfADump(t *testing.T) {
	hide := func(d *registersData) {
		for i := range d.CPUs {
			f := &d.CPUs[i]
			f.EFER, f.DR7, f.DR, f.Missing = 0, 0, [4]address{}, []string{"EFER", "DR7"}
		}
	}
	obs := recorded(t)
	edit(t, obs, registersName, hide)
	if c := judgeOne(t, obs, registersName); c.Outcome != measure.NotMeasured || !strings.Contains(c.Reason, "EFER, DR7") {
		t.Errorf("%s: %s", c.Outcome, c.Reason)
	}
	edit(t, obs, registersName, func(d *registersData) { d.CPUs[1].CR0 &^= mem.CR0WP })
	requireFinding(t, judgeOne(t, obs, registersName), "CR0 of CPU 1", "")
}

func TestAcceptsBreakpoints(t *testing.T) {
	tests := map[string]func(*registersData){
		"a debugger's, on user memory": func(d *registersData) { d.CPUs[0].DR7 |= 1; d.CPUs[0].DR[0] = 0x401000 },
		"perf's, on the kernel": func(d *registersData) {
			d.CPUs[0].DR7 |= 1
			d.CPUs[0].DR[0], d.Watched[0] = 0xffffffff81000000, true
		},
		"a register that is not enabled": func(d *registersData) { d.CPUs[0].DR[0] = 0xffffffff81000000 },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			obs := recorded(t)
			edit(t, obs, registersName, change)
			if c := judgeOne(t, obs, registersName); c.Outcome != measure.Pass {
				t.Errorf("%s %+v", c.Outcome, c.Findings)
			}
		})
	}
}

func TestDetectsDescriptors(t *testing.T) {
	tests := map[string]struct {
		change func(*gdtFact)
		symbol string
	}{
		"a call gate":                {func(f *gdtFact) { f.Descriptors[12] = 0x81c0ec0000100000 }, "gdt[12] of CPU 1"},
		"kernel code for user mode":  {func(f *gdtFact) { f.Descriptors[6] = 0x00af9b000000ffff }, "gdt[6] of CPU 1"},
		"a kernel segment in TLS":    {func(f *gdtFact) { f.Descriptors[13] = 0x00af9b000000ffff }, "gdt[13] of CPU 1"},
		"a task state segment moved": {func(f *gdtFact) { f.TSS = 0xffff888000001000 }, "TR of CPU 1"},
		"an interrupt stack moved":   {func(f *gdtFact) { f.Stacks["ist1"] = 0xffff888000001000 }, "tss.ist1 of CPU 1"},
		"a table moved":              {func(f *gdtFact) { f.Base = 0xffff888000001000 }, "GDTR of CPU 1"},
		"a longer table":             {func(f *gdtFact) { f.Limit = 0xff }, "GDTR of CPU 1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			obs := recorded(t)
			edit(t, obs, gdtName, func(d *gdtData) { tt.change(&d.CPUs[1]) })
			requireFinding(t, judgeOne(t, obs, gdtName), tt.symbol, "")
		})
	}
}

// User mode sets its thread-local segments and its local descriptor table.
func TestAcceptsUserSegments(t *testing.T) {
	obs := recorded(t)
	edit(t, obs, gdtName, func(d *gdtData) {
		d.CPUs[0].Descriptors[12] = 0x00cff3000000ffff // data, DPL 3
		d.CPUs[0].Descriptors[10] = 0x880082345000ffff // LDT
		d.CPUs[0].Descriptors[11] = 0xffff8881
		d.CPUs[0].Descriptors[2] &^= descriptorAccessed
	})
	if c := judgeOne(t, obs, gdtName); c.Outcome != measure.Pass {
		t.Errorf("%s %+v", c.Outcome, c.Findings)
	}
}

func TestDetectsPageTables(t *testing.T) {
	at := mappedRange{Start: 0xffffc90000100000, Size: 0x2000, Phys: 0x5000}
	tests := map[string]struct {
		change func(*pageTablesData)
		says   string
	}{
		"writable code":               {func(d *pageTablesData) { d.Writable = append(d.Writable, at) }, "both writable and executable"},
		"a hidden module's code":      {func(d *pageTablesData) { d.Executable = append(d.Executable, at) }, "belongs to neither"},
		"an alias of text":            {func(d *pageTablesData) { d.Aliases = append(d.Aliases, at) }, "writable mapping reaches"},
		"kernel memory for user mode": {func(d *pageTablesData) { d.User = append(d.User, at) }, "marked for user mode"},
		"a CPU on tables of its own":  {func(d *pageTablesData) { d.Foreign = []foreignRoot{{CPU: 1, Index: 511, Have: 3, Want: 1}} }, "other memory in the kernel's half"},
		"writable espfix stacks":      {func(d *pageTablesData) { d.Espfix.Writable = []mappedRange{at} }, "is writable"},
		"others than espfix stacks":   {func(d *pageTablesData) { d.Espfix.Others = []mappedRange{at} }, "none of them"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			obs := recorded(t)
			edit(t, obs, pageTablesName, tt.change)
			c := judgeOne(t, obs, pageTablesName)
			if len(c.Findings) != 1 {
				t.Fatalf("findings: %+v", c.Findings)
			}
			requireFinding(t, c, c.Findings[0].Symbol, tt.says)
		})
	}
}

// What could not be read is no pass, and executable memory without an account
// is no finding while accounts are missing.
func TestPageTablesNotMeasured(t *testing.T) {
	tests := map[string]func(*pageTablesData){
		"a table lost":     func(d *pageTablesData) { d.Lost = []string{"[0, 1]: gone"} },
		"no espfix_pages":  func(d *pageTablesData) { d.Espfix.Unknown = errNoEspfix.Error() },
		"accounts missing": func(d *pageTablesData) { d.Owners = d.Owners[:1]; d.Incomplete = "list broken" },
	}
	for name, change := range tests {
		obs := recorded(t)
		edit(t, obs, pageTablesName, change)
		if c := judgeOne(t, obs, pageTablesName); c.Outcome != measure.NotMeasured || c.Reason == "" {
			t.Errorf("%s: %s %q", name, c.Outcome, c.Reason)
		}
	}
}

func TestUnownedRanges(t *testing.T) {
	r := func(from, to address) mappedRange {
		return mappedRange{Start: from, Size: uint64(to - from), Phys: mem.Phys(from)}
	}
	tests := map[string]struct {
		owners []owner
		want   []mappedRange
	}{
		"nobody":           {nil, []mappedRange{r(0x1000, 0x5000)}},
		"all":              {[]owner{{"", 0, 0x9000}}, nil},
		"exactly":          {[]owner{{"", 0x1000, 0x4000}}, nil},
		"the middle":       {[]owner{{"", 0x2000, 0x1000}}, []mappedRange{r(0x1000, 0x2000), r(0x3000, 0x5000)}},
		"the ends":         {[]owner{{"", 0x4000, 0x1000}, {"", 0, 0x2000}}, []mappedRange{r(0x2000, 0x4000)}},
		"part of a page":   {[]owner{{"", 0x1000, 0x3001}}, nil},
		"each other":       {[]owner{{"", 0x1000, 0x3000}, {"", 0x2000, 0x1000}}, []mappedRange{r(0x4000, 0x5000)}},
		"nothing":          {[]owner{{"", 0x1000, 0}, {"", 0x8000, 0x1000}}, []mappedRange{r(0x1000, 0x5000)}},
		"past the last":    {[]owner{{"", 0x1000, ^uint64(0)}}, []mappedRange{r(0x1000, 0x5000)}},
		"before and after": {[]owner{{"", 0, 0x1000}, {"", 0x5000, 0x1000}}, []mappedRange{r(0x1000, 0x5000)}},
	}
	for name, tt := range tests {
		got := unownedRanges([]mappedRange{r(0x1000, 0x5000)}, tt.owners)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestDetectsHiding(t *testing.T) {
	t.Run("module", func(t *testing.T) {
		obs := recorded(t)
		edit(t, obs, modulesName, func(d *modulesData) {
			d.Hidden = []hiddenFact{{Name: "rootkit", At: 0xffffffffc0000000, View: "the objects in sysfs"}}
		})
		requireFinding(t, judgeOne(t, obs, modulesName), "rootkit", "the list of modules does not")
	})
	t.Run("process", func(t *testing.T) {
		obs := recorded(t)
		edit(t, obs, processesName, func(d *processesData) {
			d.Unlisted = []taskFact{{At: 1, PID: 7, TGID: 7, Comm: "sh", Shown: "table of process numbers", Missing: "list of processes"}}
		})
		requireFinding(t, judgeOne(t, obs, processesName), "sh (pid 7, process 7)", "does not")
	})
}

// A view that could not be read may hide anything: it is no pass.
func TestHidingNotMeasured(t *testing.T) {
	obs := recorded(t)
	edit(t, obs, modulesName, func(d *modulesData) { d.Blind = []string{"no tree"} })
	if c := judgeOne(t, obs, modulesName); c.Outcome != measure.NotMeasured {
		t.Errorf("%s %s", c.Outcome, c.Reason)
	}
	edit(t, obs, processesName, func(d *processesData) { d.Unread = []string{"a queue that loops"} })
	if c := judgeOne(t, obs, processesName); c.Outcome != measure.NotMeasured || !strings.Contains(c.Reason, "a queue that loops") {
		t.Errorf("%s %s", c.Outcome, c.Reason)
	}
}
