package check

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// filesOf gives module files by name.
type filesOf map[string]*kernel.ModuleFile

func (f filesOf) Module(name, _ string) (*kernel.ModuleFile, error) {
	if f[name] == nil {
		return nil, errors.New("no such file")
	}
	return f[name], nil
}

// TestWholeKeyStandsForAll: a region that was accepted as a whole is not where
// anything differs that the judgement went by.
func TestWholeKeyStandsForAll(t *testing.T) {
	type inputs struct {
		kernel        measure.Kernel
		text, modules string
		dynamic       string
		files         filesOf
		check         string
		region        region
	}
	key := func(change func(*inputs)) PageKey {
		in := inputs{
			kernel: measure.Kernel{BuildID: "01", Slide: "0x1000"}, text: `{"patching":{}}`, modules: `{"modules":[]}`,
			files: filesOf{"a": {Digest: [32]byte{1}}}, check: textName,
			region: region{Name: "text", Start: 0x1000, Digests: make([]byte, 64)},
		}
		if change != nil {
			change(&in)
		}
		j := &judging{refs: &References{Modules: in.files}, code: code{modules: []moduleFact{{Name: "a"}}}}
		j.obs = &measure.Observations{Kernel: in.kernel, Items: []measure.Observation{
			{Check: textName, Data: json.RawMessage(in.text)}, {Check: modulesName, Data: json.RawMessage(in.modules)}, {Check: dynamicName, Data: json.RawMessage(in.dynamic)}}}
		return j.wholeKey(in.check, &in.region)
	}
	same := key(nil)
	if key(func(*inputs) {}) != same {
		t.Error("the same inputs give two keys")
	}
	for name, change := range map[string]func(*inputs){
		"another build":           func(in *inputs) { in.kernel.BuildID = "02" },
		"another slide":           func(in *inputs) { in.kernel.Slide = "0x2000" },
		"other facts of text":     func(in *inputs) { in.text = `{"patching":{"kprobes":[]}}` },
		"other modules":           func(in *inputs) { in.modules = `{"modules":null}` },
		"another file":            func(in *inputs) { in.files = filesOf{"a": {Digest: [32]byte{2}}} },
		"other code of BPF":       func(in *inputs) { in.dynamic = `{"images":[]}` },
		"no file":                 func(in *inputs) { in.files = nil },
		"another check":           func(in *inputs) { in.check = moduleTextName },
		"another page":            func(in *inputs) { in.region.Digests[63]++ },
		"one page less":           func(in *inputs) { in.region.Digests = in.region.Digests[:32] },
		"another place":           func(in *inputs) { in.region.Start = 0x2000 },
		"the region of another":   func(in *inputs) { in.region.Name = "a" },
		"facts moved to the next": func(in *inputs) { in.text, in.modules = in.text+in.modules, "" },
	} {
		if key(change) == same {
			t.Errorf("%s: the same key", name)
		}
	}
}

func TestMemoGivesOnce(t *testing.T) {
	var m Memo
	one, other := &kernel.Image{}, &kernel.Image{}
	made := func() *expectedText {
		return &expectedText{env: &kernel.Expected{}}
	}
	a := made()
	m.put(one, Digest{1}, a)
	if m.take(other, Digest{1}) != nil || m.take(one, Digest{2}) != nil {
		t.Error("what was made of something else was given")
	}
	if m.take(one, Digest{1}) != a {
		t.Error("what was kept is not given")
	}
	if m.take(one, Digest{1}) != nil {
		t.Error("two judgements were given the same")
	}
	m.put(one, Digest{3}, &expectedText{err: errNoImage})
	if m.take(one, Digest{3}) != nil {
		t.Error("a failure was kept")
	}
	for i := range byte(3 * maxKeptTexts) {
		m.put(one, Digest{i}, made())
	}
	if len(m.kept) != maxKeptTexts || m.take(one, Digest{3*maxKeptTexts - 1}) == nil || m.take(one, Digest{0}) != nil {
		t.Errorf("%d kept, want the latest %d", len(m.kept), maxKeptTexts)
	}
	var none *Memo
	none.put(one, Digest{1}, a)
	if none.take(one, Digest{1}) != nil {
		t.Error("no memo gave something")
	}
}
