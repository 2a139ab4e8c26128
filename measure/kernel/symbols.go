package kernel

import (
	"encoding/binary"
	"iter"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/zeebo/blake3"
)

// Symbol is one entry of a kernel's symbol table.
type Symbol struct {
	Addr uint64
	Kind byte // as nm(1) prints it: 't' and 'T' are text, 'd' data, ...
	Name string
}

// Symbols is a symbol table in address order. It is safe for concurrent use.
type Symbols struct {
	addrs   []uint64 // ascending
	names   []string // names[i][0] is the kind
	*byName          // shared by tables that differ in addresses only
}

type byName struct {
	once  sync.Once
	index map[string]int32

	mu     sync.Mutex
	prefix map[string][]int32
}

// newSymbols takes ownership of parallel slices and sorts them if needed.
func newSymbols(addrs []uint64, names []string) *Symbols {
	s := &Symbols{addrs: addrs, names: names, byName: &byName{}}
	if !sort.SliceIsSorted(addrs, func(i, j int) bool { return addrs[i] < addrs[j] }) {
		sort.Stable((*byAddress)(s))
	}
	return s
}

// NewSymbols makes a table of symbols that are in no particular order.
func NewSymbols(list []Symbol) *Symbols {
	addrs := make([]uint64, len(list))
	names := make([]string, len(list))
	for i, sym := range list {
		addrs[i], names[i] = sym.Addr, string(sym.Kind)+sym.Name
	}
	return newSymbols(addrs, names)
}

// Len is the number of symbols.
func (s *Symbols) Len() int { return len(s.addrs) }

// All yields the symbols in address order.
func (s *Symbols) All() iter.Seq[Symbol] {
	return func(yield func(Symbol) bool) {
		for i := range s.addrs {
			if !yield(s.at(i)) {
				return
			}
		}
	}
}

// Address returns the address of the first symbol called name.
func (s *Symbols) Address(name string) (uint64, bool) {
	s.once.Do(func() {
		s.index = make(map[string]int32, len(s.names))
		for i := len(s.names) - 1; i >= 0; i-- {
			s.index[s.names[i][1:]] = int32(i)
		}
	})
	i, ok := s.index[name]
	if !ok {
		return 0, false
	}
	return s.addrs[i], true
}

// WithPrefix returns the symbols whose names start with a prefix, in address
// order. Prefixes are the caller's, not a target's: what each gives is kept.
func (s *Symbols) WithPrefix(prefix string) []Symbol {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.prefix[prefix]
	if !ok {
		for i, name := range s.names {
			if strings.HasPrefix(name[1:], prefix) {
				found = append(found, int32(i))
			}
		}
		if s.prefix == nil {
			s.prefix = make(map[string][]int32)
		}
		s.prefix[prefix] = found
	}
	out := make([]Symbol, 0, len(found))
	for _, i := range found {
		out = append(out, s.at(int(i)))
	}
	return out
}

// Lookup returns the symbol that holds addr, the last that starts at or before
// it, and where it starts. Of several at one address the one a reader would
// expect is chosen: global text before local, padding symbols last.
func (s *Symbols) Lookup(addr uint64) (name string, start uint64, ok bool) {
	i := sort.Search(len(s.addrs), func(i int) bool { return s.addrs[i] > addr }) - 1
	if i < 0 {
		return "", 0, false
	}
	best := s.at(i)
	for i--; i >= 0 && s.addrs[i] == best.Addr; i-- {
		if sym := s.at(i); rank(sym) >= rank(best) {
			best = sym
		}
	}
	return best.Name, best.Addr, true
}

func rank(s Symbol) int {
	switch {
	case strings.HasPrefix(s.Name, "__pfx_") || strings.HasPrefix(s.Name, "__cfi_"):
		return 0
	case s.Kind == 'T':
		return 2
	}
	return 1
}

// Start reports whether a function starts at addr.
func (s *Symbols) Start(addr uint64) bool {
	for i := sort.Search(len(s.addrs), func(i int) bool { return s.addrs[i] >= addr }); i < len(s.addrs) && s.addrs[i] == addr; i++ {
		switch s.names[i][0] {
		case 't', 'T', 'w', 'W':
			return true
		}
	}
	return false
}

// Digest stands for all symbols of a kernel whose text starts at base: names,
// kinds, and addresses from base on. It is the same wherever the kernel runs.
func (s *Symbols) Digest(base uint64) [32]byte {
	h := blake3.New()
	var b []byte
	for i, addr := range s.addrs {
		if addr>>47 != 0 {
			addr -= base
		}
		b = binary.LittleEndian.AppendUint64(b[:0], addr)
		b = append(append(b, s.names[i]...), 0)
		_, _ = h.Write(b) // never fails
	}
	return [32]byte(h.Sum(nil))
}

// Slide returns the same symbols, each delta further up. Symbols outside the
// kernel's half of the address space (per-CPU offsets, absolute values) stay.
func (s *Symbols) Slide(delta uint64) *Symbols {
	addrs := make([]uint64, len(s.addrs))
	for i, a := range s.addrs {
		if a>>47 != 0 {
			a += delta
		}
		addrs[i] = a
	}
	if slices.IsSorted(addrs) {
		return &Symbols{addrs: addrs, names: s.names, byName: s.byName}
	}
	return newSymbols(addrs, slices.Clone(s.names))
}

func (s *Symbols) at(i int) Symbol {
	return Symbol{Addr: s.addrs[i], Kind: s.names[i][0], Name: s.names[i][1:]}
}

// byAddress sorts both slices together.
type byAddress Symbols

func (s *byAddress) Len() int           { return len(s.addrs) }
func (s *byAddress) Less(i, j int) bool { return s.addrs[i] < s.addrs[j] }
func (s *byAddress) Swap(i, j int) {
	s.addrs[i], s.addrs[j] = s.addrs[j], s.addrs[i]
	s.names[i], s.names[j] = s.names[j], s.names[i]
}

// Next returns the address of the first symbol after addr, addr if there is none.
func (s *Symbols) Next(addr uint64) uint64 {
	i := sort.Search(len(s.addrs), func(i int) bool { return s.addrs[i] > addr })
	if i == len(s.addrs) {
		return addr
	}
	return s.addrs[i]
}
