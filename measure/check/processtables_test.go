package check

import (
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// A process that sleeps has a view of all memory in the kernel's half of its tables.
func TestDetectsTablesOfProcesses(t *testing.T) {
	const own, user, root, at = 0x2000, 0x3000, 0x4000, 0xffffffff81000000 // the process's, the kernel's
	const present, accessed, local = 1, 1<<5 | 1, 512 - 240
	for name, tt := range map[string]struct {
		table    uint64
		index    uint64
		entry    uint64
		isolated bool
		foreign  int
	}{
		"the kernel's":                    {own, 256, 0, true, 0},
		"one more":                        {own, 256, 0xe000 | present, false, 1},
		"another":                         {own, 511, 0xe000 | present, false, 1},
		"open to user mode":               {own, 511, 0x6000 | 7, false, 1},
		"one that was used":               {own, 511, 0x6000 | 3 | accessed, false, 0},
		"one less":                        {own, 511, 0, false, 0},
		"its own descriptor table":        {own, local, 0xe000 | present, false, 0},
		"the lower half":                  {own, 255, 0xe000 | present, false, 0},
		"one more for user mode":          {user, 256, 0xe000 | present, true, 1},
		"one more behind a table of one":  {user, 256, 0xe000 | present, false, 0},
		"the lower half, for user mode":   {user, 0, 0xe000 | present, true, 0},
		"descriptor table, for user mode": {user, local, 0xe000 | present, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var m tableMemory
			m.maps(root, 0x6000, own) // where the process's table is for the kernel
			copy(m[own:own+4096], m[root:root+4096])
			binary.LittleEndian.PutUint64(m[tt.table+8*tt.index:], tt.entry)
			space := paging.SpaceAt(&m, root, 4)
			c := &collector{profile: &kernel.Profile{Space: space}, space: space.Cached()}
			task := kernel.Task{PID: 7, TGID: 7, Comm: "sleeper"}
			foreign, err := c.foreignTables([]kernel.TopTable{{Task: task, At: at}}, tt.isolated, make(map[int32]string))
			if err != nil || len(foreign) != tt.foreign {
				t.Errorf("%v, %+v", err, foreign)
			}
			for f := range foreign {
				if f.Process != 7 || f.Index != int(tt.index) || f.Isolated != (tt.table == user) || f.Unread != "" {
					t.Errorf("%+v", f)
				}
			}
			foreign, err = c.foreignTables([]kernel.TopTable{{Task: task}, {Task: task, At: at + 0x1000}}, tt.isolated, make(map[int32]string))
			if err != nil || len(foreign) != 2 {
				t.Errorf("tables that are nowhere: %v, %+v", err, foreign)
			}
		})
	}
}

// A target can claim millions of processes: what is kept is bounded, and says so.
func TestManyTablesOfProcesses(t *testing.T) {
	var m tableMemory
	m.maps(0x4000, 0x6000, 0x2000)
	space := paging.SpaceAt(&m, 0x4000, 4)
	c := &collector{profile: &kernel.Profile{Space: space}, space: space.Cached()}
	tables := make([]kernel.TopTable, 3*maxForeignTables)
	for i := range tables {
		tables[i].Task.TGID = int32(i)
	}
	facts, err := c.foreignTables(tables, false, make(map[int32]string))
	if err != nil || len(facts) != maxForeignTables+1 {
		t.Errorf("%v, %d facts", err, len(facts))
	}
	told := 0
	for f := range facts {
		if f.Process == others && f.Unread != "" {
			told++
		}
	}
	if told != 1 {
		t.Errorf("that more were not looked at is told %d times", told)
	}
}

func TestTablesOfProcessesJudged(t *testing.T) {
	for name, tt := range map[string]struct {
		root     processRoot
		findings int
		measured bool
	}{
		"differs":     {processRoot{Process: 7, Index: 256, Have: 7}, 1, true},
		"not read":    {processRoot{Process: 7, Unread: "gone"}, 0, false},
		"of user":     {processRoot{Process: 7, Index: 256, Have: 7, Isolated: true}, 1, true},
		"hostile one": {processRoot{Process: -1, Index: -5, Comm: "\x1b[2J"}, 1, true},
	} {
		raw, err := json.Marshal(pageTablesData{Executable: []mappedRange{{Start: 0x1000, Size: 0x1000}},
			Owners: []owner{{"kernel", 0x1000, 0x1000}}, Processes: []processRoot{tt.root}})
		if err != nil {
			t.Fatal(err)
		}
		var out measure.Check
		if err := judgePageTables(&judging{}, raw, &out); (err == nil) != tt.measured || len(out.Findings) != tt.findings {
			t.Errorf("%s: %v, %+v", name, err, out.Findings)
		}
	}
	// The list of processes is broken: what else is wrong is a finding all the same.
	raw, err := json.Marshal(pageTablesData{Executable: []mappedRange{{Start: 0x1000, Size: 0x1000}}, Unlisted: "the list is broken"})
	if err != nil {
		t.Fatal(err)
	}
	var out measure.Check
	if err := judgePageTables(&judging{}, raw, &out); err == nil || len(out.Findings) != 1 {
		t.Errorf("no list: %v, %+v", err, out.Findings)
	}
}
