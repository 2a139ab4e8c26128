package vfat_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// What Linux finds in a directory is listed, and what it would find in the place of
// something else is told: entries behind the one that ends the directory for others,
// names that begin with a dot, and two entries for one name.
func TestDetectsDisguisedEntries(t *testing.T) {
	// Short entries of 32 bytes each: LOADER.EFI, A.TXT, B.TXT, B2.TXT.
	img, err := os.ReadFile(makeImage(t, volumetest.Names("LOADER.EFI", "A.TXT", "B.TXT", "B2.TXT"), "512", "-F", "12"))
	if err != nil {
		t.Fatal(err)
	}
	entry := func(b []byte, name string) []byte {
		at := bytes.Index(b, []byte(name))
		if at < 0 {
			t.Fatalf("no entry %q", name)
		}
		return b[at : at+32]
	}
	for name, c := range map[string]struct {
		change func(b []byte)
		names  []string
		bad    bool
	}{
		"as it is":            {func([]byte) {}, []string{"A.TXT", "B.TXT", "B2.TXT", "LOADER.EFI"}, false},
		"behind the end":      {func(b []byte) { entry(b, "B       TXT")[0] = 0 }, []string{"A.TXT", "B2.TXT", "LOADER.EFI"}, false},
		"a dot at the start":  {func(b []byte) { copy(entry(b, "B       TXT"), ".B") }, []string{".B.TXT", "A.TXT", "B2.TXT", "LOADER.EFI"}, false},
		"one name twice":      {func(b []byte) { copy(entry(b, "B2      TXT"), "B  ") }, []string{"A.TXT", "B.TXT", "B.TXT", "LOADER.EFI"}, true},
		"in another case too": {func(b []byte) { copy(entry(b, "B2      TXT"), "b  ") }, []string{"A.TXT", "B.TXT", "LOADER.EFI", "b.TXT"}, true},
		"a long name's slot that Linux takes for a label": {func(b []byte) { entry(b, "B       TXT")[0x0B] = 0x4F }, []string{"A.TXT", "B2.TXT", "LOADER.EFI"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(img)
			c.change(b)
			d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			bad := false
			err = d.Volumes[0].Names(t.Context(), func(n filewatch.Name, damage error) error {
				if damage != nil {
					bad = true
				} else {
					names = append(names, string(n.Name))
				}
				return nil
			})
			if slices.Sort(names); err != nil || bad != c.bad || !slices.Equal(names, c.names) {
				t.Errorf("%q, damaged %v, %v; want %q, %v", names, bad, err, c.names, c.bad)
			}
		})
	}
}

// Names that differ in more than the case of ASCII letters are two: other letters have
// one case by the code page or by Unicode, and none by the other.
func TestAcceptsNamesOfTwoLetters(t *testing.T) {
	img, err := os.ReadFile(makeImage(t, volumetest.Names("A.TXT", "B.TXT", "alik name.txt", "blik name.txt"), "512", "-F", "12"))
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"a\x00l\x00": "\x31\x01l\x00", "b\x00l\x00": "i\x00l\x00"} { // the one without a dot is I in upper case too
		at := bytes.Index(img, []byte(from))
		if at < 0 {
			t.Fatalf("no long name with %q", from)
		}
		copy(img[at:], to)
	}
	for name, c := range map[string]struct {
		a, b string // short names
		bad  bool
	}{
		"A and B":                          {"A", "B", false},
		"two letters of code page 866":     {"\x80", "\x87", false}, // one letter in two cases by 437
		"one letter of code page 866":      {"\x80", "\x80", true},
		"beside one letter, in two cases":  {"\x80A", "\x80a", true},
		"beside two letters, in two cases": {"\x80A", "\x87a", false},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(img)
			a, z := bytes.Index(b, []byte("A       TXT")), bytes.Index(b, []byte("B       TXT"))
			copy(b[a:], c.a)
			copy(b[z:], c.b)
			names, damaged := namesIn(t, b)
			if len(names) != 4 || errors.Is(damaged, filewatch.ErrCorrupt) != c.bad {
				t.Errorf("%q: %v", names, damaged)
			}
		})
	}
}

// namesIn lists a volume's names in their order, and what is damaged.
func namesIn(t *testing.T, b []byte) (names []string, damaged error) {
	t.Helper()
	d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Volumes[0].Names(t.Context(), func(n filewatch.Name, damage error) error {
		if damaged = errors.Join(damaged, damage); damage == nil {
			names = append(names, string(n.Name))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return names, damaged
}

// Linux leaves halves of pairs out of names (utf16s_to_utf8s): names that differ in
// these alone are one for the guest.
func TestDetectsNamesWithHalvesOfPairs(t *testing.T) {
	b, err := os.ReadFile(makeImage(t, volumetest.Names("grub name.cfg", "grXub name.cfg"), "512", "-F", "12"))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("r\x00X\x00"))
	if at < 0 {
		t.Fatal("no long name with an X")
	}
	for half, want := range map[uint16]struct {
		name string
		bad  bool
	}{0xD800: {"grub name.cfg", true}, 0xDFFF: {"grub name.cfg", true}, 0x00E9: {"gr\u00e9ub name.cfg", false}} {
		binary.LittleEndian.PutUint16(b[at+2:], half)
		names, damaged := namesIn(t, b)
		if len(names) != 2 || names[0] != want.name || errors.Is(damaged, filewatch.ErrCorrupt) != want.bad {
			t.Errorf("%#x: %q, %v", half, names, damaged)
		}
	}
}

// A short name that answers in the place of another's is told though a long one is
// shown.
func TestDetectsShortNameOfAnother(t *testing.T) {
	b, err := os.ReadFile(makeImage(t, volumetest.Names("A.TXT", "harmless long name.log"), "512", "-F", "12"))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("HARMLE~1LOG"))
	sum := func(b []byte) (s byte) {
		for _, c := range b {
			s = (s<<7 | s>>1) + c
		}
		return s
	}
	old := sum(b[at : at+11])
	copy(b[at:], "A       TXT")
	for slot := at - 32; b[slot+0x0B] == 0x0F && b[slot+0x0D] == old; slot -= 32 {
		b[slot+0x0D] = sum(b[at : at+11])
	}
	d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var damaged error
	var names []string
	if err := d.Volumes[0].Names(t.Context(), func(n filewatch.Name, damage error) error {
		damaged = errors.Join(damaged, damage)
		names = append(names, string(n.Name))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(damaged, filewatch.ErrCorrupt) || !slices.Contains(names, "harmless long name.log") {
		t.Errorf("%s: %v", strings.Join(names, " "), damaged)
	}
}

// Linux puts FAT32's clusters behind a fixed root directory that the format has not.
func TestDetectsFixedRootOfFAT32(t *testing.T) {
	b, err := os.ReadFile(makeImage(t, volumetest.Plain(), "36864", "-F", "32", "-s", "1"))
	if err != nil {
		t.Fatal(err)
	}
	b[0x11] = 16
	d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Volumes[0].Cause; !errors.Is(got, filewatch.ErrNotSupported) {
		t.Errorf("%v", got)
	}
}
