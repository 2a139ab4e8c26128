package graph

import (
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// notCalled are variables that text calls through and that hold no function of the
// kernel's, with the reason.
var notCalled = map[string]string{
	"hv_hypercall_pg":        "a page that Hyper-V fills (arch/x86/hyperv/hv_init.c)",
	"relocated_restore_code": "a copy of code, in a page for the end of hibernation (arch/x86/power/hibernate.c)",
}

// calledRoot is a variable that the kernel's text calls through, with a type made
// of what the text loads.
type calledRoot struct {
	name string
	at   uint64
	typ  *Type
}

// called queues the variables that the kernel's text calls through, besides those
// of roots, whose declarations say more, and tracepoints.
func (w *walker) called() {
	found := w.schema.calledRoots(w.profile)
	if len(found) == 0 {
		w.why["variables that the kernel's text calls through: none was found in it"]++
	}
	for _, r := range found {
		// An empty list leads to its own head.
		if value, err := w.u64(r.at); err == nil && value != r.at && value != r.at-8 {
			w.root(r.name, r.at, r.typ)
		}
	}
}

func (s *Schema) calledRoots(p *kernel.Profile) []calledRoot {
	all := p.Called()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.called != nil {
		return s.called
	}
	s.called = []calledRoot{}
	declared := make(map[string]bool)
	for _, r := range roots {
		declared[r.symbol] = true
	}
	for _, c := range all {
		name, offset, ok := p.Lookup(c.At)
		if !ok || declared[name] || notCalled[name] != "" || strings.HasPrefix(name, "__tracepoint_") {
			continue
		}
		if n := len(s.called); n == 0 || s.called[n-1].at != uint64(c.At) {
			if offset != 0 {
				name = fmt.Sprintf("%s+%#x", name, offset)
			}
			s.called = append(s.called, calledRoot{name, uint64(c.At), &Type{Name: name, Size: 8, schema: s, compiled: true, end: 8}})
		}
		s.addCalled(s.called[len(s.called)-1].typ, c)
	}
	return s.called
}

// addCalled adds to a variable's type what text loads from it. What comes for one
// variable is in the order of offsets.
func (s *Schema) addCalled(t *Type, c kernel.Called) {
	slot := field{kind: code, boot: true, number: s.numbers.Add(1) - 1}
	if !c.Object {
		t.fields = append(t.fields, slot)
		t.pointers, t.codes = t.pointers+1, t.codes+1
		return
	}
	last := len(t.fields) - 1
	if last < 0 || t.fields[last].kind != object {
		to := &Type{Name: "what " + t.Name + " points to", schema: s, compiled: true, low: uint64(c.Offset)}
		t.fields = append(t.fields, field{kind: object, to: to, number: s.numbers.Add(1) - 1})
		last++
	}
	to := t.fields[last].to
	slot.at, slot.name = c.Offset, fmt.Sprintf("+%#x", c.Offset)
	to.fields = append(to.fields, slot)
	to.pointers, to.codes = to.pointers+1, to.codes+1
	to.end = uint64(c.Offset) + 8
	to.Size = to.end
}

// freedAfterBoot reports whether an address is in memory of the image that the
// kernel gives away when it has booted, and maps without the right to execute it.
func (m *areas) freedAfterBoot(at uint64) bool { return at >= m.initStart && at < m.initEnd }
