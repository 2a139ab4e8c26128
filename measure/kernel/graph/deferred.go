package graph

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// perCPUHeads are per-CPU variables that are heads of lists, by their symbols:
// kernel/irq_work.c; kernel/smp.c, of which a part are irq_work or tasks that are to
// be woken, told by their flags. They are drained within moments, by whoever the
// CPU is interrupted by: what is on them and stays is what puts itself there again.
var perCPUHeads = []struct {
	symbol string
	held   held
}{
	{"raised_list", held{form: chain, elem: "irq_work"}},
	{"lazy_list", held{form: chain, elem: "irq_work"}},
	{"call_single_queue", held{form: chain, elem: "__call_single_data"}},
}

// perCPURoots are per-CPU variables of a kernel whose BTF has none, as that of
// Debian's 5.10: kernel/time/timer.c and hrtimer.c, kernel/rcu/tree.c, kernel/softirq.c,
// net/core/dev.c.
var perCPURoots = []root{
	{symbol: "timer_bases", shape: array, typ: "timer_base"},
	{symbol: "hrtimer_bases", shape: value, typ: "hrtimer_cpu_base"},
	{symbol: "rcu_data", shape: value, typ: "rcu_data"},
	{symbol: "tasklet_vec", shape: value, typ: "tasklet_head"},
	{symbol: "tasklet_hi_vec", shape: value, typ: "tasklet_head"},
	{symbol: "softnet_data", shape: value, typ: "softnet_data"},
}

// perCPURoots queues those variables for each CPU.
func (w *walker) perCPURoots(bases []mem.Virt) error {
	var errs []error
	for _, r := range perCPURoots {
		at, ok := w.profile.Symbol(r.symbol)
		if !ok {
			w.lacks = append(w.lacks, r.symbol)
			continue
		}
		t, err := w.schema.variable(r, min(uint64(w.profile.Symbols.Next(uint64(at))-uint64(at)), maxRootSize))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.symbol, err))
			continue
		}
		for cpu, base := range bases {
			w.root(fmt.Sprintf("cpu %d %s", cpu, r.symbol), uint64(base+at), t)
		}
	}
	return errors.Join(errs...)
}

// perCPUHeads queues the elements of those lists for each CPU.
func (w *walker) perCPUHeads(bases []mem.Virt) error {
	var errs []error
	for _, h := range perCPUHeads {
		at, ok := w.profile.Symbol(h.symbol)
		if !ok {
			w.lacks = append(w.lacks, h.symbol)
			continue
		}
		t, err := w.schema.head(h.symbol, h.held)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", h.symbol, err))
			continue
		}
		for cpu, base := range bases {
			w.root(fmt.Sprintf("cpu %d %s", cpu, h.symbol), uint64(base+at), t)
		}
	}
	return errors.Join(errs...)
}

// head compiles a variable that is the head of a list.
func (s *Schema) head(name string, line held) (*Type, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.variables[name]; t != nil {
		return t, nil
	}
	h, err := s.hold(line)
	if err != nil {
		return nil, err
	}
	out := &Type{Name: name, schema: s, compiled: true}
	s.heads(out, h, false, pointerSize)
	s.settle(h.elem)
	s.variables[name] = out
	return out, nil
}
