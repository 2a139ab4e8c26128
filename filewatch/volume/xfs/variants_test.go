package xfs_test

// variants are the corners of the family as mkfs.xfs makes them.
var variants = []struct {
	name string
	size string
	args []string
}{
	{"v5", "64m", nil},
	{"v4", "64m", []string{"-m", "crc=0"}},
	{"v4-no-ftype", "64m", []string{"-m", "crc=0", "-n", "ftype=0"}},
	{"block-1k", "64m", []string{"-b", "size=1024"}},
	{"block-1k-dir-8k", "64m", []string{"-b", "size=1024", "-n", "size=8192"}},
	{"block-64k", "512m", []string{"-b", "size=65536"}},
	{"inode-2048", "64m", []string{"-i", "size=2048"}},
	{"nrext64", "64m", []string{"-i", "nrext64=1"}},
	{"all-features", "64m", []string{"-m", "reflink=1,rmapbt=1,bigtime=1,inobtcount=1", "-i", "nrext64=1,sparse=1"}},
	{"no-features", "64m", []string{"-m", "reflink=0,finobt=0,bigtime=0,inobtcount=0", "-i", "sparse=0"}},
	{"sector-4k", "64m", []string{"-s", "size=4096"}},
}
