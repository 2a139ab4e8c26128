package lab

import (
	"context"
	"encoding/binary"
)

// tracepointTampers point the static call of a tracepoint at another function of
// the kernel's own, with everything that the kernel itself would change for that.
// The tracepoints are those that an idle machine does not come to.
var tracepointTampers = []Tamper{
	{
		Name: "tracepoint-static-call", Check: "linux.objects",
		Doc:   "point the static call of a tracepoint that is off at another proper function: key, trampoline and sites",
		apply: detourTracepoint("module_free", "__traceiter_module_load"),
	},
	{
		Name: "tracepoint-probe-detour", Check: "linux.objects",
		Doc:   "lead the static call of a tracepoint with one probe past that, to another proper function",
		apply: detourProbe,
	},
	{
		Name: "module-tracepoint-static-call", Check: "linux.objects",
		Doc:   "point the key of the static call of a tracepoint of kvm at another function of kvm",
		apply: detourTracepoint("kvm_exit", "__traceiter_kvm_entry"),
	},
}

// Symbols of a tracepoint's static call, before its name.
const (
	traceKey        = "__SCK__tp_func_"
	traceTrampoline = "__SCT__tp_func_"
)

// detourTracepoint changes a key, and where trampoline and sites of the kernel's
// own text go.
func detourTracepoint(name, target string) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.symbols(ctx, traceKey+name, traceTrampoline+name, target, "__start_static_call_sites", "__stop_static_call_sites")
		if err != nil {
			return err
		}
		mem, err := c.memory(ctx)
		if err != nil {
			return err
		}
		old, err := mem.readWord(at[0])
		if err != nil {
			return err
		}
		if err := c.write(ctx, at[0], word(at[2])); err != nil {
			return err
		}
		sites, err := c.staticCallSites(at[0], at[3], at[4])
		if err != nil {
			return err
		}
		for _, site := range append(sites, at[1]) {
			if err := c.redirect(ctx, site, old, at[2]); err != nil {
				return err
			}
		}
		return nil
	}
}

// staticCallSites lists where the kernel's text calls by a key: struct
// static_call_site, include/linux/static_call_types.h, two 32-bit distances.
func (c *change) staticCallSites(key, from, to uint64) ([]uint64, error) {
	table := make([]byte, to-from)
	if err := c.mem.read(from, table); err != nil {
		return nil, err
	}
	var sites []uint64
	for i := uint64(0); i+8 <= uint64(len(table)); i += 8 {
		distance := func(field uint64) uint64 {
			return from + field + uint64(int64(int32(binary.LittleEndian.Uint32(table[field:]))))
		}
		if distance(i+4)&^3 == key {
			sites = append(sites, distance(i))
		}
	}
	return sites, nil
}

// redirect changes a call or jump that goes to one function; others are left alone.
func (c *change) redirect(ctx context.Context, site, from, to uint64) error {
	code := make([]byte, 5)
	if err := c.mem.read(site, code); err != nil {
		return err
	}
	if code[0] != opcodeCall && code[0] != opcodeJump || binary.LittleEndian.Uint32(code[1:]) != uint32(from-site-5) {
		return nil
	}
	return c.write(ctx, site+1, binary.LittleEndian.AppendUint32(nil, uint32(to-site-5)))
}

func detourProbe(ctx context.Context, c *change) error {
	err := c.shell(ctx, OnOneCPU(`echo 1 > /sys/kernel/tracing/events/module/module_free/enable`),
		OnOneCPU(`echo 0 > /sys/kernel/tracing/events/module/module_free/enable`))
	if err != nil {
		return err
	}
	return detourTracepoint("module_free", "__traceiter_module_load")(ctx, c)
}
