package dump

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

func open(b []byte) (*Dump, error) { return New(bytes.NewReader(b), int64(len(b))) }

func mustOpen(t *testing.T, b []byte) *Dump {
	t.Helper()
	d, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDumpsConform(t *testing.T) {
	notes := realNotes(t)
	shuffled := []area{ram()[2], ram()[0], ram()[1]}
	files := map[string][]byte{
		"elf":           elfDump(notes, ram()),
		"elf, shuffled": elfDump(notes, shuffled),
		"elf, counted":  countedElsewhere(elfDump(notes, ram()), uint32(1+len(ram()))),
		"lime":          limeDump(shuffled),
	}
	for name, p := range packs {
		files["kdump, "+name] = kdump(notes, ram(), p)
		files["kdump, flattened, "+name] = flatten(kdump(notes, ram(), p))
	}
	for name, b := range files {
		t.Run(name, func(t *testing.T) {
			memtest.Test(t, mustOpen(t, b).Memory(), memtest.Options{Extents: ramExtents, Bytes: ramBytes()})
		})
	}
}

func TestRawConforms(t *testing.T) {
	b := make([]byte, minRaw)
	copy(b[0x1234:], "here")
	d := mustOpen(t, b)
	memtest.Test(t, d.Memory(), memtest.Options{
		Extents: []mem.Extent{{Start: 0, Size: minRaw}},
		Bytes:   map[mem.Phys][]byte{0x1234: []byte("here")},
	})
	if regs, err := d.Registers(t.Context()); len(regs) != 0 || err != nil {
		t.Errorf("a raw image has registers: %v, %v", regs, err)
	}
}

// What a dump of a real machine has of registers is what its monitor showed at
// the same stop.
func TestRegistersAreTheMonitors(t *testing.T) {
	text, err := os.ReadFile("testdata/registers")
	if err != nil {
		t.Fatal(err)
	}
	want, err := qemu.ParseRegisters(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		want[i].EFER, want[i].DR = 0, [8]uint64{}
		want[i].Missing = []string{"EFER", "DR7"}
	}
	for name, b := range map[string][]byte{
		"elf":   elfDump(realNotes(t), ram()),
		"kdump": kdump(realNotes(t), ram(), packs["zlib"]),
	} {
		got, err := mustOpen(t, b).Registers(context.Background())
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
}

func TestOpenNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.elf")
	if err := os.WriteFile(path, elfDump(realNotes(t), ram()), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if target := d.Target(); target.Kind != "dump" || target.Path != path || d.Format != "elf" {
		t.Errorf("target %+v, format %s", target, d.Format)
	}
	resume, err := d.Pause(t.Context())
	if err != nil || resume() != nil || d.PausedFor() != 0 {
		t.Errorf("pausing a dump: %v", err)
	}
}

// edited returns b with values written over it.
func edited(b []byte, at int, values ...any) []byte {
	b = bytes.Clone(b)
	put(b, at, values...)
	return b
}

func TestHostileFiles(t *testing.T) {
	notes := realNotes(t)
	elf := elfDump(notes, ram())
	lime := limeDump(ram())
	kd := kdump(notes, ram(), packs["zlib"])
	flat := flatten(kdump(notes, ram()[:1], packs["zlib"]))
	load := elfHeader + progHeader // of the first range
	overlap := ram()
	overlap[1].at = 0x2000
	tests := map[string]struct {
		file []byte
		want error
	}{
		"empty":                     {nil, ErrFormat},
		"text":                      {[]byte("no dump\n"), ErrFormat},
		"not whole pages":           {make([]byte, minRaw+1), ErrFormat},
		"gzip":                      {append([]byte("\x1f\x8b"), make([]byte, minRaw)...), ErrNotSupported},
		"migration stream":          {[]byte("QEVM...."), ErrNotSupported},
		"elf: a program":            {edited(elf, 16, uint16(2)), ErrFormat},
		"elf: 32 bits":              {edited(elf, 4, uint8(1)), ErrNotSupported},
		"elf: other machine":        {edited(elf, 18, uint16(183)), ErrNotSupported},
		"elf: header size":          {edited(elf, 54, uint16(8)), ErrFormat},
		"elf: more headers":         {edited(elf, 56, uint16(0xfffe)), io.ErrUnexpectedEOF},
		"elf: headers in section 0": {edited(elf, 56, uint16(0xffff)), ErrFormat},
		"elf: with paging":          {countedElsewhere(elf, maxRanges+1), ErrNotSupported},
		"elf: sections far away":    {edited(edited(elf, 56, uint16(0xffff)), 40, ^uint64(0)), io.ErrUnexpectedEOF},
		"elf: table far away":       {edited(elf, 32, ^uint64(0)-8), io.ErrUnexpectedEOF},
		"elf: no RAM":               {elfDump(notes, nil), ErrFormat},
		"elf: ranges overlap":       {elfDump(notes, overlap), ErrFormat},
		"elf: range wraps":          {edited(elf, load+24, ^uint64(0)-0xfff), ErrFormat},
		"elf: range of 2^64-1":      {edited(elf, load+32, ^uint64(0)), io.ErrUnexpectedEOF},
		"elf: RAM cut off":          {elf[:len(elf)-1], io.ErrUnexpectedEOF},
		"elf: notes far away":       {edited(elf, elfHeader+8, ^uint64(0)), io.ErrUnexpectedEOF},
		"elf: huge notes":           {edited(elf, elfHeader+32, uint64(1<<40)), ErrFormat},
		"elf: note without end":     {elfDump(edited(notes, 4, ^uint32(0)), ram()), io.ErrUnexpectedEOF},
		"elf: a CPU is missing":     {elfDump(notes[:len(notes)-460], ram()), ErrFormat},
		"lime: version":             {edited(lime, 4, uint32(2)), ErrNotSupported},
		"lime: ends before start":   {edited(lime, 8, uint64(1), uint64(0)), ErrFormat},
		"lime: all addresses":       {edited(lime, 8, uint64(0), ^uint64(0)), ErrFormat},
		"lime: RAM cut off":         {lime[:len(lime)-1], io.ErrUnexpectedEOF},
		"lime: header cut off":      {append(bytes.Clone(lime), 'E'), io.ErrUnexpectedEOF},
		"lime: garbage follows":     {append(bytes.Clone(lime), make([]byte, 32)...), ErrFormat},
		"lime: ranges overlap":      {limeDump(overlap), ErrFormat},
		"kdump: version":            {edited(kd, 8, uint32(7)), ErrNotSupported},
		"kdump: incomplete":         {edited(kd, 424, uint32(dumpIncomplete)), io.ErrUnexpectedEOF},
		"kdump: block size":         {edited(kd, 428, uint32(1<<16)), ErrNotSupported},
		"kdump: sub header size":    {edited(kd, 432, ^uint32(0)), io.ErrUnexpectedEOF},
		"kdump: odd bitmaps":        {edited(kd, 436, uint32(3)), ErrFormat},
		"kdump: frames":             {edited(kd, mem.PageSize+96, uint64(1<<60)), ErrFormat},
		"kdump: one of several":     {edited(kd, mem.PageSize+12, uint32(1)), ErrNotSupported},
		"kdump: page cut off":       {kd[:len(kd)-1], io.ErrUnexpectedEOF},
		"kdump: header cut off":     {kd[:400], io.ErrUnexpectedEOF},
		"flat: no end":              {flat[:len(flat)-1], io.ErrUnexpectedEOF},
		"flat: write cut off":       {flat[:len(flat)/2], io.ErrUnexpectedEOF},
		"flat: write of 2^64-2":     {edited(flat, flatHeader+8, ^uint64(0)-256), io.ErrUnexpectedEOF},
		"flat: one over another":    {append(flat[:len(flat)-flatRecord:len(flat)-flatRecord], flat[flatHeader:]...), ErrFormat},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if d, err := open(tt.file); !errors.Is(err, tt.want) || d != nil {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestHostilePages(t *testing.T) {
	bomb := pack{packedZlib, func([]byte) []byte { return packs["zlib"].bytes(make([]byte, 1<<20)) }}
	tests := map[string]struct {
		pack pack
		want error
	}{
		"not LZO":         {pack{packedLZO, bytes.Clone}, ErrFormat},
		"LZO too long":    {pack{packedLZO, func(b []byte) []byte { return packs["lzo"].bytes(make([]byte, mem.PageSize+1)) }}, ErrFormat},
		"unknown flags":   {pack{0x400, bytes.Clone}, ErrNotSupported},
		"not zlib":        {pack{packedZlib, bytes.Clone}, ErrFormat},
		"not snappy":      {pack{packedSnappy, bytes.Clone}, ErrFormat},
		"not zstd":        {pack{packedZstd, bytes.Clone}, ErrFormat},
		"zlib bomb":       {bomb, ErrFormat},
		"zstd bomb":       {pack{packedZstd, func([]byte) []byte { return packs["zstd"].bytes(make([]byte, 64<<20)) }}, ErrFormat},
		"snappy too long": {pack{packedSnappy, func([]byte) []byte { return packs["snappy"].bytes(make([]byte, 1<<16)) }}, ErrFormat},
		"short page":      {pack{0, func(b []byte) []byte { return b[:100] }}, ErrFormat},
		"empty page":      {pack{0, func(b []byte) []byte { return nil }}, ErrFormat},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := mustOpen(t, kdump(nil, ram()[:2], tt.pack))
			if err := d.Memory().ReadPhys(make([]byte, 8), 0x1000); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func FuzzNew(f *testing.F) {
	notes := realNotes(f)
	f.Add(elfDump(notes, ram()[:1]))
	f.Add(limeDump(ram()))
	f.Add(kdump(notes, ram()[:2], packs["zlib"]))
	f.Add(flatten(kdump(nil, ram()[:1], packs["snappy"])))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := open(b)
		if (d == nil) == (err == nil) {
			t.Fatalf("%v and %v", d, err)
		}
		if err != nil {
			return
		}
		var last mem.Phys
		for _, e := range d.Memory().Extents() {
			if e.Size == 0 || e.Start < last {
				t.Fatalf("extent %v+%#x after %v", e.Start, e.Size, last)
			}
			last = e.End()
			d.Memory().ReadPhys(make([]byte, min(e.Size, 8192)), e.Start)
		}
	})
}
