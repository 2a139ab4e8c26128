package ext4_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// A guest's root can write a journal that the kernel does not replay, or one that it
// does while the superblock seems to say otherwise: what is read is what the kernel
// reads. Each was tried on Linux 6.18's own mount.
func TestDetectsJournalsThatAreNotTheKernels(t *testing.T) {
	old := []string{"-O", "^64bit,^filetype,^metadata_csum", "-I", "128"} // reads alike without any feature
	for name, c := range map[string]struct {
		args, attack []string
		want         string
	}{
		"replayed":            {want: "journal"},
		"no journal":          {attack: []string{"feature -has_journal"}, want: "disk"},
		"nothing to replay":   {attack: []string{"feature -needs_recovery"}, want: "disk"},
		"revision 0":          {args: old, attack: []string{"ssv rev_level 0"}, want: "journal"},
		"no journal, revised": {args: old, attack: []string{"feature -has_journal", "ssv rev_level 0"}, want: "disk"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := volumetest.Tree{{Path: "passwd", Type: filewatch.TypeFile, Mode: 0o644, Content: []byte("disk")}}
			img := makeImage(t, tree, "8M", append([]string{"-t", "ext4", "-b", "1024"}, c.args...)...)
			block := filepath.Join(volumetest.Dir(t), "block")
			if err := os.WriteFile(block, append([]byte("journal"), make([]byte, 1017)...), 0o600); err != nil {
				t.Fatal(err)
			}
			at := strings.TrimSpace(volumetest.Tool(t, "debugfs", "-R", "blocks passwd", img))
			at = at[strings.LastIndexAny(at, "\n ")+1:]
			volumetest.Tool(t, "debugfs", "-w", "-f", commands(t, "sif passwd size 7", "jo", "jw -b "+at+" "+block, "jc"), img)
			for _, a := range c.attack {
				volumetest.Tool(t, "debugfs", "-w", "-R", a, img)
			}
			b, err := volumetest.One(t, img).FS().Open("passwd")
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 7)
			if n, err := b.Read(got); n != 7 {
				t.Fatal(n, err)
			}
			if s := strings.TrimRight(string(got), "\x00"); s != c.want {
				t.Errorf("read %q, the kernel reads %q", s, c.want)
			}
		})
	}
}

// commands is a script for debugfs.
func commands(t *testing.T, lines ...string) string {
	t.Helper()
	file := filepath.Join(volumetest.Dir(t), "commands")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// What an inode says of itself twice is read as Linux's own mount reads it, tried on
// 6.18: a link's target on a block of its own by the high half of its block count,
// inline data only among the inode's own attributes, none of those without extra
// fields. A bigalloc link with a block of attributes has none for its target.
func TestReadsInodesAsTheKernel(t *testing.T) {
	long := filepath.Join(volumetest.Dir(t), "long")
	if err := os.WriteFile(long, []byte(strings.Repeat("v", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	tree := volumetest.Tree{{Path: "f", Type: filewatch.TypeFile, Mode: 0o644, Content: []byte(strings.Repeat("content ", 400)), Xattrs: map[string]string{"user.own": "in the inode"}}}
	img := makeImage(t, tree, "16M", "-t", "ext4", "-b", "1024", "-C", "8192", "-O", "bigalloc,inline_data,^metadata_csum")
	open := func(lines ...string) *volume.Volume {
		volumetest.Tool(t, "debugfs", "-w", "-f", commands(t, lines...), img)
		return volumetest.One(t, img)
	}
	v := open("symlink l passwd", "ea_set -f "+long+" l user.x", "symlink s ab")
	for _, name := range []string{"l", "s"} {
		if link, err := v.FS().ReadLink(name); err != nil || len(link) == 0 {
			t.Errorf("%s leads to %q: %v", name, link, err)
		}
	}
	v = open("sif s blocks_hi 1")
	if link, err := v.FS().ReadLink("s"); err == nil && link == "ab" {
		t.Error("a link's target was read from its block map")
	}
	info, err := v.FS().Lstat("f")
	if err != nil {
		t.Fatal(err)
	}
	object := func(commands ...string) (*filewatch.Object, filewatch.Content, error) {
		return open(commands...).Object(info.Sys().(*filewatch.Object).Inode)
	}
	if o, _, err := object("sif f checksum_hi 0xEA02"); err != nil || len(o.Xattrs) != 1 {
		t.Fatal(o, err)
	}
	if o, _, err := object("sif f extra_isize 0"); err != nil || len(o.Xattrs) != 0 {
		t.Error("attributes behind no extra fields were read", o.Xattrs, err)
	}
	if o, c, err := object("sif f flags 0x10080000"); !errors.Is(err, filewatch.ErrCorrupt) || c.Inline != nil || len(c.Extents) == 0 {
		t.Error("marked as inline without inline data", o, c, err)
	}
}

// Linux lists and looks up by the tree of a hashed directory alone: a name that it
// does not lead to is gone for the guest, though it stands in a block.
func TestDetectsNamesOutsideTheHashTree(t *testing.T) {
	img := makeImage(t, extTree(false), "16M", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum")
	volumetest.Tool(t, "sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; e2fsck -fyD '"+img+"'; test $? -le 1")
	said := strings.Fields(volumetest.Tool(t, "debugfs", "-R", "bmap /many 0", img))
	root, err := strconv.ParseInt(said[len(said)-1], 10, 64)
	if err != nil {
		t.Fatal(err, said)
	}
	clean, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	le, all := binary.LittleEndian, 0
	entries := clean[root*1024+0x20:]
	if n := le.Uint16(entries[2:]); n < 4 {
		t.Fatalf("a tree of %d blocks", n)
	}
	for _, c := range []struct {
		name   string
		change func(entries []byte)
		bad    bool
	}{
		{"as it is", func([]byte) {}, false},
		{"a block left out", func(e []byte) { le.PutUint16(e[2:], le.Uint16(e[2:])-1) }, true},
		{"a block that is looked at for fewer names", func(e []byte) { le.PutUint32(e[8:], le.Uint32(e[16:])-2) }, true},
		{"a block in the place of another", func(e []byte) { copy(e[20:24], e[12:16]) }, true},
		{"two blocks exchanged", func(e []byte) {
			first := string(e[12:16])
			copy(e[12:16], e[20:24])
			copy(e[20:24], first)
		}, true},
		{"a block that is not there", func(e []byte) { le.PutUint32(e[12:], 1<<20) }, true},
		{"itself", func(e []byte) { le.PutUint32(e[12:], 0) }, true},
		{"without entries", func(e []byte) { le.PutUint16(e[2:], 0) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(clean)
			c.change(b[root*1024+0x20:])
			d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			names, bad := 0, false
			if err := d.Volumes[0].Names(t.Context(), func(_ filewatch.Name, damage error) error {
				bad = bad || damage != nil
				names++
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if c.bad {
				names-- // the damage
			}
			if all = max(all, names); bad != c.bad || names != all {
				t.Errorf("%d of %d names, damaged %v", names, all, bad)
			}
		})
	}
}

// The kernel looks for an attribute in a block no further than it can be.
func TestDetectsAttributesOutOfTheirOrder(t *testing.T) {
	tree := volumetest.Tree{{Path: "f", Type: filewatch.TypeFile, Mode: 0o644, Xattrs: map[string]string{"user.big": strings.Repeat("v", 300), "trusted.big": strings.Repeat("t", 300)}}}
	b, err := os.ReadFile(makeImage(t, tree, "8M", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^orphan_file"))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte{0, 0, 2, 0xEA, 1, 0, 0, 0, 1, 0, 0, 0}) // 1 user, 1 block
	if at < 0 || b[at+33] != 1 {
		t.Fatal("no block of attributes that begins with user's")
	}
	for index, want := range map[byte]error{1: nil, 6: filewatch.ErrCorrupt} { // 6: security
		b[at+33] = index
		d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Volumes[0].Object(12); !errors.Is(err, want) {
			t.Errorf("first attribute of index %d: %v", index, err)
		}
	}
}

// Without types the kernel takes a name's length from one byte all the same.
func TestDetectsLongerName(t *testing.T) {
	b, err := os.ReadFile(makeImage(t, volumetest.Names("login"), "2M", "-t", "ext2", "-b", "1024", "-O", "^filetype"))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("\x05\x00login"))
	if at < 0 {
		t.Fatal("no entry of the name")
	}
	b[at+1] = 1
	d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := d.Volumes[0].FS().Lstat("login"); err != nil {
		t.Error(info, err)
	}
}
