package ext4_test

import (
	"errors"
	"os"
	"path/filepath"
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
