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

func TestConformance(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) { conform(t, v) })
	}
}

func conform(t *testing.T, v variant) {
	t.Parallel()
	tree := extTree(true)
	vol := volumetest.One(t, makeImage(t, tree, v.size, v.args...))
	if want := v.name; strings.HasPrefix(want, "ext") && vol.Type != want {
		t.Errorf("type %q, want %q", vol.Type, want)
	}
	volumetest.Check(t, vol, tree, extFeatures)
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
