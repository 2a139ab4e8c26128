package check

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// A task that only memory shows is waited for as long as it is being made, and is
// neither a finding nor a pass if that does not end. One that is made, and on no list
// then, is a finding, and so is one that a CPU or a queue shows.
func TestTaskBeingMade(t *testing.T) {
	const state, soon, never = freedTask + 0x68, time.Second, time.Hour
	running := taskFact{At: freedTask, PID: 7, TGID: 7, Shown: "CPUs"}
	made := taskFact{At: freedTask, PID: 7, TGID: 7, Shown: inMemoryView}
	for name, tt := range map[string]struct {
		fact     taskFact
		new      uint64
		born     time.Duration // when it is made
		listed   bool          // then
		compared bool          // once more
		unborn   int
		left     int
	}{
		"made soon":                        {made, taskNew, soon, true, true, 0, 0},
		"made soon and hidden":             {made, taskNew, soon, false, true, 0, 1},
		"made while it is compared":        {made, taskNew, unbornPatience + time.Second, false, true, 1, 0},
		"never made":                       {made, taskNew, never, false, true, 1, 0},
		"hidden":                           {made, 1, 0, false, false, 0, 1},
		"new by its word, and on a CPU":    {running, taskNew, never, false, false, 0, 1},
		"new and more, which none ever is": {made, taskNew | 1, never, false, false, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				memory := make(memtest.Pages)
				c := freedCollector(t, nil)
				memory.WriteU64(0x30000+511*8, 0x31000|3)
				memory.WriteU64(0x31000+510*8, 0x83)
				c.profile.Space = paging.SpaceAt(&changing{memory, func() {
					value := tt.new
					if time.Since(began) >= tt.born && tt.born > 0 {
						value = 0
					}
					memory.WriteU64(mem.Phys(state-freedBase), value)
				}}, 0x30000, 4)
				compared := false
				unborn, left, err := c.awaitBorn(map[taskFact]bool{tt.fact: true}, func() (map[taskFact]bool, error) {
					compared = true
					time.Sleep(lastingTime)
					other := taskFact{At: freedThread, PID: 8, TGID: 8, Shown: inMemoryView} // made meanwhile
					if tt.listed {
						return map[taskFact]bool{other: true}, nil
					}
					return map[taskFact]bool{other: true, tt.fact: true}, nil
				})
				if err != nil || compared != tt.compared || len(unborn) != tt.unborn || len(left) != tt.left {
					t.Errorf("compared %v: unborn %+v, left %+v, %v", compared, unborn, left, err)
				}
			})
		})
	}
}

// A copy that a task has made of itself is being made: it has all that the listed one
// has. One with a number of its own is not, nor one of which others tell.
func TestTaskThatIsACopy(t *testing.T) {
	const start = 0x78
	for name, tt := range map[string]struct {
		fact    taskFact
		started uint64
		unborn  bool
	}{
		"a copy":                     {taskFact{At: freedNode, PID: 7, Shown: inMemoryView}, 1234, true},
		"of one that started before": {taskFact{At: freedNode, PID: 7, Shown: inMemoryView}, 1233, false},
		"with its own number":        {taskFact{At: freedNode, PID: 8, Shown: inMemoryView}, 1234, false},
		"with its own process":       {taskFact{At: freedNode, PID: 7, TGID: 8, Shown: inMemoryView}, 1234, false},
		"the listed one":             {taskFact{At: freedThread, PID: 7, Shown: inMemoryView}, 1234, false},
		"on a CPU":                   {taskFact{At: freedNode, PID: 7, Shown: "CPUs"}, 1234, false},
	} {
		c := freedCollector(t, map[mem.Virt]uint64{freedThread + start: 1234, freedNode + start: tt.started})
		if unborn := c.unborn(tt.fact); unborn != tt.unborn {
			t.Errorf("%s: %v", name, unborn)
		}
	}
}

// What is being made is not measured, and hides nothing else.
func TestJudgesTaskBeingMade(t *testing.T) {
	for findings, unlisted := range [][]taskFact{nil, {{PID: 9, TGID: 9, Comm: "hidden"}}} {
		raw, err := json.Marshal(processesData{Listed: 3, Numbered: 3, Unborn: []taskFact{{PID: 7, TGID: 7, Comm: "made"}}, Unlisted: unlisted})
		if err != nil {
			t.Fatal(err)
		}
		var out measure.Check
		err = judgeProcesses(nil, raw, &out)
		if err == nil || !strings.Contains(err.Error(), "made (pid 7") || len(out.Findings) != findings {
			t.Errorf("%v, findings %+v", err, out.Findings)
		}
	}
}
