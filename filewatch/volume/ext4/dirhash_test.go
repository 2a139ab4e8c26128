package ext4_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/ext4"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// debugfs hashes names as this reader does, with and without a seed.
func TestNameHashes(t *testing.T) {
	img := makeImage(t, volumetest.Tree{{Path: "f", Type: filewatch.TypeFile, Mode: 0o644}}, "1M", "-t", "ext4")
	for version, kind := range []string{"legacy", "half_md4", "tea"} {
		// A seed is always given: without one e2fsprogs 1.47.0 takes zeros, 1.47.2 the image's.
		for seed, words := range map[string][4]uint32{"00000000-0000-0000-0000-000000000000": {}, "01020304-0506-0708-090a-0b0c0d0e0f10": {0x04030201, 0x08070605, 0x0c0b0a09, 0x100f0e0d}} {
			for _, name := range []string{"a", "abc", "abcd", "sixteen-letters-", "sixteen-letters-and-more", strings.Repeat("thirty-two-letters-in-one-name--", 3), "gr\u00fc\u00dfe"} {
				out := volumetest.Tool(t, "debugfs", "-R", "dx_hash -h "+kind+" -s "+seed+" "+name, img)
				var want uint32
				if _, err := fmt.Sscanf(out[strings.Index(out, " is ")+4:], "0x%x", &want); err != nil {
					t.Fatal(err, out)
				}
				if got := ext4.NameSum(byte(version), words, name); got != want {
					t.Errorf("%s %s of %q: %#x, debugfs has %#x", kind, seed, name, got, want)
				}
			}
		}
	}
}

// With both bits of how characters were taken Linux goes by the one without signs.
func TestHashesOfBothSigns(t *testing.T) {
	const name = "gr\u00fc\u00dfe"
	signed, unsigned := ext4.NameSigned(name, true), ext4.NameSigned(name, false)
	if signed == unsigned {
		t.Fatal("a name whose hashes do not differ")
	}
	for signs, want := range map[uint32][2]bool{0: {true, true}, 1: {true, false}, 2: {false, true}, 3: {false, true}} {
		if got := [2]bool{ext4.NameLeads(signs, name, signed), ext4.NameLeads(signs, name, unsigned)}; got != want {
			t.Errorf("flags %d: found with signs %v, without %v, want %v", signs, got[0], got[1], want)
		}
	}
}

// A directory that ignores case hashes names in lower case, as e2fsck builds its
// tree; names that are not ASCII are taken as they are.
func TestAcceptsHashesWithoutCase(t *testing.T) {
	src, img := volumetest.Dir(t), filepath.Join(volumetest.Dir(t), "img")
	if err := os.Mkdir(src+"/many", 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 400 {
		name := fmt.Sprintf("A-File-With-A-Name-%d", i)
		if i%8 == 0 {
			name = fmt.Sprintf("Gr\u00fc\u00dfe-\u00c4-%d", i)
		}
		if err := os.WriteFile(filepath.Join(src, "many", name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	volumetest.Tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "casefold", "-d", src, img, "16M")
	debugfs(t, img, "sif many flags 0x40080000")
	volumetest.Tool(t, "sh", "-c", "e2fsck -fyD '"+img+"'; test $? -le 1")
	if out := volumetest.Tool(t, "debugfs", "-R", "htree_dump /many", img); !strings.Contains(out, "Root node dump") {
		t.Fatalf("directory is not hashed:\n%s", out)
	}
	names := 0
	if err := volumetest.One(t, img).Names(t.Context(), func(_ filewatch.Name, damage error) error {
		names++
		return damage
	}); err != nil || names < 400 {
		t.Errorf("%d names: %v", names, err)
	}
}

// A tree takes memory for each block that it leads to: these are blocks that the
// directory has, and not more than any directory's.
func TestBoundsHashTree(t *testing.T) {
	for name, c := range map[string]struct {
		nodes, leaves int
		mapped        int64
		want          error
	}{
		"as it should be": {3, 8000, 1 + 3 + 3*8000, nil},
		"a hole":          {3, 8000, 1 + 3 + 3*8000 - 1, filewatch.ErrCorrupt},
		"the most":        {256, 1<<13 - 1, 1 + 256<<13, nil},
		"without end":     {300, 1<<13 - 1, 1 + 300<<13, filewatch.ErrNotSupported},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ext4.TreeOf(c.nodes, c.leaves, c.mapped)
			if !errors.Is(err, c.want) || c.want == nil && (err != nil || got != c.nodes*(c.leaves+1)) {
				t.Errorf("%d blocks, %v; want %v", got, err, c.want)
			}
		})
	}
}
