//go:build lab

package ext4_test

import "testing"

func TestAllVariants(t *testing.T) {
	for _, v := range []variant{
		{"inode-128", "16M", []string{"-t", "ext4", "-I", "128"}},
		{"inode-1024", "16M", []string{"-t", "ext4", "-I", "1024"}},
		{"block-1k", "16M", []string{"-t", "ext4", "-b", "1024"}},
		{"block-2k", "16M", []string{"-t", "ext4", "-b", "2048"}},
		{"block-64k", "64M", []string{"-t", "ext4", "-b", "65536"}},
		{"inline-data-1024", "16M", []string{"-t", "ext4", "-O", "inline_data", "-I", "1024"}},
		{"block-map", "16M", []string{"-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"}},
		{"bigalloc-4k", "64M", []string{"-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536"}},
		{"no-flex_bg", "32M", []string{"-t", "ext4", "-b", "1024", "-g", "2048", "-O", "^flex_bg"}},
		{"no-64bit", "16M", []string{"-t", "ext4", "-O", "^64bit"}},
		{"uninit_bg", "16M", []string{"-t", "ext4", "-O", "^metadata_csum,^64bit,uninit_bg"}},
		{"checksum-seed", "16M", []string{"-t", "ext4", "-O", "metadata_csum_seed"}},
		{"orphan_file", "16M", []string{"-t", "ext4", "-O", "orphan_file"}},
		{"sparse_super2", "32M", []string{"-t", "ext4", "-b", "1024", "-g", "2048", "-O", "sparse_super2"}},
		{"no-journal", "16M", []string{"-t", "ext4", "-O", "^has_journal"}},
		{"no-filetype", "16M", []string{"-t", "ext4", "-O", "^filetype"}},
		{"casefold", "16M", []string{"-t", "ext4", "-O", "casefold"}},
		{"project-quota", "32M", []string{"-t", "ext4", "-O", "project,quota"}},
		{"fast_commit", "32M", []string{"-t", "ext4", "-O", "fast_commit"}},
		{"large_dir", "16M", []string{"-t", "ext4", "-O", "large_dir"}},
		{"verity", "16M", []string{"-t", "ext4", "-O", "verity"}},
	} {
		t.Run(v.name, func(t *testing.T) { conform(t, v) })
	}
}
