package kernel

import "github.com/plumbline-sec/plumbline/measure/mem"

// PatchFacts is what the target's memory says of its own patching: the values
// from which it computed what it wrote into its text. They pin the encodings
// that have a free part. Each is checked in turn: a function pointer must land
// on the start of a function in expected text. Where a fact is missing, the
// patch site alone is checked.
type PatchFacts struct {
	// Paravirt gives the functions in pv_ops, and from 6.19 on in pv_ops_lock,
	// by the address where they are; paravirt sites call through these.
	Paravirt map[uint64]uint64
	// StaticCalls gives the current function of each static call by its key's
	// address.
	StaticCalls map[uint64]uint64
	// Gone are those of these functions, in the area of modules, where nothing is
	// mapped that can be executed, or nothing but INT3: KVM keeps the calls into a
	// module that was unloaded.
	Gone map[uint64]bool
	// CallDepth says that the kernel counts calls: see callCounter.
	CallDepth bool
	// Constants are the variables that runtime constants are copies of.
	Constants map[string]uint64
	Kprobes   []Kprobe
	// Trampolines are those of ftrace.
	Trampolines []Trampoline
	// Images are BPF's trampolines and dispatchers, which its list names.
	Images []BPFImage
}

// BPFImage is code of BPF that kernel text may call: a trampoline in front of a
// function, or the dispatcher behind a static call.
type BPFImage struct {
	Name  string // "bpf_trampoline_..." or "bpf_dispatcher_..."
	Start mem.Virt
	Size  uint64 // bytes
}

// Kprobe is a probe from the kernel's table of them.
type Kprobe struct {
	At     mem.Virt // its struct kprobe
	Addr   mem.Virt
	Opcode byte     // first byte of the instruction that its breakpoint replaced
	Slot   mem.Virt // with the copy of that instruction; 0 where ftrace has the probe
	// Jump and Copied are of a probe that can be optimized: five bytes become a
	// jump to Jump, and Copied are the last four of what they were.
	Jump      mem.Virt
	Copied    []byte
	Optimized bool // the jump is there, or soon will be
}

// Trampoline is executable memory that the kernel made for one user of ftrace.
type Trampoline struct {
	Start mem.Virt
	Size  uint64   // bytes
	Ops   mem.Virt // the struct ftrace_ops it is for
	Func  mem.Virt // the function it calls
}
