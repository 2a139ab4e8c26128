package check

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// The kernel of these tests has a task, a list of what was run at the start of
// modules, and an executable page that has no account.
const (
	freedBase   = 0xffff_ffff_8000_0000
	freedList   = freedBase + 0x1000 // init_free_list
	freedTask   = freedBase + 0x2000 // init_task, whose one thread is
	freedSignal = freedBase + 0x3000
	freedThread = freedBase + 0x4000 // the task
	freedNode   = freedBase + 0x5000 // struct mod_initfree
	freedStack  = freedBase + 0x8000
	freedText   = freedBase + 0x6000 // do_free_init
	freedState  = freedBase + 0x7000 // system_state
	freedPage   = 0xffff_ffff_c012_3000
)

func freedTypes(t *testing.T) *kernel.Types {
	t.Helper()
	number, half := &btf.Int{Name: "number", Size: 8}, &btf.Int{Name: "half", Size: 4}
	char := &btf.Array{Type: &btf.Int{Name: "char", Size: 1}, Index: half, Nelems: 16}
	member := func(name string, at uint32, of btf.Type) btf.Member {
		return btf.Member{Name: name, Offset: btf.Bits(at * 8), Type: of}
	}
	return typesOf(t,
		&btf.Enum{Name: "system_states", Size: 4, Values: []btf.EnumValue{{Name: "SYSTEM_BOOTING"}, {Name: "SYSTEM_RUNNING", Value: 2}}},
		&btf.Struct{Name: "mod_initfree", Size: 16, Members: []btf.Member{member("node", 0, number), member("module_init", 8, number)}},
		&btf.Struct{Name: "task_struct", Size: 0x100, Members: []btf.Member{
			member("stack", 0, number), member("on_cpu", 8, half), member("pid", 12, half), member("tgid", 16, half),
			member("comm", 24, char), member("tasks", 0x30, number), member("thread_node", 0x40, number), member("signal", 0x50, number),
			member("pid_links", 0x58, number), member("mm", 0x60, number), member("__state", 0x68, half), member("start_time", 0x78, number),
			member("thread", 0x70, &btf.Struct{Name: "thread_struct", Size: 8, Members: []btf.Member{member("sp", 0, number)}})}},
		&btf.Struct{Name: "module", Size: 8, Members: []btf.Member{member("state", 0, half)}},
		&btf.Struct{Name: "mutex", Size: 8, Members: []btf.Member{member("owner", 0, number)}},
		&btf.Struct{Name: "signal_struct", Size: 16, Members: []btf.Member{member("thread_head", 0, number)}},
	)
}

// typesOf makes types as those that a kernel has.
func typesOf(t *testing.T, all ...btf.Type) *kernel.Types {
	t.Helper()
	b, err := btf.NewBuilder(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return &kernel.Types{Spec: spec}
}

// freedCollector makes a collector for memory with these words beside the task.
func freedCollector(t *testing.T, words map[mem.Virt]uint64) *collector {
	t.Helper()
	m := make(memtest.Pages)
	m.WriteU64(0x30000+511*8, 0x31000|3) // one page of 1 GiB
	m.WriteU64(0x31000+510*8, 0x83)
	m.Write(0xf000, make([]byte, mem.PageSize)...)
	at := func(v mem.Virt, value uint64) { m.WriteU64(mem.Phys(v-freedBase), value) }
	at(freedList, 0)
	at(freedState, 2)
	at(freedNode, 0)
	for task, other := range map[mem.Virt]uint64{freedTask: freedThread, freedThread: freedTask} { // a list of both
		at(task+0x30, other+0x30)
		at(task+0x38, other+0x30)
	}
	at(freedThread+0x50, freedSignal)
	at(freedSignal, freedThread+0x40)
	at(freedSignal+8, freedThread+0x40)
	at(freedThread+0x40, freedSignal)
	at(freedThread+0x48, freedSignal)
	at(freedThread, freedStack)
	at(freedThread+8, 7<<32)
	at(freedThread+0x18, 0x72656b726f776b) // "kworker"
	at(freedThread+0x70, freedStack+stackSize-0x100)
	for p := mem.Virt(freedStack); p < freedStack+stackSize; p += 8 {
		at(p, 0)
	}
	for v, value := range words {
		at(v, value)
	}
	space := paging.SpaceAt(m, 0x30000, 4)
	return &collector{ctx: t.Context(), space: space, profile: &kernel.Profile{
		Base: freedBase, End: freedBase + 0x10000, Space: space, Types: freedTypes(t),
		Symbols: kernel.NewSymbols([]kernel.Symbol{
			{Addr: freedBase, Kind: 'T', Name: "_text"}, {Addr: freedList, Kind: 'd', Name: "init_free_list"}, {Addr: freedTask, Kind: 'D', Name: "init_task"}, {Addr: freedState, Kind: 'D', Name: "system_state"},
			{Addr: freedText, Kind: 't', Name: "do_free_init"}, {Addr: freedText + 0x100, Kind: 't', Name: "do_else"},
			{Addr: freedText + 0x200, Kind: 't', Name: "free_module"}, {Addr: freedBase + 0xf000, Kind: 'D', Name: "_end"},
		})}}
}

// TestMemoryBeingFreed: executable memory without an account is the kernel's own
// where the kernel has it on a list of what it frees, or a task has it in hand that
// does so.
func TestMemoryBeingFreed(t *testing.T) {
	const top = freedStack + stackSize - 0x100
	for name, tt := range map[string]struct {
		words map[mem.Virt]uint64
		by    string
	}{
		"nobody has it": {nil, ""},
		"on the list":   {map[mem.Virt]uint64{freedList: freedNode, freedNode + 8: freedPage}, "init_free_list"},
		"second on the list": {map[mem.Virt]uint64{freedList: freedNode + 0x100, freedNode + 0x100: freedNode, freedNode + 0x108: 1, freedNode + 8: freedPage},
			"init_free_list"},
		"other memory on the list": {map[mem.Virt]uint64{freedList: freedNode, freedNode + 8: freedPage + 0x1000}, ""},
		"in hand": {map[mem.Virt]uint64{top + 8: freedText + 0x20, top + 16: freedNode, freedNode + 8: freedPage},
			"do_free_init of kworker[7]"},
		"in hand by its address":          {map[mem.Virt]uint64{top + 8: freedText + 0x20, top + 16: freedPage}, "do_free_init of kworker[7]"},
		"in hand of one who frees none":   {map[mem.Virt]uint64{top + 8: freedText + 0x120, top + 16: freedPage}, ""},
		"below the stack's end":           {map[mem.Virt]uint64{top - 16: freedText + 0x20, top - 8: freedPage}, ""},
		"the start of a function is none": {map[mem.Virt]uint64{top + 8: freedText, top + 16: freedPage}, ""},
		"an address within it":            {map[mem.Virt]uint64{top + 8: freedText + 0x20, top + 16: freedPage + 0x10}, ""},
		"one that runs, above what is known of its stack": {map[mem.Virt]uint64{freedThread + 8: 7<<32 | 1, top - 16: freedText + 0x20, top - 8: freedPage},
			"do_free_init of kworker[7]"},
	} {
		t.Run(name, func(t *testing.T) {
			c := freedCollector(t, tt.words)
			got, err := c.freeing([]mappedRange{{Start: freedPage, Size: mem.PageSize}})
			if err != nil {
				t.Fatal(err)
			}
			if (len(got) > 0) != (tt.by != "") || len(got) > 0 && got[0].Kind != tt.by {
				t.Errorf("freed by %+v, want %q", got, tt.by)
			}
		})
	}
	c := freedCollector(t, map[mem.Virt]uint64{freedList: freedNode, freedNode: freedNode})
	if _, err := c.freeing([]mappedRange{{Start: freedPage, Size: mem.PageSize}}); err == nil {
		t.Error("a list that loops was read to its end")
	}
}

// TestFreedMemoryIsNoFinding: memory that is being freed is not measured, and hides
// nothing else: a page beside it that nobody frees is a finding.
func TestFreedMemoryIsNoFinding(t *testing.T) {
	for name, tt := range map[string]struct {
		freeing  []owner
		findings int
	}{
		"freed": {[]owner{{"init_free_list", 0x1000, 0x1000}}, 0}, "not freed": {nil, 1}, "another one freed": {[]owner{{"init_free_list", 0x8000, 0x1000}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := json.Marshal(pageTablesData{Executable: []mappedRange{{Start: 0x1000, Size: 0x1000}}, Freeing: tt.freeing})
			if err != nil {
				t.Fatal(err)
			}
			var out measure.Check
			err = judgePageTables(&judging{}, raw, &out)
			if len(out.Findings) != tt.findings || (err != nil) != (tt.freeing != nil) {
				t.Errorf("%v, findings %+v", err, out.Findings)
			}
			if err != nil && !strings.Contains(err.Error(), "init_free_list") {
				t.Errorf("%v does not say who frees it", err)
			}
		})
	}
}

// TestDumpIsNotWaitedFor: nothing changes in what stands still.
func TestDumpIsNotWaitedFor(t *testing.T) {
	c := freedCollector(t, nil)
	c.still, c.patience = true, codePatience
	if g := (grace{}); c.wait(&g) {
		t.Error("waited for a dump")
	}
	g := grace{}
	if c.pass(&g); g.looks > 1 {
		t.Errorf("looked %d times at a dump", g.looks)
	}
}

// TestBooting: a kernel is booting while it says so, its first process has run no
// program and no CPU does.
func TestBooting(t *testing.T) {
	first := map[mem.Virt]uint64{freedState: 1, freedThread + 8: 1 << 32, freedThread + 0x60: 0}
	with := func(at mem.Virt, value uint64) map[mem.Virt]uint64 {
		words := maps.Clone(first)
		words[at] = value
		return words
	}
	kernelMode, userMode := mem.Registers{CR0: mem.CR0PG}, mem.Registers{CR0: mem.CR0PG, CPL: 3}
	for name, tt := range map[string]struct {
		words map[mem.Virt]uint64
		cpu   mem.Registers
		want  bool
	}{
		"booting":                      {first, kernelMode, true},
		"before there is a process":    {map[mem.Virt]uint64{freedState: 0, freedTask + 0x30: freedTask + 0x30}, kernelMode, true},
		"it runs":                      {with(freedState, 2), kernelMode, false},
		"its first process has memory": {with(freedThread+0x60, freedBase), kernelMode, false},
		"the first is another":         {with(freedThread+8, 7<<32), kernelMode, false},
		"a CPU is in a program":        {first, userMode, false},
	} {
		if got := freedCollector(t, tt.words).profile.Booting([]mem.Registers{tt.cpu}); got != tt.want {
			t.Errorf("%s: booting %v", name, got)
		}
	}
}
