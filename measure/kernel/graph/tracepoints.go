package graph

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// maxTracepoints bounds the tracepoints of the kernel, and those of a module:
// Debian's kernel has 2,000.
const maxTracepoints = 1 << 16

// tracepoints queues the kernel's own tracepoints. Those of a module are elements
// of its struct module.
func (w *walker) tracepoints() error {
	start, stop := w.address("__start___tracepoints_ptrs"), w.address("__stop___tracepoints_ptrs")
	if start == 0 || stop < start || (stop-start)/4 > maxTracepoints {
		return fmt.Errorf("tracepoints: %w", errNoRoot)
	}
	t, err := w.schema.Struct("tracepoint")
	if err != nil {
		return err
	}
	return w.distances(start, (stop-start)/4, func(to uint64, _ int) {
		name, offset, ok := w.profile.Lookup(mem.Virt(to))
		if ok && offset == 0 {
			w.root(name, to, t)
		}
	})
}

// distances visits what a table leads to that has the distance from each of its
// entries to an object (include/linux/tracepoint-defs.h, tracepoint_ptr_t, with
// CONFIG_HAVE_ARCH_PREL32_RELOCATIONS).
func (w *walker) distances(table, count uint64, visit func(uint64, int)) error {
	for k := range count {
		at := table + 4*k
		distance, err := w.u32(at)
		if err != nil {
			return err
		}
		visit(at+uint64(int64(int32(distance))), int(k))
	}
	return nil
}

// relative visits the objects of a table of distances that a member points to.
// What cannot be an object is not one, and the walk says that there was one.
func (w *walker) relative(table, count uint64, visit func(uint64, int)) {
	if count > maxTracepoints {
		w.cut("arrays with an impossible number of elements")
		return
	}
	err := w.distances(table, count, func(to uint64, k int) {
		if !high(to) || to&7 != 0 || w.areas.text(to) {
			w.cut("distances that lead to no object")
			return
		}
		visit(to, k)
	})
	if err != nil {
		w.cut("arrays in memory that could not be read")
	}
}
