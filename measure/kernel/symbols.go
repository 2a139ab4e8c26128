package kernel

import "iter"

// Symbols is a symbol table, sorted by address.
type Symbols struct {
	list []Symbol
}

// Symbol is one symbol of a kernel.
type Symbol struct {
	Addr uint64
	Kind byte // as nm(1) prints it: 'T', 't', 'D', 'd', ...
	Name string
}

// Address returns the address of a symbol.
func (s *Symbols) Address(name string) (uint64, bool) { return 0, false }

// Lookup returns the symbol that holds addr.
func (s *Symbols) Lookup(addr uint64) (name string, start uint64, ok bool) { return "", 0, false }

// Start reports whether a function starts at addr.
func (s *Symbols) Start(addr uint64) bool { return false }

// All yields the symbols in ascending order of address.
func (s *Symbols) All() iter.Seq[Symbol] { return func(func(Symbol) bool) {} }
