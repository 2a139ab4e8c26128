package vfat_test

import (
	"bytes"
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
