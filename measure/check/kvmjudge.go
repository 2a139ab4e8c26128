package check

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
)

func judgeKVM(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data kvmData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if err := errors.Join(j.code.err, j.code.broken); err != nil {
		return err
	}
	if data.Vendor == "" {
		return j.noKVM(out)
	}
	if data.State != 0 {
		// Its start copies the operations, then makes static calls of them; its end
		// takes one back first (kvm_ops_update, kvm_arch_exit, arch/x86/kvm/x86.c).
		return fmt.Errorf("%s was being loaded or unloaded at the pause: its tables are not whole then", data.Vendor)
	}
	if len(data.Pointers) == 0 {
		return errors.New("no pointer was set: KVM is not initialised")
	}
	expected, why := j.kvmExpected(&data)
	if why != nil && slices.ContainsFunc(data.Tables, func(t kvmTable) bool { return t.Untyped }) {
		return fmt.Errorf("the kernel keeps no types of modules, and there is no file to tell which words of their tables are pointers: %w", why)
	}
	if why == nil {
		out.Findings = append(out.Findings, j.kvmPlaces(&data)...)
		out.Findings = append(out.Findings, j.kvmEmptied(&data, expected)...)
	}
	for _, p := range data.Pointers {
		want, known := expected.strict[p.At]
		if expected.initial[p.At] == p.Value {
			continue
		}
		switch problem := j.lands(p); {
		case problem != "":
			out.Findings = append(out.Findings, j.finding(p, j.kvmWant(want, &data), "the pointer "+problem))
		case known && want != p.Value:
			out.Findings = append(out.Findings, j.finding(p, j.kvmWant(want, &data),
				"the pointer goes to another function than the module's file has there"))
		}
	}
	out.Findings = append(out.Findings, j.kvmDisagreements(&data)...)
	if out.Reason = j.trusts(); out.Reason == "" && why != nil {
		out.Reason = "pointers were not compared with the module's file: " + why.Error()
	}
	return nil
}

// noKVM accepts that there is nothing to judge if the modules bear it out.
func (j *judging) noKVM(out *measure.Check) error {
	for _, m := range j.code.modules {
		if ofProcessor(m.Name) && !m.asleep() {
			return errNotObserved
		}
	}
	out.Reason = errNoKVM.Error()
	return nil
}

// kvmWant says in words what a pointer should be.
func (j *judging) kvmWant(want address, data *kvmData) string {
	if want == 0 {
		return "the start of a function of kvm, " + data.Vendor + " or the kernel"
	}
	if j.text != nil && j.text.env != nil {
		if name, offset, ok := j.text.env.Lookup(uint64(want)); ok {
			return fmt.Sprintf("%v (%s)", want, withOffset(name, offset))
		}
	}
	return want.String()
}

// kvmObject names the object of the vendor's file that a table is initialised
// from: kvm_x86_ops and kvm_pmu_ops are copies (kvm_ops_update,
// arch/x86/kvm/x86.c), the exit handlers are constant.
func kvmObject(vendor, table string) string {
	x86, cpu := "svm", "amd"
	if vendor == "kvm_intel" {
		x86, cpu = "vmx", "intel"
	}
	switch table {
	case "kvm_x86_ops":
		return x86 + "_x86_ops"
	case "kvm_pmu_ops":
		return cpu + "_pmu_ops"
	case "kvm_x86_nested_ops":
		return x86 + "_nested_ops"
	}
	return table
}

func isExitHandlers(table string) bool { return strings.HasSuffix(table, "_exit_handlers") }

// kvmPlaces compares where the scan found the tables, by the target's own
// symbols and types, with where the files have them.
func (j *judging) kvmPlaces(data *kvmData) []measure.Finding {
	handlers := map[string]string{"kvm_amd": "svm_exit_handlers", "kvm_intel": "kvm_vmx_exit_handlers"}[data.Vendor]
	nested := kvmObject(data.Vendor, "kvm_x86_nested_ops")
	var out []measure.Finding
	type place struct{ table, module, object string }
	places := []place{
		{"kvm_x86_ops", "kvm", "kvm_x86_ops"}, {"kvm_pmu_ops", "kvm", "kvm_pmu_ops"},
		{"kvm_x86_nested_ops", data.Vendor, nested}, {handlers, data.Vendor, handlers},
	}
	if slices.ContainsFunc(data.Tables, func(t kvmTable) bool { return t.Untyped }) {
		places = append(places, place{"kvm_pmu_ops", data.Vendor, kvmObject(data.Vendor, "kvm_pmu_ops")}) // not copied
	}
	for _, want := range places {
		text := j.text.modules[want.module]
		if text == nil {
			continue
		}
		at, size, ok := text.Place(want.object)
		if !ok {
			continue // this version of the module has none
		}
		f := measure.Finding{Address: address(at).String(), Symbol: want.table, Expected: fmt.Sprintf("%d bytes at %v", size, at),
			Explanation: "the target's symbols or types place a table of KVM elsewhere than the module's file has it"}
		i := slices.IndexFunc(data.Tables, func(t kvmTable) bool { return t.Name == want.table })
		switch {
		case i < 0:
			f.Observed = "nothing"
		case data.Tables[i].At == address(at) && data.Tables[i].Size == size:
			continue
		default:
			f.Observed = fmt.Sprintf("%d bytes at %v", data.Tables[i].Size, data.Tables[i].At)
		}
		out = append(out, f)
	}
	return out
}

// kvmEmptied finds exit handlers and operations that the file sets and the target
// does not. The vendor's module takes back operations that the processor cannot
// do: those may be left out that its code assigns to.
func (j *judging) kvmEmptied(data *kvmData, expected kvmFile) []measure.Finding {
	seen := make(map[address]bool, len(data.Pointers))
	for _, p := range data.Pointers {
		seen[p.At] = true
	}
	var out []measure.Finding
	for _, t := range data.Tables {
		if t.Size > maxKVMTable {
			continue
		}
		for off := uint64(0); off+8 <= t.Size; off += 8 {
			at := t.At + address(off)
			want := expected.strict[at]
			switch {
			case want == 0 || seen[at] || expected.assigned[at]:
			case isExitHandlers(t.Name):
				out = append(out, measure.Finding{Address: at.String(), Symbol: fmt.Sprintf("%s[%#x]", t.Name, off/8),
					Observed: "not set", Expected: j.kvmWant(want, data), Explanation: "the module's file has an exit handler here"})
			case j.lands(pointer{At: at, Value: want}) == "": // else it is no function
				out = append(out, measure.Finding{Address: at.String(), Symbol: fmt.Sprintf("%s+%#x", t.Name, off),
					Observed: "not set", Expected: j.kvmWant(want, data), Explanation: "the module's file has an operation here, and none of its code takes it back"})
			}
		}
	}
	return out
}

// kvmFile is what the vendor's file has for the words of the tables, by their
// addresses, where it is not zero.
type kvmFile struct {
	initial map[address]address
	// strict are those of initial that nothing else may be in place of.
	strict map[address]address
	// assigned are words that the vendor's code may set or clear.
	assigned map[address]bool
}

// kvmExpected returns what the vendor's file has, or why nothing is known.
func (j *judging) kvmExpected(data *kvmData) (out kvmFile, err error) {
	text, err := j.expected()
	if err != nil {
		return out, err
	}
	if err := text.why[data.Vendor]; err != nil {
		return out, err
	}
	var fact *moduleFact
	for i := range j.code.modules {
		if j.code.modules[i].Name == data.Vendor {
			fact = &j.code.modules[i]
		}
	}
	if fact == nil {
		return out, errNoKVM
	}
	file, err := j.refs.Modules.Module(fact.Name, fact.BuildID)
	if err != nil {
		return out, err
	}
	out = kvmFile{initial: make(map[address]address), strict: make(map[address]address), assigned: make(map[address]bool)}
	for _, table := range data.Tables {
		strict := isExitHandlers(table.Name) || data.Vendor == "kvm_amd"
		if table.Size > maxKVMTable || !strict && !table.Untyped {
			continue
		}
		initial, err := text.env.Object(file, fact.loaded(), kvmObject(data.Vendor, table.Name), table.Size)
		if err != nil {
			return out, err
		}
		for off := range file.Stores(kvmObject(data.Vendor, table.Name)) {
			out.assigned[table.At+address(off)] = true
		}
		for i := 0; i+8 <= len(initial); i += 8 {
			if v := address(binary.LittleEndian.Uint64(initial[i:])); v != 0 {
				out.initial[table.At+address(i)] = v
				if strict {
					out.strict[table.At+address(i)] = v
				}
			}
		}
	}
	return out, nil
}

// staticCallTables names the tables that static calls are made from, and what
// follows "kvm_x86_" in the calls' names (kvm_ops_static_call_update,
// arch/x86/kvm/x86.c; kvm_pmu_ops_update, pmu.c; those of nested operations
// came with 7.0).
var staticCallTables = []struct{ prefix, table string }{
	{"", "kvm_x86_ops"}, {"pmu_", "kvm_pmu_ops"}, {"nested_", "kvm_x86_nested_ops"},
}

// kvmDisagreements compares each operation with the static call made from it.
// An operation that is not set has a static call that is not set or returns 0.
func (j *judging) kvmDisagreements(data *kvmData) []measure.Finding {
	ops, fields := make(map[string]pointer), make(map[string]bool)
	for _, p := range data.Pointers {
		ops[p.Path] = p
	}
	for _, t := range data.Tables {
		for _, f := range t.Fields {
			fields[t.Name+"."+f] = true
		}
	}
	var out []measure.Finding
	for _, call := range data.Pointers {
		name, ok := strings.CutPrefix(call.Path, staticCallPrefix)
		if !ok {
			continue
		}
		for _, from := range staticCallTables {
			field, ok := strings.CutPrefix(name, from.prefix)
			path := from.table + "." + field
			if !ok || !fields[path] {
				continue
			}
			op, set := ops[path]
			if op.Value == call.Value || !set && j.name(call) == "__static_call_return0" {
				break
			}
			expected := "not set"
			if set {
				expected = fmt.Sprintf("%v (%s)", op.Value, j.name(op))
			}
			out = append(out, j.finding(call, expected, "the static call and "+path+", which it was made from, disagree: one of them was changed"))
			break
		}
	}
	return out
}
