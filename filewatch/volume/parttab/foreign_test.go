package parttab_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume/parttab"
)

// Tables that Linux goes by beside what is read here are named. Those of Sun and SGI are
// sfdisk's, the others have what Linux looks at (block/partitions, 6.12), and each has a
// twin that Linux passes over.
func TestForeignTables(t *testing.T) {
	made := func(script string) []byte {
		b, err := os.ReadFile(disk(t, script))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	empty := func() []byte { return make([]byte, 16<<20) }
	inside := func(kind string) []byte { return made("label: dos\nstart=2048,size=2048,type=" + kind + "\n") }
	put := func(b []byte, off int, text string) []byte { copy(b[off:], text); return b }
	const first = 2048 * 512
	amiga := func() []byte {
		b := put(empty(), 3*512, "RDSK")
		binary.BigEndian.PutUint32(b[3*512+4:], 64)
		binary.BigEndian.PutUint32(b[3*512+8:], ^uint32(0x5244534B+64)+1)
		return b
	}
	for name, c := range map[string]struct {
		disk []byte
		want string // "" for a twin
	}{
		"Sun":                   {made("label: sun\n"), "Sun"},
		"Sun, damaged":          {put(made("label: sun\n"), 20, "x"), ""},
		"SGI":                   {made("label: sgi\n"), "SGI"},
		"SGI, damaged":          {put(made("label: sgi\n"), 100, "x"), ""},
		"Apple":                 {put(put(empty(), 0, "ER\x02\x00"), 512, "PM"), "Apple"},
		"Apple, of 2 KiB":       {put(put(empty(), 0, "ER\x08\x00"), 2048, "PM"), "Apple"},
		"Apple, no map":         {put(empty(), 0, "ER\x02\x00"), ""},
		"Amiga":                 {amiga(), "Amiga"},
		"Amiga, by Windows":     {put(amiga(), 3*512+0xDC, "Wind"), "Amiga"},
		"Amiga, damaged":        {put(amiga(), 3*512+0x20, "x"), ""},
		"Atari":                 {put(empty(), 0x1C6, "\x01GEM\x00\x00\x00\x02\x00\x00\x10\x00"), "Atari"},
		"Atari, off the end":    {put(empty(), 0x1C6, "\x01GEM\x00\x00\x00\x02\x00\xFF\x10\x00"), ""},
		"OSF":                   {put(empty(), 64, "\x57\x45\x56\x82"), "BSD or OSF"},
		"BSD over the disk":     {put(empty(), 512, "\x57\x45\x56\x82"), "BSD or OSF"},
		"Ultrix":                {put(empty(), 16384-72, "\x57\x29\x03\x00\x01\x00\x00\x00"), "Ultrix"},
		"Ultrix, not valid":     {put(empty(), 16384-72, "\x57\x29\x03\x00\x00\x00\x00\x00"), ""},
		"Karma":                 {put(put(empty(), 274, "\x4D"), 510, "\x56\xAB"), "Karma"},
		"SYSV68":                {put(empty(), 248, "MOTOROLA"), "SYSV68"},
		"AIX":                   {put(put(empty(), 0, "\xC9\xC2\xD4\xC1"), 7*512, "_LVM"), "AIX"},
		"BSD in a partition":    {put(inside("a5"), first+512, "\x57\x45\x56\x82"), "BSD disk label in partition 1"},
		"OpenBSD":               {put(inside("a6"), first+512, "\x57\x45\x56\x82"), "BSD disk label in partition 1"},
		"BSD in Linux's":        {put(inside("83"), first+512, "\x57\x45\x56\x82"), ""},
		"FreeBSD without label": {inside("a5"), ""},
		"Solaris":               {put(inside("bf"), first+512+12, "\xEE\xDE\x0D\x60"), "Solaris VTOC in partition 1"},
		"Solaris in swap":       {put(inside("82"), first+512+12, "\xEE\xDE\x0D\x60"), "Solaris VTOC in partition 1"},
		"swap":                  {put(inside("82"), first+4086, "SWAPSPACE2"), ""},
		"UnixWare":              {put(inside("63"), first+29*512+4, "\x0D\x60\x5E\xCA"), "UnixWare"},
		"Minix":                 {put(put(inside("81"), first+450, "\x81"), first+510, "\x55\xAA"), "Minix"},
		"LDM":                   {inside("42"), "LDM"},
		"SGI over an MBR":       {sgiOver(inside("83")), "SGI"},
		"Apple over an MBR":     {put(put(inside("83"), 0, "ER\x02\x00"), 512, "PM"), ""}, // as images for CDs and disks have it
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parttab.Read(bytes.NewReader(c.disk), int64(len(c.disk)))
			switch {
			case got == nil:
				t.Fatal(err)
			case c.want == "" && err != nil:
				t.Errorf("twin: %v", err)
			case c.want != "" && (!errors.Is(err, parttab.ErrNotRead) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// sgiOver makes the sector of an MBR an SGI volume header too.
func sgiOver(b []byte) []byte {
	binary.BigEndian.PutUint32(b, 0x0be5a941)
	var sum uint32
	for i := 0; i < 512; i += 4 {
		if i != 8 {
			sum += binary.BigEndian.Uint32(b[i:])
		}
	}
	binary.BigEndian.PutUint32(b[8:], -sum)
	return b
}

// A boot sector of a FAT over the whole disk, whose text makes no sense as a table, ends
// Linux's search.
func TestNothingIsSoughtBesideFAT(t *testing.T) {
	b := make([]byte, 1<<20)
	copy(b[14:], "\x01\x00\x02")
	b[21] = 0xF8
	copy(b[446:], "Z")
	copy(b[248:], "MOTOROLA")
	copy(b[510:], "\x55\xAA")
	if got, err := parttab.Read(bytes.NewReader(b), int64(len(b))); err != nil || got.Kind != parttab.None {
		t.Errorf("%+v, %v", got, err)
	}
	b[446] = 0
	b[450] = 0
	if _, err := parttab.Read(bytes.NewReader(b), int64(len(b))); !errors.Is(err, parttab.ErrNotRead) {
		t.Errorf("without its text: %v", err)
	}
}
