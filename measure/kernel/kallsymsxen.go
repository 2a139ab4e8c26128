package kernel

import "fmt"

// DecodeSymbolTable finds and decodes the symbol table that Xen carries in its
// read-only data (xen/tools/symbols.c; xen/common/symbols.c reads it at run
// time): offsets, their count, names, markers, then the token table and its
// index as a kernel has them. Offsets are unsigned distances from origin
// (XEN_VIRT_START). region is the read-only data or any superset of it, 8-byte
// aligned, from the file or from memory, and hostile as in [DecodeKallsyms].
func DecodeSymbolTable(region []byte, origin uint64) (*Symbols, error) {
	for from := 0; ; {
		tokens, ok := findTokens(region, from)
		if !ok {
			return nil, ErrNoKallsyms
		}
		from = tokens.next
		names, count, ok := anyNamesBefore(region[:tokens.start])
		if !ok {
			continue
		}
		for _, word := range []int{names - 4, names - 8} { // alignment of the names
			if at := word - 4*count; at >= 0 && word%4 == 0 && int(u32(region, uint64(word))) == count {
				layout := kallsymsLayout{offsets: at, names: names, count: count}
				s, err := layout.decode(region, tokens, origin)
				if err != nil {
					return nil, fmt.Errorf("decode symbol table: %w", err)
				}
				return s, nil
			}
		}
	}
}
