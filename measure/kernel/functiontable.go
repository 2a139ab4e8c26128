package kernel

import (
	"encoding/binary"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// maxFunctionTable is how far a table of functions is looked at, in bytes: the
// largest of Linux, struct net_device_ops, has less than 800.
const maxFunctionTable = 1024

// functionTable reports whether the files have a table of functions at an address of
// constant data: before the next symbol there is a pointer to approved text. Others,
// such as the defaults of a setting, are exchanged for allocated ones by honest code.
func (e *Expected) functionTable(at uint64) bool {
	if r := e.Rodata(); at >= uint64(r.Start) && at-uint64(r.Start) < r.Size {
		return e.hasFunction(at, e.image.Symbols.Next(at-e.slide)+e.slide, func(at uint64) (uint64, bool) { return e.image.Pointer(at, e.slide) })
	}
	for _, t := range e.modules {
		if !t.rodata.Contains(mem.Virt(at)) {
			continue
		}
		sections, _ := t.Rodata() // those that Constant goes by
		for _, s := range sections {
			if at < uint64(s.At) || at-uint64(s.At) >= uint64(len(s.Want)) {
				continue
			}
			return e.hasFunction(at, t.symbols.Next(at), func(at uint64) (uint64, bool) {
				into := at - uint64(s.At)
				if into > uint64(len(s.Want)) || uint64(len(s.Want))-into < 8 {
					return 0, false
				}
				return binary.LittleEndian.Uint64(s.Want[into:]), true
			})
		}
	}
	return false
}

// hasFunction looks for a pointer to approved text in what begins at an address and
// ends before the next symbol.
func (e *Expected) hasFunction(at, next uint64, pointer func(uint64) (uint64, bool)) bool {
	end := at + maxFunctionTable
	if next > at {
		end = min(end, next)
	}
	for at = (at + 7) &^ 7; at < end; at += 8 {
		if value, ok := pointer(at); ok && value >= uint64(imageFirst) && e.textOf(value) != nil {
			return true
		}
	}
	return false
}

// Table reports whether an address may be that of a table of functions: it lies in
// constant data, anywhere there, or the files have a pointer to a function in the static
// data that follows, whose value at run time is judged as a place of its own. What is
// between, or was put in the middle of a table, is not looked at.
func (e *Expected) Table(at uint64) bool {
	if e.Constant(at) {
		return true
	}
	end := at + maxFunctionTable
	if next := e.image.Symbols.Next(at-e.slide) + e.slide; next > at {
		end = min(end, next)
	}
	if len(e.image.CodeSlots(mem.Virt(at), mem.Virt(end), e.slide)) > 0 {
		return true
	}
	for _, t := range e.modules {
		end := at + maxFunctionTable
		if next := t.symbols.Next(at); next > at {
			end = min(end, next)
		}
		slots, _ := t.PointerSlots()
		if slices.ContainsFunc(slots, func(s PointerSlot) bool { return !s.Table && uint64(s.At) >= at && uint64(s.At) < end }) {
			return true
		}
	}
	return false
}
