package check

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
)

// traceCalls judges the static calls of tracepoints, by the files where there are
// any, else by the target's own symbols. Those of unsettled modules, which come or
// go, are left out: moduleTracepoints names them.
func (j *judging) traceCalls(facts *traceCallFacts, unsettled []string, out *measure.Check) error {
	if facts.Unread != "" {
		return errors.New("static calls of tracepoints were not read: " + facts.Unread)
	}
	if j.code.symbols != nil {
		if want := j.kernelTracepoints(); facts.Kernel != want {
			return fmt.Errorf("static calls of %d tracepoints were read, and the image has %d", facts.Kernel, want)
		}
	}
	read := make(map[string]uint64) // of each module
	for i := range facts.Calls {
		t := &facts.Calls[i]
		if t.Module != "" && slices.Contains(unsettled, t.Module) {
			continue
		}
		read[t.Module]++
		if f := j.traceCall(t); f != nil {
			out.Findings = append(out.Findings, *f)
		}
	}
	if len(facts.Open) > 0 {
		return errors.New("tracepoints that do not go where they should, while probes are registered all the time: " + strings.Join(facts.Open, ", "))
	}
	return j.allTraceCalls(read, unsettled)
}

// allTraceCalls is an error where fewer calls were read than modules' files have.
func (j *judging) allTraceCalls(read map[string]uint64, unsettled []string) error {
	want, err := j.expected()
	for i := range j.code.modules {
		m := &j.code.modules[i]
		if err != nil || !m.Live || want.modules[m.Name] == nil || slices.Contains(unsettled, m.Name) {
			continue
		}
		if n := want.modules[m.Name].Tracepoints().Count; read[m.Name] != n {
			return fmt.Errorf("static calls of %d tracepoints of module %s were read, and its file has %d", read[m.Name], m.Name, n)
		}
	}
	return nil
}

// kernelTracepoints counts the tracepoints with static calls that the image has.
func (j *judging) kernelTracepoints() int {
	n := 0
	for _, s := range j.code.symbols.WithPrefix(traceKeyPrefix) {
		name := strings.TrimPrefix(s.Name, traceKeyPrefix)
		_, ok1 := j.code.symbols.Address(tracepointPrefix + name)
		_, ok2 := j.code.symbols.Address(iteratorPrefix + name)
		if ok1 && ok2 {
			n++
		}
	}
	return n
}

// traceCall judges one call; nil if it is right.
func (j *judging) traceCall(t *traceCall) *measure.Finding {
	address, known := j.traceSymbols(t)
	iterator := t.Iterator
	if known {
		at, ok := address(tracepointPrefix)
		key, ok2 := address(traceKeyPrefix)
		if iterator, _ = address(iteratorPrefix); !ok || !ok2 || at != t.At || key != t.Key {
			return &measure.Finding{Address: t.At.String(), Symbol: t.path(), Observed: t.Key.String(), Expected: key.String(),
				Explanation: "the static call of a tracepoint is not the one of its file"}
		}
	} else if iterator == 0 {
		return nil // moduleTracepoints says that there is no file to know it by
	}
	problem := t.follows(iterator)
	if problem == "" {
		return nil
	}
	expected := iterator.String()
	if len(t.Probes) == 1 {
		expected += " or " + t.Probes[0].String()
	}
	f := j.finding(pointer{Path: t.path(), At: t.Key, Value: t.Call, Symbol: t.Symbol}, expected, problem)
	return &f
}

// traceSymbols returns where the file has the symbols of a tracepoint, by what
// comes before its name. It is not known without the file.
func (j *judging) traceSymbols(t *traceCall) (at func(prefix string) (address, bool), known bool) {
	if t.Module == "" {
		return func(prefix string) (address, bool) {
			at, ok := j.code.symbols.Address(prefix + t.Name)
			return address(at), ok
		}, j.code.symbols != nil
	}
	text, err := j.expected()
	if err != nil || text.modules[t.Module] == nil {
		return nil, false
	}
	m := text.modules[t.Module]
	name, offset, ok := m.Lookup(uint64(t.At))
	name, ok2 := strings.CutPrefix(name, tracepointPrefix)
	return func(prefix string) (address, bool) {
		at, found := m.Address(prefix + name)
		return address(at), found && ok && ok2 && offset == 0
	}, true
}

func (t *traceCall) path() string {
	if t.Module != "" {
		return t.Module + ":" + traceKeyPrefix + t.Name
	}
	return traceKeyPrefix + t.Name
}
