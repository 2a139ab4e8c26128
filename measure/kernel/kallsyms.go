package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrNoKallsyms means that no symbol table that holds together was found.
var ErrNoKallsyms = errors.New("no kallsyms table")

// maxSymbols bounds a table: the largest distribution kernels have 250,000.
const maxSymbols = 1 << 20

// DecodeKallsyms finds and decodes the symbol table that a kernel carries in
// its read-only data (scripts/kallsyms.c; kernel/kallsyms.c reads it at run
// time). region is that data or any superset of it, 8-byte aligned, from the
// file or from memory; textBase is the address of _text in the same bytes, so
// the link-time one for a file and the randomized one for memory.
//
// Nothing but textBase is believed: the token table is found by its run of
// digits and must agree with its index, and the names must decode to as many
// symbols as there are offsets. The tables' order is that of 5.10 to 6.3
// (offsets first) or of 6.4 and later (offsets last); the newest kernels have no
// base and keep each symbol's distance from its own entry.
func DecodeKallsyms(region []byte, textBase uint64) (*Symbols, error) {
	for from := 0; ; {
		tokens, ok := findTokens(region, from)
		if !ok {
			return nil, ErrNoKallsyms
		}
		from = tokens.next
		for layout := range tokens.layouts(region, textBase) {
			if s, err := layout.decode(region, tokens, textBase); err == nil {
				return s, nil
			}
		}
	}
}

// tokenTable is kallsyms_token_table and where it lies in the region.
type tokenTable struct {
	start, end int // of the table; end is that of the index after it
	next       int // where to look for another
	token      [256][]byte
}

// digits is the part of every token table that compression leaves alone.
var digits = []byte("0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00")

func findTokens(region []byte, from int) (tokenTable, bool) {
	for {
		at := bytes.Index(region[from:], digits)
		if at < 0 {
			return tokenTable{}, false
		}
		zero := from + at
		from = zero + 1
		if t, ok := tokensAround(region, zero); ok {
			t.next = from
			return t, true
		}
	}
}

// tokensAround decodes the table whose token '0' is at zero: the 208 tokens
// from there on, then the index, which tells where the table starts.
func tokensAround(region []byte, zero int) (t tokenTable, ok bool) {
	end := zero
	for range 256 - '0' {
		n := bytes.IndexByte(region[end:min(len(region), end+512)], 0)
		if n < 0 {
			return t, false
		}
		end += n + 1
	}
	for _, align := range []int{8, 4, 2} {
		index := (end + align - 1) &^ (align - 1)
		if index+512 > len(region) {
			continue
		}
		t.start = zero - int(binary.LittleEndian.Uint16(region[index+2*'0':]))
		t.end = index + 512
		if t.start >= 0 && t.check(region, index, end) {
			return t, true
		}
	}
	return t, false
}

func (t *tokenTable) check(region []byte, index, end int) bool {
	at := t.start
	for i := range t.token {
		if int(binary.LittleEndian.Uint16(region[index+2*i:])) != at-t.start || at >= end {
			return false
		}
		n := bytes.IndexByte(region[at:end], 0)
		if n < 0 {
			return false
		}
		t.token[i] = region[at : at+n]
		at += n + 1
	}
	return at == end
}

// kallsymsLayout says where the other tables are thought to be.
type kallsymsLayout struct {
	offsets int // kallsyms_offsets
	names   int // kallsyms_names; kallsyms_num_syms is the word 8 bytes before
	count   int
	place   bool // offsets count from where they are stored
}

// layouts yields the places where tables may be, given where the words equal
// to textBase (kallsyms_relative_base) are.
func (t *tokenTable) layouts(region []byte, textBase uint64) func(func(kallsymsLayout) bool) {
	var base [8]byte
	binary.LittleEndian.PutUint64(base[:], textBase)
	return func(yield func(kallsymsLayout) bool) {
		// Up to 6.3: offsets, relative base, count, names, markers, tokens.
		for at := t.start; ; {
			at = bytes.LastIndex(region[:at], base[:])
			if at < 0 {
				break
			}
			if at&7 != 0 || at+16 > len(region) {
				continue
			}
			n := int(binary.LittleEndian.Uint32(region[at+8:]))
			if n == 0 || n > maxSymbols || n*4 > at {
				continue
			}
			if !yield(kallsymsLayout{offsets: (at - n*4) &^ 7, names: at + 16, count: n}) {
				return
			}
		}
		// From 6.4: count, names, markers, tokens, offsets, relative base.
		offsets := (t.end + 7) &^ 7
		limit := min(len(region), offsets+maxSymbols*4)
		for at := offsets; at+8 <= limit; at += 8 {
			if !bytes.Equal(region[at:at+8], base[:]) {
				continue
			}
			for _, n := range []int{(at - offsets) / 4, (at-offsets)/4 - 1} {
				if n <= 0 {
					continue
				}
				if names, ok := namesBefore(region[:t.start], n); ok && !yield(kallsymsLayout{offsets: offsets, names: names, count: n}) {
					return
				}
			}
			break
		}
		// The same without a base, each table aligned as its entries are.
		if names, n, ok := anyNamesBefore(region[:t.start]); ok {
			for _, offsets := range []int{(t.end + 3) &^ 3, offsets} {
				if offsets+4*n <= len(region) && !yield(kallsymsLayout{offsets: offsets, names: names, count: n, place: true}) {
					return
				}
			}
		}
	}
}

// anyNamesBefore finds kallsyms_num_syms when its value is not known: a word
// followed by as many names as it says, which reach up to the markers, one for
// every 256 names, at the end of the region.
func anyNamesBefore(region []byte) (names, count int, ok bool) {
	attempts := 0
	for at := (len(region) - 16) &^ 3; at >= 0 && attempts < 256; at -= 4 {
		n := int(binary.LittleEndian.Uint32(region[at:]))
		room := len(region) - at
		if n == 0 || n > maxSymbols || n > room/3 || n < room/64 {
			continue
		}
		attempts++
		for _, start := range []int{at + 4, at + 8} { // the word was 8-byte aligned, as were all tables
			length := namesEnd(region[start:], n)
			markers := (n + 255) / 256 * 4
			if gap := len(region) - start - length - markers; length >= 0 && gap >= 0 && gap < 32 {
				return start, n, true
			}
		}
	}
	return 0, 0, false
}

// namesBefore finds kallsyms_num_syms, the last word equal to n that is
// followed by what can be n names.
func namesBefore(region []byte, n int) (names int, ok bool) {
	var count [8]byte
	binary.LittleEndian.PutUint64(count[:], uint64(n))
	for at := len(region); ; {
		at = bytes.LastIndex(region[:at], count[:])
		if at < 0 {
			return 0, false
		}
		if at&7 == 0 && namesEnd(region[at+8:], n) >= 0 {
			return at + 8, true
		}
	}
}

// namesEnd returns the length of n compressed names, -1 if they do not fit.
func namesEnd(names []byte, n int) int {
	at := 0
	for range n {
		length, head := nameLength(names, at)
		if length == 0 || at+head+length > len(names) {
			return -1
		}
		at += head + length
	}
	return at
}

// nameLength decodes the length of a name: one byte, or from 6.1 on two in
// ULEB128 when it is over 127.
func nameLength(names []byte, at int) (length, head int) {
	if at+1 >= len(names) {
		return 0, 0
	}
	if b := names[at]; b&0x80 == 0 {
		return int(b), 1
	}
	return int(names[at]&0x7f) | int(names[at+1])<<7, 2
}

func (l kallsymsLayout) decode(region []byte, tokens tokenTable, textBase uint64) (*Symbols, error) {
	limit := len(region)
	if l.names < tokens.start {
		limit = tokens.start
	}
	names, err := l.decodeNames(region[:limit], tokens)
	if err != nil {
		return nil, err
	}
	if l.place {
		addrs, err := l.placeAddresses(region, textBase)
		if err != nil {
			return nil, err
		}
		return newSymbols(addrs, names), nil
	}
	addrs := make([]uint64, l.count)
	negative := 0
	for i := range addrs {
		offset := int32(binary.LittleEndian.Uint32(region[l.offsets+4*i:]))
		if offset < 0 {
			negative++
		}
		addrs[i] = uint64(int64(offset))
	}
	// CONFIG_KALLSYMS_ABSOLUTE_PERCPU (to 6.14): offsets not negative are
	// absolute, the others count down from the base. Without it all are
	// unsigned distances from the base.
	percpu := negative > l.count/2
	for i, a := range addrs {
		switch {
		case !percpu:
			addrs[i] = textBase + uint64(uint32(a))
		case int64(a) < 0:
			addrs[i] = textBase - 1 - a
		}
	}
	return newSymbols(addrs, names), nil
}

// placeAddresses decodes offsets from where they are stored. Symbols are in
// order of address and the first one is _text, which tells where that is.
func (l kallsymsLayout) placeAddresses(region []byte, textBase uint64) ([]uint64, error) {
	addrs := make([]uint64, l.count)
	var first int64
	for i := range addrs {
		distance := int64(i)*4 + int64(int32(binary.LittleEndian.Uint32(region[l.offsets+4*i:])))
		if i == 0 {
			first = distance
		}
		addrs[i] = textBase + uint64(distance-first)
		if i > 0 && addrs[i] < addrs[i-1] {
			return nil, fmt.Errorf("%w: symbols out of order", ErrNoKallsyms)
		}
	}
	return addrs, nil
}

func (l kallsymsLayout) decodeNames(region []byte, tokens tokenTable) ([]string, error) {
	end := namesEnd(region[l.names:], l.count)
	if end < 0 {
		return nil, fmt.Errorf("%w: names run past their end", ErrNoKallsyms)
	}
	packed := region[l.names : l.names+end]
	text := make([]byte, 0, 4*len(packed))
	cuts := make([]int, 1, l.count+1)
	for at := 0; at < len(packed); {
		length, head := nameLength(packed, at)
		for _, c := range packed[at+head : at+head+length] {
			text = append(text, tokens.token[c]...)
		}
		at += head + length
		if len(text)-cuts[len(cuts)-1] < 2 || len(text) > maxSymbols*64 {
			return nil, fmt.Errorf("%w: name of %d bytes", ErrNoKallsyms, len(text)-cuts[len(cuts)-1])
		}
		cuts = append(cuts, len(text))
	}
	all := string(text)
	names := make([]string, l.count)
	for i := range names {
		names[i] = all[cuts[i]:cuts[i+1]]
	}
	return names, nil
}
