//go:build lab

package check_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// TestModuleLayout holds where a module's sections lie by its file against where the
// kernel's loader says that it put them.
func TestModuleLayout(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	s.layoutsFollow(t, s.outside(t).Observations)
}

// listedModule is a module as linux.modules has it.
type listedModule struct {
	Name   string
	Live   bool
	PerCPU string `json:"per_cpu"`
	Areas  []struct {
		Kind  kernel.AreaKind
		Start string
		Size  uint64
	}
	Sections []struct{ Name, At string }
}

func (m *listedModule) loaded(t *testing.T) *kernel.LoadedModule {
	number := func(s string) mem.Virt {
		v, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 64)
		if err != nil && s != "" {
			t.Fatal(err)
		}
		return mem.Virt(v)
	}
	out := &kernel.LoadedModule{Name: m.Name, Live: true, PerCPU: number(m.PerCPU)}
	for _, a := range m.Areas {
		out.Areas = append(out.Areas, kernel.Area{Kind: a.Kind, Start: number(a.Start), Size: a.Size})
	}
	for _, s := range m.Sections {
		out.Sections = append(out.Sections, kernel.ModuleSection{Name: s.Name, Addr: number(s.At)})
	}
	return out
}

// layoutsFollow links each module as it says it lies, and again as its file says. What
// was for its start is freed: it is put where its code was, all of it.
func (s *scanner) layoutsFollow(t *testing.T, obs *measure.Observations) {
	t.Helper()
	slide, err := strconv.ParseUint(strings.TrimPrefix(obs.Kernel.Slide, "0x"), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Modules []listedModule }
	if err := json.Unmarshal(obs.Item("linux.modules").Data, &list); err != nil {
		t.Fatal(err)
	}
	env := kernel.NewExpected(s.image, slide, kernel.PatchFacts{})
	link := func(m *kernel.LoadedModule) *kernel.Text {
		file, err := s.Module(m.Name, "")
		if err != nil {
			t.Fatal(err)
		}
		text, err := env.AddModule(file, m)
		if err != nil {
			t.Error(err)
		}
		return text
	}
	var said []*kernel.Text
	slices.Reverse(list.Modules)
	list.Modules = slices.DeleteFunc(list.Modules, func(m listedModule) bool {
		if !m.Live {
			t.Logf("%s is not live and not compared", m.Name) // others come and go
		}
		return !m.Live
	})
	for _, m := range list.Modules {
		said = append(said, link(m.loaded(t)))
	}
	compared := 0
	for i, m := range list.Modules {
		bare := m.loaded(t)
		bare.Sections = nil
		start, _ := kernel.ModuleArea()
		if at, ok := m.loaded(t).Section(".init.text"); ok { // some text that stays leads there
			start = at
		}
		bare.Areas = append(bare.Areas, kernel.Area{Kind: kernel.AreaInit, Start: start, Size: 64 << 20})
		text := link(bare)
		if text == nil || said[i] == nil {
			continue
		}
		for page := range text.Pages {
			if !bytes.Equal(text.Want(page), said[i].Want(page)) {
				t.Errorf("%s: page %d of its text is another", m.Name, page)
			}
			compared++
		}
		slots, err1 := text.PointerSlots()
		those, err2 := said[i].PointerSlots()
		if err1 != nil || err2 != nil || !reflect.DeepEqual(slots, those) {
			t.Errorf("%s: pointers are elsewhere: %v %v", m.Name, err1, err2)
		}
		data, err1 := text.Rodata()
		known, err2 := said[i].Rodata()
		if err1 != nil || err2 != nil || !slices.EqualFunc(data, known, func(a, b kernel.Section) bool { return a.Name == b.Name && a.At == b.At }) {
			t.Errorf("%s: constant data are elsewhere: %v %v", m.Name, err1, err2)
		}
	}
	t.Logf("%d modules, %d pages of text", len(list.Modules), compared)
	if compared == 0 {
		t.Error("nothing was compared")
	}
}
