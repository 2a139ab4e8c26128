package check

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// pointer is a code pointer as a scan found it.
type pointer struct {
	Path  string  `json:"path"`  // how it was reached, such as "kvm_x86_ops.run"
	At    address `json:"at"`    // where it is stored
	Value address `json:"value"` // where it points
	// Symbol is what the target's own tables say of Value: "name",
	// "name+0x10", "module:name", or nothing.
	Symbol string `json:"symbol,omitempty"`
}

// pointer makes the fact of a pointer.
func (c *collector) pointer(path string, at, value mem.Virt) pointer {
	return pointer{Path: path, At: address(at), Value: address(value), Symbol: c.symbol(value)}
}

// symbol names an address by the target's own tables.
func (c *collector) symbol(at mem.Virt) string {
	if c.xen != nil {
		return c.symbolOfXen(at)
	}
	if name, offset, ok := c.profile.Lookup(at); ok {
		return withOffset(name, offset)
	}
	for i := range c.modules {
		m := &c.modules[i]
		if !m.Holds(at) {
			continue
		}
		symbols, err := c.moduleSymbols(m)
		if err != nil {
			return m.Name + ":?"
		}
		if name, start, ok := symbols.Lookup(uint64(at)); ok {
			return m.Name + ":" + withOffset(name, uint64(at)-start)
		}
		return m.Name + ":?"
	}
	return ""
}

// moduleSymbols reads a module's symbols once a scan.
func (c *collector) moduleSymbols(m *kernel.LoadedModule) (*kernel.ModuleSymbols, error) {
	if s, ok := c.symbols[m.At]; ok {
		return s.table, s.err
	}
	if c.symbolBytes > maxModuleSymbols {
		return nil, errModuleSymbols
	}
	table, err := c.profile.ModuleSymbols(m)
	if err == nil {
		c.symbolBytes += table.Memory()
	}
	c.symbols[m.At] = symbolsOrError{table, err}
	return table, err
}

// maxModuleSymbols bounds what the symbols of all modules take in one scan, in
// bytes, give or take one module's.
const maxModuleSymbols = 256 << 20

var errModuleSymbols = fmt.Errorf("symbols of the modules on the list take over %d bytes", maxModuleSymbols)

type symbolsOrError struct {
	table *kernel.ModuleSymbols
	err   error
}

func withOffset(name string, offset uint64) string {
	if offset == 0 {
		return name
	}
	return fmt.Sprintf("%s+%#x", name, offset)
}

// code is what the judging half knows of approved code.
type code struct {
	kernel  textRange
	err     error // why the kernel's text is not known
	broken  error // why the list of modules ends early
	modules []moduleFact
	slide   uint64          // of the kernel from where the expected image was linked
	symbols *kernel.Symbols // of the expected image, at the target's addresses; nil without one
}

type textRange struct {
	Start address `json:"start"`
	End   address `json:"end"`
}

func (r textRange) contains(a address) bool { return a >= r.Start && a < r.End }

// approved collects what is known of code: from the expected image where there
// is one, else from what the target says of itself.
func (j *judging) approved() code {
	c := code{err: errors.New("where the target's code lies was not observed")}
	var facts modulesData
	if item := j.obs.Item(modulesName); item != nil && item.Data != nil && decode(item.Data, &facts) == nil && facts.Kernel.End > facts.Kernel.Start {
		c.kernel, c.modules, c.err = facts.Kernel, facts.Modules, nil
		if facts.Broken != "" {
			c.broken = fmt.Errorf("the list of modules could not be read to its end: %s", facts.Broken)
		}
	}
	if j.image == nil {
		return c
	}
	base, ok := j.image.Symbols.Address("_text")
	at, err := strconv.ParseUint(strings.TrimPrefix(j.obs.Kernel.TextBase, "0x"), 16, 64)
	if !ok || err != nil {
		return c
	}
	c.slide = at - base
	c.symbols = j.image.Symbols.Slide(c.slide)
	start, ok1 := c.symbols.Address("_stext")
	end, ok2 := c.symbols.Address("_etext")
	if ok1 && ok2 {
		c.kernel, c.err = textRange{address(start), address(end)}, nil
	}
	return c
}

// lands says what is wrong with a pointer that should be the start of a
// function in approved text; nothing if it is one.
func (j *judging) lands(p pointer) string {
	if j.code.kernel.contains(p.Value) {
		if j.code.symbols != nil {
			if j.code.symbols.Start(uint64(p.Value)) {
				return ""
			}
		} else if isStart(p.Symbol) && !strings.Contains(p.Symbol, ":") {
			return ""
		}
		return "points into the kernel's text, but not at the start of a function"
	}
	for i := range j.code.modules {
		m := &j.code.modules[i]
		if !m.text(p.Value) {
			continue
		}
		if j.startsInModule(m, p) {
			return ""
		}
		return "points into the text of module " + m.Name + ", but not at the start of a function"
	}
	return "points outside of the text of the kernel and its modules"
}

// startsInModule reports whether a function of a module starts where p points:
// by the module's file where there is one, else by the target's own symbols.
func (j *judging) startsInModule(m *moduleFact, p pointer) bool {
	if text, err := j.expected(); err == nil && text.modules[m.Name] != nil {
		_, offset, ok := text.env.Lookup(uint64(p.Value))
		return ok && offset == 0
	}
	return isStart(p.Symbol) && strings.HasPrefix(p.Symbol, m.Name+":")
}

// isStart reports whether a symbol names the very start of something.
func isStart(symbol string) bool {
	return symbol != "" && !strings.Contains(symbol, "+") && !strings.HasSuffix(symbol, "?")
}

// name returns the name of a pointer's target by the best table there is.
func (j *judging) name(p pointer) string {
	if j.code.symbols != nil && j.code.kernel.contains(p.Value) {
		if name, start, ok := j.code.symbols.Lookup(uint64(p.Value)); ok {
			return withOffset(name, uint64(p.Value)-start)
		}
	}
	return p.Symbol
}

// at returns where a symbol is: by the expected image where there is one, else by
// the target's claim, zero for none.
func (j *judging) at(symbol string, claim address) (address, bool) {
	if j.code.symbols != nil {
		at, ok := j.code.symbols.Address(symbol)
		return address(at), ok
	}
	return claim, claim != 0
}

// finding describes a pointer that is not what it should be.
func (j *judging) finding(p pointer, expected, explanation string) measure.Finding {
	observed := p.Value.String()
	if name := j.name(p); name != "" {
		observed += " (" + name + ")"
	}
	return measure.Finding{
		Address:     p.At.String(),
		Symbol:      p.Path,
		Observed:    observed,
		Expected:    expected,
		Explanation: explanation,
	}
}

// trusts is the remark of checks that had to believe the target's own symbols.
func (j *judging) trusts() string {
	if j.code.symbols == nil {
		return "function names are the target's own: no kernel image was given to compare them with"
	}
	return ""
}

// remarks joins what a check has to say.
func remarks(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

// expectedPointer returns the pointer that the expected image has at an address
// of its constant data.
func (j *judging) expectedPointer(at address) (address, bool) {
	if j.code.symbols == nil {
		return 0, false
	}
	value, ok := j.image.Pointer(uint64(at), j.code.slide)
	return address(value), ok
}
