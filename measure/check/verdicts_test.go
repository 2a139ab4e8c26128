package check

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// TestVerdictsAreOfTheSame: a check that passed is judged again where anything
// differs that its judge goes by, and only there.
func TestVerdictsAreOfTheSame(t *testing.T) {
	type inputs struct {
		image    *kernel.Image
		kernel   measure.Kernel
		items    map[string]string
		coverage measure.Coverage
		files    ModuleSource
		memo     bool
	}
	image := &kernel.Image{Symbols: kernel.NewSymbols(nil)}
	shared := &Memo{}
	judged := 0
	ch := check{name: idtName, memo: true, judge: func(j *judging, data json.RawMessage, out *measure.Check) error {
		judged++
		out.Reason, out.Notes = "remark", []measure.Finding{{Symbol: "note"}}
		return nil
	}}
	run := func(change func(*inputs)) measure.Check {
		in := inputs{
			image: image, kernel: measure.Kernel{BuildID: "01", Slide: "0x1000"}, memo: true,
			items: map[string]string{idtName: "1", textName: "{}", moduleTextName: "{}", dynamicName: "{}",
				modulesName: `{"kernel":{"start":"0x1000","end":"0x2000"},"modules":[{"name":"a"}]}`, gdtName: "1"},
			files: filesOf{"a": {Digest: [32]byte{1}}},
		}
		if change != nil {
			change(&in)
		}
		obs := &measure.Observations{Kernel: in.kernel}
		for _, name := range Names() {
			if data, ok := in.items[name]; ok {
				obs.Items = append(obs.Items, measure.Observation{Check: name, Data: json.RawMessage(data), Coverage: in.coverage})
			}
		}
		refs := &References{Images: imageOf{in.image}, Modules: in.files}
		if in.memo {
			refs.Memo = shared
		}
		return newJudging(obs, refs).check(ch)
	}
	first := run(nil)
	if diff := cmp.Diff(first, run(nil)); diff != "" || judged != 1 || first.Outcome != measure.Pass {
		t.Fatalf("judged %d times; %s", judged, diff)
	}
	run(nil).Notes[0].Symbol = "changed by the caller"
	if diff := cmp.Diff(first, run(nil)); diff != "" {
		t.Error(diff)
	}
	for name, change := range map[string]func(*inputs){
		"another image":         func(in *inputs) { in.image = &kernel.Image{Symbols: kernel.NewSymbols(nil)} },
		"another build":         func(in *inputs) { in.kernel.BuildID = "02" },
		"another slide":         func(in *inputs) { in.kernel.Slide = "0x2000" },
		"more CPUs":             func(in *inputs) { in.kernel.CPUs = 2 },
		"other facts":           func(in *inputs) { in.items[idtName] = "2" },
		"other text":            func(in *inputs) { in.items[textName] = `{"cpu":""}` },
		"text of modules":       func(in *inputs) { in.items[moduleTextName] = `{"gone":[]}` },
		"no text of modules":    func(in *inputs) { delete(in.items, moduleTextName) },
		"other code of BPF":     func(in *inputs) { in.items[dynamicName] = `{"images":[]}` },
		"another list":          func(in *inputs) { in.items[modulesName] = `{}` },
		"another file":          func(in *inputs) { in.files = filesOf{"a": {Digest: [32]byte{2}}} },
		"no files":              func(in *inputs) { in.files = nil },
		"other coverage":        func(in *inputs) { in.coverage.Bytes = 1 },
		"nothing that was kept": func(in *inputs) { in.memo = false },
	} {
		before := judged
		if run(change); judged != before+1 {
			t.Errorf("%s: not judged again", name)
		}
	}
	before := judged
	if run(func(in *inputs) { in.items[gdtName] = "2" }); judged != before {
		t.Error("judged again for facts that its judge does not see")
	}
}

type imageOf struct{ image *kernel.Image }

func (o imageOf) Image(string) (*kernel.Image, error) { return o.image, nil }

// TestVerdictsArePasses: what fails, is not measured or needs pages is judged each
// time, and so are checks that go by more than a memo knows.
func TestVerdictsArePasses(t *testing.T) {
	for name, tt := range map[string]struct {
		judge func(*judging, *measure.Check) error
		memo  bool
		times int
	}{
		"passes":       {func(*judging, *measure.Check) error { return nil }, true, 1},
		"without memo": {func(*judging, *measure.Check) error { return nil }, false, 2},
		"fails": {func(_ *judging, out *measure.Check) error {
			out.Findings = []measure.Finding{{}}
			return nil
		}, true, 2},
		"is not measured": {func(*judging, *measure.Check) error { return errors.New("reason") }, true, 2},
		"needs pages": {func(j *judging, _ *measure.Check) error {
			j.page(Digest{1})
			return nil
		}, true, 2},
	} {
		refs := &References{Images: imageOf{&kernel.Image{Symbols: kernel.NewSymbols(nil)}}, Memo: &Memo{}}
		obs := &measure.Observations{Items: []measure.Observation{{Check: idtName, Data: json.RawMessage("1")}}}
		times := 0
		for range 2 {
			newJudging(obs, refs).check(check{name: idtName, memo: tt.memo, judge: func(j *judging, _ json.RawMessage, out *measure.Check) error {
				times++
				return tt.judge(j, out)
			}})
		}
		if times != tt.times {
			t.Errorf("what %s was judged %d times, want %d", name, times, tt.times)
		}
	}
}

// TestVerdictsAreBounded: the latest are kept.
func TestVerdictsAreBounded(t *testing.T) {
	var m Memo
	for i := range byte(2*maxVerdicts - 1) {
		m.keep(verdict{of: Digest{i}})
	}
	var out measure.Check
	if len(m.verdicts) != maxVerdicts || !m.verdict(nil, Digest{2*maxVerdicts - 2}, &out) || m.verdict(nil, Digest{0}, &out) {
		t.Errorf("%d kept, want the latest %d", len(m.verdicts), maxVerdicts)
	}
}

// TestJudgesSeeSharedItems: a judge sees no facts that a kept verdict does not
// stand for.
func TestJudgesSeeSharedItems(t *testing.T) {
	obs := &measure.Observations{}
	for _, name := range Names() {
		obs.Items = append(obs.Items, measure.Observation{Check: name})
	}
	j := newJudging(obs, &References{})
	for _, name := range Names() {
		want := name == textName || name == dynamicName || name == modulesName || name == moduleTextName
		if (j.obs.Item(name) != nil) != want {
			t.Errorf("%s: seen by all judges: %v", name, !want)
		}
	}
}
