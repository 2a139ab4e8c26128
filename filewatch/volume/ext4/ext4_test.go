package ext4_test

import (
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// extTree is the common tree with attributes in the inode, in a block, as ACLs.
func extTree(xattrs bool) volumetest.Tree {
	const none = 0xFFFFFFFF
	t := volumetest.Unix()
	if !xattrs {
		return t
	}
	return append(t, volumetest.Tree{
		{Path: "x-small", Type: filewatch.TypeFile, Mode: 0o644, Content: []byte("x"), Xattrs: map[string]string{"user.a": "1", "security.foo": "\x00\x01\xff"}},
		{Path: "x-empty", Type: filewatch.TypeFile, Mode: 0o644, Xattrs: map[string]string{"user.empty": ""}},
		{Path: "x-block", Type: filewatch.TypeFile, Mode: 0o644, Xattrs: map[string]string{"user.big": strings.Repeat("v", 600), "trusted.t": "t"}},
		{Path: "x-acl", Type: filewatch.TypeFile, Mode: 0o664, Xattrs: map[string]string{
			"system.posix_acl_access": volumetest.ACL([3]uint32{1, 6, none}, [3]uint32{2, 6, 1001}, [3]uint32{4, 4, none}, [3]uint32{8, 4, 50}, [3]uint32{16, 6, none}, [3]uint32{32, 4, none})}},
		{Path: "x-dir", Type: filewatch.TypeDir, Mode: 0o755, Xattrs: map[string]string{
			"system.posix_acl_default": volumetest.ACL([3]uint32{1, 7, none}, [3]uint32{4, 5, none}, [3]uint32{32, 5, none})}},
	}...)
}

// variants are the corners of the family as mke2fs makes them.
var variants = []struct {
	name string
	size string
	args []string
}{
	{"ext2", "16M", []string{"-t", "ext2"}},
	{"ext3", "16M", []string{"-t", "ext3"}},
	{"ext4", "16M", []string{"-t", "ext4"}},
	{"inode-128", "16M", []string{"-t", "ext4", "-I", "128"}},
	{"inode-1024", "16M", []string{"-t", "ext4", "-I", "1024"}},
	{"block-1k", "16M", []string{"-t", "ext4", "-b", "1024"}},
	{"block-2k", "16M", []string{"-t", "ext4", "-b", "2048"}},
	{"block-64k", "64M", []string{"-t", "ext4", "-b", "65536"}},
	{"inline-data", "16M", []string{"-t", "ext4", "-O", "inline_data"}},
	{"inline-data-1024", "16M", []string{"-t", "ext4", "-O", "inline_data", "-I", "1024"}},
	{"block-map", "16M", []string{"-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"}},
	{"bigalloc", "32M", []string{"-t", "ext4", "-O", "bigalloc", "-C", "16384"}},
	{"bigalloc-4k", "64M", []string{"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536"}},
	{"meta_bg", "32M", []string{"-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode"}},
	{"no-flex_bg", "32M", []string{"-t", "ext4", "-b", "1024", "-g", "2048", "-O", "^flex_bg"}},
	{"no-64bit", "16M", []string{"-t", "ext4", "-O", "^64bit"}},
	{"no-checksums", "16M", []string{"-t", "ext4", "-O", "^metadata_csum"}},
	{"uninit_bg", "16M", []string{"-t", "ext4", "-O", "^metadata_csum,^64bit,uninit_bg"}},
	{"checksum-seed", "16M", []string{"-t", "ext4", "-O", "metadata_csum_seed"}},
	{"ea_inode", "16M", []string{"-t", "ext4", "-O", "ea_inode"}},
	{"orphan_file", "16M", []string{"-t", "ext4", "-O", "orphan_file"}},
	{"sparse_super2", "32M", []string{"-t", "ext4", "-b", "1024", "-g", "2048", "-O", "sparse_super2"}},
	{"no-journal", "16M", []string{"-t", "ext4", "-O", "^has_journal"}},
	{"no-filetype", "16M", []string{"-t", "ext4", "-O", "^filetype"}},
	{"casefold", "16M", []string{"-t", "ext4", "-O", "casefold"}},
	{"project-quota", "32M", []string{"-t", "ext4", "-O", "project,quota"}},
	{"fast_commit", "32M", []string{"-t", "ext4", "-O", "fast_commit"}},
	{"large_dir", "16M", []string{"-t", "ext4", "-O", "large_dir"}},
	{"verity", "16M", []string{"-t", "ext4", "-O", "verity"}},
}

func TestConformance(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			tree := extTree(true)
			img := makeImage(t, tree, v.size, v.args...)
			vol := volumetest.One(t, img)
			if want := v.name; strings.HasPrefix(want, "ext") && vol.Type != want {
				t.Errorf("type %q, want %q", vol.Type, want)
			}
			volumetest.Check(t, vol, tree, extFeatures)
		})
	}
}

// Directories become hashed trees when they are indexed.
func TestHashedDirectories(t *testing.T) {
	for _, args := range [][]string{{"-b", "1024"}, {"-b", "1024", "-O", "^metadata_csum"}, {"-b", "4096", "-O", "casefold"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			tree := extTree(false)
			img := makeImage(t, tree, "16M", append([]string{"-t", "ext4"}, args...)...)
			volumetest.Tool(t, "sh", "-c", "PATH=$PATH:/usr/sbin:/sbin; e2fsck -fyD '"+img+"'; test $? -le 1")
			if out := volumetest.Tool(t, "debugfs", "-R", "htree_dump /many", img); !strings.Contains(out, "Root node dump") {
				t.Fatalf("directory is not hashed:\n%s", out)
			}
			volumetest.Check(t, volumetest.One(t, img), tree, extFeatures)
		})
	}
}
