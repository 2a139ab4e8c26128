package kernel

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Expected is what the text of one running kernel and its modules should hold:
// their files, at the addresses they run at, and what is known about the places
// where the kernel patches itself. It is for one goroutine.
type Expected struct {
	image   *Image
	slide   uint64
	kernel  *Text
	modules []*Text
	facts   PatchFacts
	probes  []Kprobe // those of the facts, but for slots
	// uncleared: see [Expected.ForMadeCode].
	uncleared bool
	// constants are the values of runtime constants that no fact tells, as
	// first seen.
	constants map[string]uint64
	counter   callCounter

	uncompared []uncompared
	orphan     string // see [Expected.Orphan]
	// callsAfterInit says whether tables of static calls of modules are constant after
	// their start; nil if no module showed it.
	callsAfterInit *bool
}

// uncompared is the text of a module that there is nothing to compare with.
type uncompared struct {
	name  string
	start mem.Virt
	size  uint64
}

// Uncompared says where the text of a module is that came while the target was read,
// or is not live: a static call may lead there, and what it finds is not known.
func (e *Expected) Uncompared(name string, start mem.Virt, size uint64) {
	e.uncompared = append(e.uncompared, uncompared{name, start, size})
}

// Orphan names a module whose static calls lead to another one that was unloaded,
// as KVM's do without that for the processor: they stay what they were. Whoever is
// loaded next may come to lie there.
func (e *Expected) Orphan(module string) { e.orphan = module }

// Text is the expected text of a kernel or a module.
type Text struct {
	Name  string   // "" for the kernel
	Start mem.Virt // page-aligned
	Pages int

	obj          *object
	symbols      *Symbols      // at link addresses
	slide        uint64        // from link addresses to where it runs
	want         func() []byte // before patching, made when first needed
	replacements func() []byte

	// Of a module:
	exports map[string]uint64
	linker  *linker
	rodata  Area

	linked      sync.Once // sections
	sections    []Section
	sectionsErr error

	started  sync.Once // start
	start    *Text
	startErr error

	slotted  sync.Once // slots
	slots    []PointerSlot
	slotsErr error
}

// NewExpected returns what img's text holds where it runs slide bytes above
// its link address.
func NewExpected(img *Image, slide uint64, facts PatchFacts) *Expected {
	e := &Expected{image: img, slide: slide, facts: facts, probes: facts.Kprobes, constants: make(map[string]uint64)}
	e.kernel = &Text{
		Start: mem.Virt(img.text.addr + slide), Pages: len(img.text.data) / mem.PageSize,
		obj: &img.object, symbols: img.Symbols, slide: slide,
	}
	if e.counter = e.callCounterOf(); e.counter.size() > 0 {
		e.kernel.obj = img.countingCalls()
	}
	e.kernel.want = sync.OnceValue(func() []byte { return img.moved(img.text, slide) })
	e.kernel.replacements = sync.OnceValue(func() []byte { return img.moved(img.replacements, slide) })
	return e
}

// moved is a copy of a span as it is when the kernel runs slide higher.
func (img *Image) moved(s span, slide uint64) []byte {
	out := append([]byte(nil), s.data...)
	img.relocs.apply(out, s.addr, slide)
	return out
}

// Reset forgets what one judgement learnt, so that another can go by the same
// expectations.
func (e *Expected) Reset() { clear(e.constants) }

// Kernel is the kernel's own text.
func (e *Expected) Kernel() *Text { return e.kernel }

// Lookup names an address in the kernel or in one of the modules.
func (e *Expected) Lookup(addr uint64) (name string, offset uint64, ok bool) {
	t := e.textOf(addr)
	if t == nil {
		t = e.kernel
		for _, m := range e.modules {
			if m.rodata.Contains(mem.Virt(addr)) {
				t = m
			}
		}
	}
	name, start, ok := t.symbols.Lookup(addr - t.slide)
	if t.Name != "" {
		name = t.Name + ":" + name
	}
	return name, addr - t.slide - start, ok
}

// textOf returns the expected text that holds addr, nil if none does.
func (e *Expected) textOf(addr uint64) *Text {
	if e.kernel.holds(addr) {
		return e.kernel
	}
	for _, m := range e.modules {
		if m.holds(addr) {
			return m
		}
	}
	return nil
}

func (t *Text) holds(addr uint64) bool {
	return addr >= uint64(t.Start) && addr-uint64(t.Start) < uint64(t.Pages)*mem.PageSize
}

// Contains reports whether an address is in the text's pages.
func (t *Text) Contains(at mem.Virt) bool { return t.holds(uint64(at)) }

// Lookup names an address by the text's own symbols, data included.
func (t *Text) Lookup(addr uint64) (name string, offset uint64, ok bool) {
	name, start, ok := t.symbols.Lookup(addr - t.slide)
	return name, addr - t.slide - start, ok
}

// Address returns where a symbol of the text's file is.
func (t *Text) Address(name string) (uint64, bool) {
	at, ok := t.symbols.Address(name)
	return at + t.slide, ok
}

// approved reports whether a function of an expected text starts at addr.
func (e *Expected) approved(addr uint64) bool {
	t := e.textOf(addr)
	return t != nil && t.symbols.Start(addr-t.slide)
}

// nameAt returns the name of the symbol that starts at addr in the kernel, not the
// one by which code that runs before relocation calls the same (__pi_ in
// arch/x86/boot/startup, as of 7.2).
func (e *Expected) nameAt(addr uint64) string {
	name, start, ok := e.image.Symbols.Lookup(addr - e.slide)
	if !ok || start != addr-e.slide {
		return ""
	}
	return strings.TrimPrefix(name, "__pi_")
}

// registers in the order of their encoding.
var registers = []string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}

// thunkRegister returns the register that the retpoline thunk at addr branches
// through.
func (e *Expected) thunkRegister(addr uint64) (byte, bool) {
	name, ok := strings.CutPrefix(e.nameAt(addr), "__x86_indirect_thunk_")
	if name == "array" {
		name = "rax" // where the array of thunks starts
	}
	for i, r := range registers {
		if ok && name == r {
			return byte(i), true
		}
	}
	return 0, false
}

// returnThunks are the kernel's return thunks (arch/x86/lib/retpoline.S).
var returnThunks = []string{"__x86_return_thunk", "retbleed_return_thunk", "srso_return_thunk", "srso_alias_return_thunk",
	"call_depth_return_thunk", "its_return_thunk", "warn_thunk_thunk"}

// returnThunk reports whether addr is one of the kernel's return thunks.
func (e *Expected) returnThunk(addr uint64) bool {
	return slices.Contains(returnThunks, e.nameAt(addr))
}

// paravirtFunction returns what pv_ops has for a branch through it: FF, a ModRM
// byte, and its entry's place relative to RIP or, before 5.19, as an address.
func (e *Expected) paravirtFunction(at uint64, code []byte) (uint64, bool) {
	if len(code) < 6 || code[0] != 0xff {
		return 0, false
	}
	entry := at + 6 + uint64(int64(rel32(code[2:])))
	switch {
	case code[1] == 0x15 || code[1] == 0x25:
	case len(code) >= 7 && (code[1] == 0x14 || code[1] == 0x24) && code[2] == 0x25:
		entry = uint64(int64(rel32(code[3:])))
	default:
		return 0, false
	}
	function, ok := e.facts.Paravirt[entry]
	return function, ok
}

// doesNothing reports whether addr is a function that paravirt patching leaves
// out.
func (e *Expected) doesNothing(addr uint64) bool {
	switch e.nameAt(addr) {
	case "_paravirt_nop", "paravirt_nop", "nop_func":
		return true
	}
	return false
}

// tracer says what an instrumented function may call: ftrace's own entry, or a
// trampoline that the kernel made for one tracer.
func (e *Expected) tracer(addr uint64) (string, bool) {
	if name := e.nameAt(addr); name == "ftrace_caller" || name == "ftrace_regs_caller" {
		return "traced by ftrace: call to " + name, true
	}
	for _, t := range e.facts.Trampolines {
		if uint64(t.Start) == addr {
			return "traced by ftrace: call to the trampoline of " + e.symbol(uint64(t.Func)), true
		}
	}
	if image, ok := e.bpfImage(addr, "bpf_trampoline_"); ok {
		return "traced by BPF: call to " + image.Name, true
	}
	return "", false
}

// bpfImage finds BPF's trampoline or dispatcher that starts at addr. Some have
// two halves, of which one is in use. What they do is for ExplainJIT to say.
func (e *Expected) bpfImage(addr uint64, kind string) (BPFImage, bool) {
	for _, i := range e.facts.Images {
		if off := addr - uint64(i.Start); strings.HasPrefix(i.Name, kind) && (off == 0 || off == i.Size/2) {
			return i, true
		}
	}
	return BPFImage{}, false
}

// dispatcherKey is the start of the names of the keys of static calls that BPF
// points at its dispatchers (include/linux/bpf.h, DEFINE_BPF_DISPATCHER).
const dispatcherKey = "__SCK__bpf_dispatcher_"

// Dispatches reports whether the key of a static call is one that BPF may point
// at code of its own, and function is such code.
func (e *Expected) Dispatches(key, function uint64) bool {
	_, ok := e.bpfImage(function, "bpf_dispatcher_")
	return ok && strings.HasPrefix(e.nameAt(key), dispatcherKey)
}

// dispatched reports whether a function is one that BPF's dispatcher replaces by a
// jump at its entry, as before static calls (up to 6.1), and target is that.
func (e *Expected) dispatched(at, target uint64) bool {
	name, _, ok := e.Lookup(at)
	_, is := e.bpfImage(target, "bpf_dispatcher_")
	return ok && is && strings.HasPrefix(name, "bpf_dispatcher_") && strings.HasSuffix(name, "_func")
}

// symbol formats an address as name+offset.
func (e *Expected) symbol(addr uint64) string {
	name, offset, ok := e.Lookup(addr)
	if !ok {
		return fmt.Sprintf("%#x", addr)
	}
	if offset == 0 {
		return name
	}
	return fmt.Sprintf("%s+%#x", name, offset)
}
