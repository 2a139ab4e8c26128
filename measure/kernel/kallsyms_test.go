package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const testBase = 0xffffffff81000000

// tokenTables is a token table in which every character stands for itself but
// two, which are compressed, and its index.
func tokenTables() []byte {
	var table, index []byte
	for c := range 256 {
		token := "?"
		switch {
		case c == 1:
			token = "sys_"
		case c > ' ' && c < 0x7f:
			token = string(rune(c))
		}
		index = binary.LittleEndian.AppendUint16(index, uint16(len(table)))
		table = append(append(table, token...), 0)
	}
	return append(pad8(table), index...)
}

func pad8(b []byte) []byte {
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

// encodeKallsyms writes the tables as scripts/kallsyms.c orders them up to 6.3
// or, with last, from 6.4 on.
func encodeKallsyms(symbols []Symbol, last bool) []byte {
	var offsets, names []byte
	for _, s := range symbols {
		offset := int32(s.Addr)
		if s.Addr >= testBase {
			offset = int32(testBase - 1 - s.Addr)
		}
		offsets = binary.LittleEndian.AppendUint32(offsets, uint32(offset))
		packed := strings.ReplaceAll(string(s.Kind)+s.Name, "sys_", "\x01")
		if len(packed) > 127 {
			names = append(names, byte(len(packed))|0x80, byte(len(packed)>>7))
		} else {
			names = append(names, byte(len(packed)))
		}
		names = append(names, packed...)
	}
	count := pad8(binary.LittleEndian.AppendUint32(nil, uint32(len(symbols))))
	base := binary.LittleEndian.AppendUint64(nil, testBase)
	markers := pad8(make([]byte, (len(symbols)+255)/256*4))
	out := pad8([]byte("leading data that means nothing"))
	tables := [][]byte{pad8(offsets), base, count, pad8(names), markers, tokenTables()}
	if last {
		tables = [][]byte{count, pad8(names), markers, tokenTables(), pad8(offsets), base}
	}
	for _, t := range tables {
		out = append(out, t...)
	}
	return append(out, "trailing data"...)
}

func testSymbols() []Symbol {
	list := []Symbol{{0, 'A', "fixed_percpu_data"}, {0x1fb80, 'A', "current_task"}}
	for i := range 300 {
		list = append(list, Symbol{testBase + uint64(i)*64, 'T', fmt.Sprintf("sys_call%d", i)})
	}
	return append(list, Symbol{testBase + 0x8000, 't', strings.Repeat("long", 50)})
}

// placeRelative turns what encodeKallsyms wrote with offsets last into what
// kernels without a base have.
func placeRelative(symbols []Symbol) []byte {
	out := encodeKallsyms(symbols, true)
	base := binary.LittleEndian.AppendUint64(nil, testBase)
	end := bytes.LastIndex(out, base)
	copy(out[end:], make([]byte, 8))
	at := end - len(pad8(make([]byte, 4*len(symbols))))
	for i, s := range symbols {
		binary.LittleEndian.PutUint32(out[at+4*i:], uint32(s.Addr-(testBase+0xa00000+uint64(4*i))))
	}
	return out
}

func TestDecodeKallsyms(t *testing.T) {
	t.Run("offsets from their place", func(t *testing.T) {
		want := testSymbols()[2:]
		s, err := DecodeKallsyms(placeRelative(want), testBase)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, s.list()); diff != "" {
			t.Errorf("symbols (-want +got):\n%s", diff)
		}
	})
	for name, last := range map[string]bool{"offsets first, to 6.3": false, "offsets last, from 6.4": true} {
		t.Run(name, func(t *testing.T) {
			want := testSymbols()
			s, err := DecodeKallsyms(encodeKallsyms(want, last), testBase)
			if err != nil {
				t.Fatal(err)
			}
			var got []Symbol
			for sym := range s.All() {
				got = append(got, sym)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("symbols (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeKallsymsRefuses(t *testing.T) {
	whole := encodeKallsyms(testSymbols(), false)
	damaged := append([]byte(nil), whole...)
	copy(damaged[len(damaged)-200:], "no index any more") // the token index
	for name, tt := range map[string]struct {
		in   []byte
		base uint64
	}{
		"nothing":      {nil, testBase},
		"another base": {whole, testBase + 0x1000},
		"cut":          {whole[:len(whole)-400], testBase},
		"index lies":   {damaged, testBase},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := DecodeKallsyms(tt.in, tt.base); !errors.Is(err, ErrNoKallsyms) || s != nil {
				t.Errorf("got %v, %v; want %v", s, err, ErrNoKallsyms)
			}
		})
	}
}

func TestSymbolsLookup(t *testing.T) {
	s := NewSymbols([]Symbol{
		{0x100, 't', "__pfx_a"}, {0x300, 'D', "table"}, {0x110, 't', "alias"}, {0x110, 'T', "a"}, {0x200, 't', "b"},
	})
	for _, tt := range []struct {
		addr  uint64
		name  string
		start uint64
	}{{0xff, "", 0}, {0x10f, "__pfx_a", 0x100}, {0x110, "a", 0x110}, {0x1ff, "a", 0x110}, {0x250, "b", 0x200}, {0x400, "table", 0x300}} {
		name, start, ok := s.Lookup(tt.addr)
		if name != tt.name || start != tt.start || ok != (tt.name != "") {
			t.Errorf("Lookup(%#x) = %q, %#x, %v; want %q, %#x", tt.addr, name, start, ok, tt.name, tt.start)
		}
	}
	if !s.Start(0x200) || s.Start(0x201) || s.Start(0x300) {
		t.Error("Start is true of functions' first bytes only")
	}
}

func FuzzDecodeKallsyms(f *testing.F) {
	f.Add(encodeKallsyms(testSymbols(), false))
	f.Add(encodeKallsyms(testSymbols(), true))
	f.Add(placeRelative(testSymbols()[2:]))
	f.Fuzz(func(t *testing.T, in []byte) {
		if s, err := DecodeKallsyms(in, testBase); (s == nil) == (err == nil) {
			t.Fatalf("value %v and error %v", s, err)
		}
	})
}
