package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// TestModuleSymbolsBounded: a small table whose symbols all have one long name
// does not become a large one.
func TestModuleSymbolsBounded(t *testing.T) {
	name := append(bytes.Repeat([]byte("a"), maxSymbolName-1), 0)
	entry := make([]byte, elfSymbolSize)
	binary.LittleEndian.PutUint16(entry[6:], 1)
	table := bytes.Repeat(entry, 1<<17)
	if _, err := parseModuleSymbols(table, make([]byte, 1<<17), name); !errors.Is(err, ErrModule) {
		t.Errorf("2^17 symbols with a name of %d bytes: %v", len(name)-1, err)
	}
	few, err := parseModuleSymbols(table[:10*elfSymbolSize], make([]byte, 10), name)
	if err != nil || few.Len() != 10 || few.Memory() < 10*len(name) {
		t.Errorf("10 of them: %v, %d bytes", err, few.Memory())
	}
}

// TestModuleSymbolsKept: what a profile keeps of symbols is bounded in all.
func TestModuleSymbolsKept(t *testing.T) {
	k := &moduleTypes{bySymbols: make(map[[32]byte]*ModuleSymbols)}
	entry := make([]byte, elfSymbolSize)
	binary.LittleEndian.PutUint16(entry[6:], 1)
	table := bytes.Repeat(entry, 1<<15)
	for i := range 64 { // 64 times 2^15 symbols of 500 bytes are 1 GiB
		name := append(bytes.Repeat([]byte{byte('!' + i)}, 300), 0)
		if _, err := k.symbolsOf(table, make([]byte, 1<<15), name); err != nil {
			t.Fatal(err)
		}
		if k.symbols > maxKeptSymbols || len(k.bySymbols) > maxKeptSymbols/(1<<15*300) {
			t.Fatalf("%d tables kept, %d bytes", len(k.bySymbols), k.symbols)
		}
	}
	if _, err := k.symbolsOf(table, make([]byte, 1<<15), []byte("b\x00")); err != nil || len(k.bySymbols) == 0 {
		t.Errorf("after that nothing is kept: %v", err)
	}
}
