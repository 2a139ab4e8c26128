package ext4_test

// A variant is a corner of the family as mke2fs makes it.
type variant struct {
	name string
	size string
	args []string
}

// variants are those that share least of the code; the others need the build
// tag lab, because every image takes its time.
var variants = []variant{
	{"ext2", "16M", []string{"-t", "ext2"}},
	{"ext3", "16M", []string{"-t", "ext3"}},
	{"ext4", "16M", []string{"-t", "ext4"}},
	{"inline-data", "16M", []string{"-t", "ext4", "-O", "inline_data"}},
	{"bigalloc", "32M", []string{"-t", "ext4", "-O", "bigalloc", "-C", "16384"}},
	{"meta_bg", "32M", []string{"-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode"}},
	{"no-checksums", "16M", []string{"-t", "ext4", "-O", "^metadata_csum"}},
	{"ea_inode", "16M", []string{"-t", "ext4", "-O", "ea_inode"}},
}
