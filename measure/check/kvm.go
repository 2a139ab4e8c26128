package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// kvm.ops: the tables through which KVM handles its guests hold function starts
// of the kernel, kvm and the vendor's module, and nothing else: kvm_x86_ops with
// the structures in it, the exit handlers, and the static calls that were made
// from them.
//
// Proves: that a guest's exits go to KVM's own code. Trusts: modules.text for
// that code and for the call sites that static calls patch; the layout comes
// from the target's BTF. Operations and the static calls made from them are two
// views of the same thing and must agree. With the modules' files, the exit
// handlers and kvm_amd's operations must be those the file initialises them to;
// kvm_intel's depend on what the processor can do, so there an attacker can
// still exchange an operation and its static call, both, for another function
// that lies in approved text.
const kvmName = "kvm.ops"

func kvmCheck() check {
	return check{name: kvmName, plan: planKVM, collect: collectKVM, judge: judgeKVM}
}

// kvmData are the facts of kvm.ops.
type kvmData struct {
	Vendor string `json:"vendor"` // "kvm_amd", "kvm_intel", or nothing: the target is no hypervisor
	// State of the vendor's module at the pause: 0 is live (enum module_state,
	// include/linux/module.h).
	State    uint32     `json:"state,omitempty"`
	Tables   []kvmTable `json:"tables"`
	Pointers []pointer  `json:"pointers"` // all that are set
}

// kvmTable says where one of the tables lies.
type kvmTable struct {
	Name string  `json:"name"`
	At   address `json:"at"`
	Size uint64  `json:"size"` // bytes
	// Fields names the operations it has, set or not; none for an array.
	Fields []string `json:"fields,omitempty"`
	// Untyped says that it is a structure of which nothing tells what it holds:
	// each word of it that is not zero is among the pointers.
	Untyped bool `json:"untyped,omitempty"`
}

// staticCallPrefix starts the path of a static call made from an operation.
const staticCallPrefix = "static call kvm_x86_"

// ofProcessor reports whether a module is KVM's for one kind of processor.
func ofProcessor(module string) bool { return module == "kvm_amd" || module == "kvm_intel" }

var errNoKVM = errors.New("the target is no KVM hypervisor: neither kvm_amd nor kvm_intel is loaded")

// opsField is a function pointer's place in a structure.
type opsField struct {
	name   string
	offset uint64
}

// kvmRange is memory that holds code pointers.
type kvmRange struct {
	name   string
	at     mem.Virt
	size   uint64
	fields []opsField // nil: an array of pointers throughout, or untyped

	untyped bool
}

func planKVM(c *collector) error {
	ranges, err := c.kvmRanges()
	if errors.Is(err, errNoKVM) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if err := c.want(r.at, r.size); err != nil {
			return err
		}
	}
	c.kvm = ranges
	state, name, err := c.kvmModule()
	return errors.Join(err, c.want(state.at, state.size), c.want(name.at, name.size))
}

// kvmModule says where the state and the name of the vendor's module are: both
// are read together with the tables, which its start fills and its end empties.
func (c *collector) kvmModule() (state, name kvmRange, err error) {
	vendor, err := c.kvmVendor()
	if err != nil {
		return state, name, err
	}
	m, err := c.module(vendor)
	if err != nil {
		return state, name, err
	}
	stateAt, err1 := c.profile.Types.Offset("module", "state")
	nameAt, err2 := c.profile.Types.Offset("module", "name")
	state = kvmRange{name: vendor, at: m.At + mem.Virt(stateAt), size: 4}
	name = kvmRange{name: vendor, at: m.At + mem.Virt(nameAt), size: uint64(len(vendor)) + 1}
	return state, name, errors.Join(err1, err2)
}

// kvmState is the state of the vendor's module at the pause.
func (c *collector) kvmState() (uint32, error) {
	state, name, err := c.kvmModule()
	if err != nil {
		return 0, err
	}
	word, err1 := c.wanted(state.at, state.size)
	text, err2 := c.wanted(name.at, name.size)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("struct module of %s: %w", name.name, err)
	}
	if string(text) != name.name+"\x00" {
		return 0, fmt.Errorf("%s was unloaded while the scan ran", name.name)
	}
	return binary.LittleEndian.Uint32(word), nil
}

func (c *collector) kvmVendor() (string, error) {
	for _, name := range []string{"kvm_amd", "kvm_intel"} {
		if m, err := c.module(name); err == nil && !c.dormant[m.At] {
			return name, nil
		}
	}
	if c.modulesErr != nil {
		return "", c.modulesErr
	}
	return "", errNoKVM
}

// kvmRanges finds the tables.
func (c *collector) kvmRanges() ([]kvmRange, error) {
	vendor, err := c.kvmVendor()
	if err != nil {
		return nil, err
	}
	kvm, err := c.module("kvm")
	if err != nil {
		return nil, err
	}
	ranges, err := c.kvmOperations(kvm, vendor)
	if err != nil {
		return nil, err
	}
	handlers := map[string]string{"kvm_amd": "svm_exit_handlers", "kvm_intel": "kvm_vmx_exit_handlers"}[vendor]
	at, size, err := c.moduleSymbol(vendor, handlers)
	if err != nil {
		return nil, err
	}
	if size == 0 || size%8 != 0 || size > maxKVMTable {
		return nil, fmt.Errorf("%w: %s of %d bytes", kernel.ErrModule, handlers, size)
	}
	ranges = append(ranges, kvmRange{name: handlers, at: at, size: size})
	calls, err := c.staticCalls(kvm)
	return append(ranges, calls...), err
}

// maxKVMTable bounds a table of KVM, in bytes.
const maxKVMTable = 1 << 16

// kvmOperations finds the structures of operations through the types of kvm or,
// where the kernel keeps no types of modules, by their symbols.
func (c *collector) kvmOperations(kvm *kernel.LoadedModule, vendor string) ([]kvmRange, error) {
	if _, typed := c.profile.Symbol("btf_modules"); !typed {
		return c.untypedOperations(vendor)
	}
	types, err := c.profile.ModuleTypes(kvm)
	if err != nil {
		return nil, err
	}
	var ranges []kvmRange
	for _, name := range []string{"kvm_x86_ops", "kvm_pmu_ops"} {
		at, _, err := c.moduleSymbol("kvm", name)
		if err != nil {
			return nil, err
		}
		layout, err := types.Struct(name)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, kvmRange{name: name, at: at, size: uint64(layout.Size), fields: functionPointers(layout)})
	}
	nested, err := c.nestedOps(types, ranges[0].at)
	if err != nil {
		return nil, err
	}
	return append(ranges, nested...), nil
}

// untypedOperations finds the structures of operations in kernels whose modules
// have no types (before 5.11). There the vendor's operations of the PMU and of
// nested virtualization are not copied.
func (c *collector) untypedOperations(vendor string) ([]kvmRange, error) {
	cpu := map[string][2]string{"kvm_amd": {"amd_pmu_ops", "svm_nested_ops"}, "kvm_intel": {"intel_pmu_ops", "vmx_nested_ops"}}[vendor]
	var ranges []kvmRange
	for _, of := range []struct{ name, module, symbol string }{
		{"kvm_x86_ops", "kvm", "kvm_x86_ops"}, {"kvm_pmu_ops", vendor, cpu[0]}, {"kvm_x86_nested_ops", vendor, cpu[1]},
	} {
		at, size, err := c.moduleSymbol(of.module, of.symbol)
		if err != nil {
			return nil, err
		}
		if size == 0 || size > maxKVMTable {
			return nil, fmt.Errorf("%w: %s of %d bytes", kernel.ErrModule, of.symbol, size)
		}
		ranges = append(ranges, kvmRange{name: of.name, at: at, size: size, untyped: true})
	}
	return ranges, nil
}

// nestedOps finds the operations of nested virtualization, which kvm_x86_ops
// points to.
func (c *collector) nestedOps(types *kernel.Types, ops mem.Virt) ([]kvmRange, error) {
	field, err := types.Offset("kvm_x86_ops", "nested_ops")
	if err != nil {
		return nil, nil // before 5.8
	}
	layout, err := types.Struct("kvm_x86_nested_ops")
	if err != nil {
		return nil, err
	}
	at, err := c.space.U64(ops + mem.Virt(field))
	if err != nil || at == 0 {
		return nil, err
	}
	return []kvmRange{{name: "kvm_x86_nested_ops", at: mem.Virt(at), size: uint64(layout.Size), fields: functionPointers(layout)}}, nil
}

// staticCalls finds the keys of KVM's static calls: struct static_call_key
// begins with the function it calls (include/linux/static_call_types.h).
func (c *collector) staticCalls(kvm *kernel.LoadedModule) ([]kvmRange, error) {
	symbols, err := c.moduleSymbols(kvm)
	if err != nil {
		return nil, err
	}
	var out []kvmRange
	const prefix = "__SCK__kvm_x86_"
	for _, s := range symbols.WithPrefix(prefix) {
		if kvm.Holds(mem.Virt(s.Addr)) {
			out = append(out, kvmRange{name: staticCallPrefix + strings.TrimPrefix(s.Name, prefix), at: mem.Virt(s.Addr), size: 8})
		}
	}
	return out, nil
}

// functionPointers lists the function pointers in a structure, those in nested
// structures included, by path.
func functionPointers(s *btf.Struct) []opsField {
	var out []opsField
	var visit func(members []btf.Member, base uint64, prefix string, depth int)
	visit = func(members []btf.Member, base uint64, prefix string, depth int) {
		for _, m := range members {
			at, name := base+uint64(m.Offset.Bytes()), prefix+m.Name
			switch t := btf.UnderlyingType(m.Type).(type) {
			case *btf.Pointer:
				if _, ok := btf.UnderlyingType(t.Target).(*btf.FuncProto); ok {
					out = append(out, opsField{name, at})
				}
			case *btf.Struct:
				if depth < 8 {
					visit(t.Members, at, name+".", depth+1)
				}
			}
		}
	}
	visit(s.Members, 0, "", 0)
	return out
}

func collectKVM(c *collector) (any, measure.Coverage, error) {
	vendor, err := c.kvmVendor()
	if errors.Is(err, errNoKVM) {
		return kvmData{}, measure.Coverage{}, nil
	}
	if err != nil {
		return nil, measure.Coverage{}, err
	}
	data := kvmData{Vendor: vendor}
	if data.State, err = c.kvmState(); err != nil {
		return nil, measure.Coverage{}, err
	}
	var coverage measure.Coverage
	for _, r := range c.kvm {
		raw, err := c.wanted(r.at, r.size)
		if err != nil {
			return nil, coverage, fmt.Errorf("%s: %w", r.name, err)
		}
		found := c.kvmPointers(r, raw)
		data.Pointers = append(data.Pointers, found...)
		if !strings.HasPrefix(r.name, staticCallPrefix) {
			table := kvmTable{Name: r.name, At: address(r.at), Size: r.size, Untyped: r.untyped}
			for _, f := range r.fields {
				table.Fields = append(table.Fields, f.name)
			}
			data.Tables = append(data.Tables, table)
		}
		coverage.Bytes += int64(r.size)
		coverage.Total += int64(r.count())
	}
	coverage.Objects = int64(len(data.Pointers))
	return data, coverage, nil
}

// count is how many pointers the range has room for.
func (r kvmRange) count() int {
	if r.fields == nil {
		return int(r.size / 8)
	}
	return len(r.fields)
}

// kvmPointers reads the pointers of a range that are set.
func (c *collector) kvmPointers(r kvmRange, raw []byte) []pointer {
	fields := r.fields
	if fields == nil {
		for i := range r.size / 8 {
			name := fmt.Sprintf("[%#x]", i)
			if r.size == 8 {
				name = ""
			}
			fields = append(fields, opsField{name, i * 8})
		}
	}
	var out []pointer
	for _, f := range fields {
		cur := bin.Little(raw)
		cur.Seek(int(min(f.offset, 1<<30)))
		value := cur.U64()
		if value == 0 || cur.Err() != nil {
			continue
		}
		path := r.name + f.name
		if r.fields != nil {
			path = r.name + "." + f.name
		}
		out = append(out, c.pointer(path, r.at+mem.Virt(f.offset), mem.Virt(value)))
	}
	return out
}
