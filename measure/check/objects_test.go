package check

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
)

// withObjects adds facts of linux.objects to recorded ones: pointers to the
// kernel's start_kernel and to kvm's first function, as the target names them.
func withObjects(t testing.TB, change func(*objectsData)) *measure.Observations {
	t.Helper()
	obs := recorded(t)
	var modules modulesData
	if err := decode(obs.Item(modulesName).Data, &modules); err != nil {
		t.Fatal(err)
	}
	text := address(0)
	for _, a := range modules.Modules[0].Areas {
		if text == 0 && a.Kind == "text" {
			text = a.Start
		}
	}
	data := objectsData{
		Targets: targetFacts{
			{Path: "super_blocks[0].s_op->statfs", At: 0xff00_0000_0000_1000, Value: modules.Kernel.Start, Start: true, Count: 3},
			{Path: "file_systems->kill_sb", At: 0xff00_0000_0000_2000, Value: text, Start: true, Count: 1},
			{Path: "prog_idr[0].aux->ops->run", At: 0xff00_0000_0000_3000, Value: 0xffff_ffff_c0ff_e000, Count: 1},
		},
		Made:     []madeFact{{"bpf", 0xffff_ffff_c0ff_e000}},
		Programs: []targetFact{{Path: "ptp_insns->bpf_func", At: 0xff00_0000_0000_4000, Value: 0xffff_ffff_c0aa_0010, Count: 1}},
		Packs:    []owner{{"bpf programs", 0xffff_ffff_c0a0_0000, 2 << 20}},
	}
	if change != nil {
		change(&data)
	}
	raw, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	obs.Items = append(obs.Items, measure.Observation{Check: objectsName, Coverage: measure.Coverage{Objects: 90, Total: 100}, Data: raw})
	return obs
}

func TestAcceptsObjects(t *testing.T) {
	c := judgeOne(t, withObjects(t, nil), objectsName)
	if c.Outcome != measure.Pass {
		t.Errorf("%s %s %+v", c.Outcome, c.Reason, c.Findings)
	}
	if !strings.Contains(c.Reason, "reached 90 of 100") {
		t.Errorf("does not say how far it came: %s", c.Reason)
	}
}

func TestDetectsObjectHooks(t *testing.T) {
	tests := map[string]struct {
		change func(*objectsData)
		path   string
		says   string
	}{
		"into the middle of a function": {
			func(d *objectsData) {
				d.Targets[0].Value += 5
				d.Targets[0].Start, d.Targets[0].Symbol = false, "f+0x5"
			},
			"super_blocks[0].s_op->statfs", "not at the start of a function; 2 other pointers",
		},
		"into the middle of a module's function": {
			func(d *objectsData) {
				d.Targets[1].Value += 5
				d.Targets[1].Start, d.Targets[1].Symbol = false, "f+0x5"
			},
			"file_systems->kill_sb", "not at the start of a function",
		},
		"to data": {
			func(d *objectsData) { d.Targets[0].Value = 0xff00_0000_0000_5000; d.Targets[0].Start = false },
			"super_blocks[0].s_op->statfs", "outside of the text",
		},
		"to user space": {
			func(d *objectsData) { d.Targets[0].Value = 0x40_0000; d.Targets[0].Start = false },
			"super_blocks[0].s_op->statfs", "outside of the text",
		},
		"to made code that nothing accounts for": {
			func(d *objectsData) { d.Made = nil },
			"prog_idr[0].aux->ops->run", "outside of the text",
		},
		"into the middle of made code": {
			func(d *objectsData) { d.Targets[2].Value += 8 },
			"prog_idr[0].aux->ops->run", "outside of the text",
		},
		"an account that claims the kernel's text": {
			func(d *objectsData) {
				d.Targets[0].Value += 5
				d.Targets[0].Start, d.Targets[0].Symbol = false, "f+0x5"
				d.Made = append(d.Made, madeFact{"bpf", d.Targets[0].Value})
			},
			"super_blocks[0].s_op->statfs", "not at the start of a function",
		},
		"a table of functions in the kernel's text": {
			func(d *objectsData) {
				d.Tables = []targetFact{{Path: "super_blocks[0].s_op", At: 0xff00_0000_0000_6000, Value: d.Targets[0].Value + 8, Symbol: "f+0x8", Count: 2}}
			},
			"super_blocks[0].s_op", "a table of functions leads into text; 1 other pointers",
		},
		"a table of functions in a module's text": {
			func(d *objectsData) {
				d.Tables = []targetFact{{Path: "super_blocks[0].s_op", At: 0xff00_0000_0000_6000, Value: d.Targets[1].Value, Start: true, Count: 1}}
			},
			"super_blocks[0].s_op", "a table of functions leads into text",
		},
		"a table of functions in a process": {
			func(d *objectsData) {
				d.Tables = []targetFact{{Path: "super_blocks[0].s_op", At: 0xff00_0000_0000_6000, Value: 0x40_0000, Count: 1}}
			},
			"super_blocks[0].s_op", "leads to no memory of the kernel",
		},
		"a program outside of programs' memory": {
			func(d *objectsData) { d.Programs[0].Value += 2 << 20 },
			"ptp_insns->bpf_func", "nor is it where the kernel makes such code",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := judgeOne(t, withObjects(t, tt.change), objectsName)
			requireFinding(t, c, tt.path, tt.says)
			if len(c.Findings) != 1 {
				t.Errorf("%d findings for one change", len(c.Findings))
			}
		})
	}
}

// Nothing reached is nothing observed.
func TestObjectsNotObserved(t *testing.T) {
	for name, change := range map[string]func(*objectsData){
		"nothing":         func(d *objectsData) { *d = objectsData{} },
		"to a limit only": func(d *objectsData) { d.Limited = true },
		"accounts unread": func(d *objectsData) { d.Unread = "bpf_kallsyms: list does not link back" },
		"another account": func(d *objectsData) { d.Changing = []string{"kvm"} },
		"a module that is not live": func(d *objectsData) {
			d.Going = []targetFact{{Path: "module kvm.modinfo_attrs->free", At: 0xff00_0000_0000_6000, Value: 5, Count: 1}}
		},
	} {
		if c := judgeOne(t, withObjects(t, change), objectsName); c.Outcome != measure.NotMeasured || c.Reason == "" {
			t.Errorf("%s: %s %s", name, c.Outcome, c.Reason)
		}
	}
}
