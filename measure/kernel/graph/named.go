package graph

import "github.com/plumbline-sec/plumbline/measure/kernel"

// named finds the symbols that the tables name. Static variables of several
// files may be called the same: the global one is meant then, and if there is
// none the only one in writable data; else it cannot be told which.
func named(symbols *kernel.Symbols) map[string]uint64 {
	type candidates struct {
		local, global, data    uint64
		locals, globals, datas int
	}
	writable, _ := symbols.Address("_sdata")
	found := make(map[string]*candidates)
	for _, name := range names() {
		found[name] = new(candidates)
	}
	for s := range symbols.All() {
		c := found[s.Name]
		switch {
		case c == nil:
		case s.Kind >= 'A' && s.Kind <= 'Z':
			c.global = s.Addr
			c.globals++
		default:
			c.local = s.Addr
			c.locals++
			if writable != 0 && s.Addr >= writable {
				c.data = s.Addr
				c.datas++
			}
		}
	}
	out := make(map[string]uint64)
	for name, c := range found {
		switch {
		case c.globals == 1:
			out[name] = c.global
		case c.globals == 0 && c.locals == 1:
			out[name] = c.local
		case c.globals == 0 && c.datas == 1:
			out[name] = c.data
		}
	}
	return out
}

// names lists the symbols that the tables name.
func names() []string {
	out := []string{"__start___tracepoints_ptrs", "__stop___tracepoints_ptrs"}
	for _, r := range roots {
		out = append(out, r.symbol, r.other)
	}
	for _, list := range promotions {
		for _, p := range list {
			out = append(out, p.symbol)
		}
	}
	for _, t := range tolds {
		out = append(out, t.symbol)
	}
	for _, c := range choices {
		out = append(out, c.symbol)
	}
	for _, symbol := range leftBehind {
		out = append(out, symbol)
	}
	return out
}
