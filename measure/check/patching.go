package check

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// patchingData are the facts from which a kernel patches its own text. See
// [kernel.PatchFacts] for what they are believed.
type patchingData struct {
	Paravirt    []paravirtFact   `json:"paravirt,omitempty"`
	StaticCalls []staticCallFact `json:"static_calls,omitempty"`
	Constants   []constantFact   `json:"constants,omitempty"`
	CallDepth   bool             `json:"call_depth,omitempty"` // calls are counted
	Kprobes     []kprobeFact     `json:"kprobes,omitempty"`
	Trampolines []trampolineFact `json:"trampolines,omitempty"`
	// Livepatches are no fact of patching: ftrace's trampolines lead to them.
	Livepatches       []livepatchFact `json:"livepatches,omitempty"`
	LivepatchesUnread string          `json:"livepatches_unread,omitempty"` // why
	// Unread says which facts could not be read, and why.
	Unread []string `json:"unread,omitempty"`
}

type paravirtFact struct {
	At   address `json:"at"`
	Func address `json:"func"`
}

type staticCallFact struct {
	Key  address `json:"key"`
	Func address `json:"func"`
	Gone bool    `json:"gone,omitempty"` // see [kernel.PatchFacts]
}

type constantFact struct {
	Name  string  `json:"name"`
	Value address `json:"value"`
}

type kprobeFact struct {
	Probe  address `json:"probe"` // its struct kprobe
	At     address `json:"at"`
	Opcode byte    `json:"opcode"`
	Slot   address `json:"slot,omitempty"`
	Jump   address `json:"jump,omitempty"`
	Copied []byte  `json:"copied,omitempty"`

	Optimized bool `json:"optimized,omitempty"`
}

type trampolineFact struct {
	At   address `json:"at"`
	Size uint64  `json:"size"`
	Ops  address `json:"ops"`
	Func address `json:"func"`
}

// Limits on what a target may claim.
const (
	maxParavirtOps = 512
	maxStaticCalls = 1 << 16 // sites of one table, keys of all
	maxKprobes     = 4096
	maxTrampolines = 1024
)

// patching reads the facts. What cannot be read is left out and named.
func (c *collector) patching() patchingData {
	var d patchingData
	for _, part := range []struct {
		name string
		read func(*patchingData) error
	}{
		{"paravirt", c.paravirt}, {"static calls", c.staticCallKeys}, {"runtime constants", c.constants},
		{"call depth tracking", c.callDepth},
		{"kprobes", c.kprobes}, {"ftrace", c.trampolines},
	} {
		if err := part.read(&d); err != nil {
			d.Unread = append(d.Unread, fmt.Sprintf("%s: %v", part.name, err))
		}
	}
	if err := c.livepatches(&d); err != nil {
		d.LivepatchesUnread = err.Error()
	}
	return d
}

// facts are the same in the form that explaining text takes.
func (d *patchingData) facts() kernel.PatchFacts {
	f := kernel.PatchFacts{Paravirt: make(map[uint64]uint64, len(d.Paravirt)), StaticCalls: make(map[uint64]uint64, len(d.StaticCalls)),
		Gone: make(map[uint64]bool), Constants: make(map[string]uint64, len(d.Constants)), CallDepth: d.CallDepth}
	for _, p := range d.Paravirt {
		f.Paravirt[uint64(p.At)] = uint64(p.Func)
	}
	for _, s := range d.StaticCalls {
		f.StaticCalls[uint64(s.Key)] = uint64(s.Func)
		if s.Gone {
			f.Gone[uint64(s.Func)] = true
		}
	}
	for _, v := range d.Constants {
		f.Constants[v.Name] = uint64(v.Value)
	}
	f.Kprobes = probesOf(d.Kprobes)
	for _, t := range d.Trampolines {
		f.Trampolines = append(f.Trampolines, kernel.Trampoline{Start: mem.Virt(t.At), Size: t.Size, Ops: mem.Virt(t.Ops), Func: mem.Virt(t.Func)})
	}
	return f
}

func probesOf(facts []kprobeFact) []kernel.Kprobe {
	var out []kernel.Kprobe
	for _, k := range facts {
		out = append(out, kernel.Kprobe{At: mem.Virt(k.Probe), Addr: mem.Virt(k.At), Opcode: k.Opcode, Slot: mem.Virt(k.Slot), Jump: mem.Virt(k.Jump), Copied: k.Copied, Optimized: k.Optimized})
	}
	return out
}

// paravirtTables are the tables that paravirt sites call through, with the
// structures they are.
var paravirtTables = map[string]string{"pv_ops": "paravirt_patch_template", "pv_ops_lock": "pv_lock_ops"}

// paravirt reads the tables that exist.
func (c *collector) paravirt(d *patchingData) error {
	for _, symbol := range slices.Sorted(maps.Keys(paravirtTables)) {
		at, ok := c.profile.Symbol(symbol)
		if !ok {
			continue
		}
		size, err := c.profile.Types.Size(paravirtTables[symbol])
		if err != nil {
			return err
		}
		words, err := c.words(at, min(size/8, maxParavirtOps))
		if err != nil {
			return err
		}
		for i, w := range words {
			d.Paravirt = append(d.Paravirt, paravirtFact{address(at) + address(i*8), address(w)})
		}
	}
	return nil
}

// staticCallKeys reads, of each key that the tables of static calls name, the
// function it calls: the first word of struct static_call_key.
func (c *collector) staticCallKeys(d *patchingData) error {
	keys := make(map[mem.Virt]bool)
	start, ok1 := c.profile.Symbol("__start_static_call_sites")
	stop, ok2 := c.profile.Symbol("__stop_static_call_sites")
	if !ok1 || !ok2 || stop < start {
		return nil // built without, or out of line
	}
	errs := []error{c.keysOf(start, uint64(stop-start)/8, keys)}
	for _, s := range c.profile.Symbols.WithPrefix("__SCK__") { // those that only a trampoline has
		if len(keys) < maxStaticCalls {
			keys[mem.Virt(s.Addr)] = true
		}
	}
	count, err := c.profile.Types.Offset("module", "num_static_call_sites")
	sites, err2 := c.profile.Types.Offset("module", "static_call_sites")
	for i := 0; err == nil && err2 == nil && i < len(c.modules); i++ {
		at := c.modules[i].At
		n, err := c.space.U32(at + mem.Virt(count))
		table, err2 := c.space.U64(at + mem.Virt(sites))
		if err == nil && err2 == nil {
			err = c.keysOf(mem.Virt(table), uint64(n), keys)
		}
		errs = append(errs, err, err2)
	}
	for _, key := range sorted(keys) {
		function, err := c.space.U64(key)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.StaticCalls = append(d.StaticCalls, staticCallFact{address(key), address(function), c.gone(mem.Virt(function))})
	}
	return errors.Join(errs...)
}

// gone reports whether a function is in the area of modules and nothing that can
// be executed is mapped there, or a page of INT3: where executable memory is kept
// mapped, the kernel fills with that what it frees (mm/execmem.c; as here on x86 in
// 7.2).
func (c *collector) gone(function mem.Virt) bool {
	if from, to := kernel.ModuleArea(); function < from || function >= to {
		return false
	}
	mapping, err := c.profile.Space.Translate(function)
	if err != nil {
		return errors.Is(err, paging.ErrNotPresent)
	}
	return mapping.Flags&paging.NoExecute != 0 || c.trapsAt(function, mapping)
}

// trapsAt reports whether the page of an address, which is mapped like that, holds
// nothing but INT3.
func (c *collector) trapsAt(at mem.Virt, mapping paging.Mapping) bool {
	memory, phys := c.profile.Space.Memory(), mapping.Phys+mem.Phys(at-mapping.Virt)
	first := make([]byte, 1)
	if memory.ReadPhys(first, phys) != nil || !traps(first) {
		return false // most are code
	}
	page := make([]byte, mem.PageSize)
	return memory.ReadPhys(page, phys&^(mem.PageSize-1)) == nil && traps(page)
}

// keysOf reads a table of struct static_call_site (two 32-bit distances, the
// second to the key with two flag bits).
func (c *collector) keysOf(at mem.Virt, count uint64, keys map[mem.Virt]bool) error {
	if count > maxStaticCalls || len(keys) > maxStaticCalls {
		return fmt.Errorf("over %d static calls", maxStaticCalls)
	}
	raw := make([]byte, count*8)
	if err := c.space.Read(raw, at); err != nil {
		return err
	}
	for cur := bin.Little(raw); cur.Len() >= 8; {
		cur.Skip(4)
		field := at + mem.Virt(cur.Offset())
		keys[(field+mem.Virt(int64(int32(cur.U32()))))&^3] = true
	}
	return nil
}

// constantPrefix starts the name of a table of runtime constants, which goes on
// with its kind, "_" and the variable.
const constantPrefix = "__start_runtime_"

// constants reads the variables of which runtime constants are copies; each has
// a table named after it (include/asm-generic/vmlinux.lds.h, RUNTIME_CONST).
func (c *collector) constants(d *patchingData) error {
	var errs []error
	for _, s := range c.profile.Symbols.WithPrefix(constantPrefix) {
		_, name, _ := strings.Cut(strings.TrimPrefix(s.Name, constantPrefix), "_")
		at, ok := c.profile.Symbol(name)
		if !ok {
			continue // the compiler found no use for the variable
		}
		value, err := c.space.U64(at)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.Constants = append(d.Constants, constantFact{name, address(value)})
	}
	return errors.Join(errs...)
}

// callDepth reads whether the kernel counts calls (arch/x86/kernel/callthunks.c).
func (c *collector) callDepth(d *patchingData) error {
	at, ok := c.profile.Symbol("thunks_initialized")
	if !ok {
		return nil // before 6.2, or built without
	}
	var set [1]byte
	err := c.space.Read(set[:], at)
	d.CallDepth = set[0] != 0
	return err
}

func (c *collector) words(at mem.Virt, n uint64) ([]uint64, error) {
	raw := make([]byte, n*8)
	if err := c.space.Read(raw, at); err != nil {
		return nil, err
	}
	words := make([]uint64, 0, n)
	for cur := bin.Little(raw); cur.Len() >= 8; {
		words = append(words, cur.U64())
	}
	return words, nil
}
