//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

// busy changes a tree without end, in every way that moves names, blocks and
// attributes about. Several of them share the tree, so that whatever one wants
// may have gone, be there already or find the disk full: only what the tree
// holds in the end matters, so errors do not.
func busy(root string) error {
	pid := os.Getpid()
	b := &busyTree{root: root, rng: rand.New(rand.NewPCG(uint64(pid), 1))}
	for i := range busyDirs {
		os.Mkdir(fmt.Sprintf("%s/d%d", root, i), 0o755)
	}
	for n := 0; ; n++ {
		b.step(n)
	}
}

// The tree is kept small, so that its listing takes seconds, and its names few,
// so that the processes meet.
const (
	busyDirs  = 6
	busyNames = 40
	busySize  = 96 << 10
)

type busyTree struct {
	root string
	rng  *rand.Rand
}

// name is that of a file, long or short, in one of the directories.
func (b *busyTree) name() string {
	n := b.rng.IntN(busyNames)
	long := ""
	if n%3 == 0 {
		long = "-with-a-name-that-takes-some-room-in-its-directory"
	}
	return fmt.Sprintf("%s/d%d/f%d%s", b.root, b.rng.IntN(busyDirs), n, long)
}

func (b *busyTree) step(n int) {
	p, q := b.name(), b.name()
	switch b.rng.IntN(20) {
	case 0, 1, 2:
		b.put(p, os.O_CREATE|os.O_TRUNC, b.rng.IntN(busySize), n)
	case 3, 4:
		b.put(p, os.O_CREATE|os.O_APPEND, b.rng.IntN(9000), n)
	case 5, 6: // in pieces, with holes
		b.put(p, os.O_CREATE, 1+b.rng.IntN(5000), n)
	case 7:
		os.Truncate(p, b.rng.Int64N(busySize))
	case 8, 9:
		os.Rename(p, q)
	case 10:
		os.Remove(p)
	case 11:
		os.Link(p, q)
	case 12:
		os.Symlink(fmt.Sprintf("target-%d-%0*d", n, b.rng.IntN(900), 7), p)
	case 13:
		clone(p, q)
	case 14, 15:
		name := fmt.Sprintf("user.attribute-%d", b.rng.IntN(12))
		if b.rng.IntN(4) == 0 {
			unix.Lremovexattr(p, name)
		} else {
			unix.Lsetxattr(p, name, fill(fmt.Sprint(name, n), b.rng.IntN(1<<b.rng.IntN(13))), 0)
		}
	case 16:
		os.Chmod(p, os.FileMode(b.rng.IntN(0o1000)))
		os.Lchown(p, b.rng.IntN(70000), n)
	case 17:
		b.directory(n)
	case 18:
		b.allocate(p)
	case 19:
		b.sync(p)
	}
}

// put writes content at the end or at some place.
func (b *busyTree) put(p string, flags, size, n int) {
	f, err := os.OpenFile(p, os.O_WRONLY|flags, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	content := fill(fmt.Sprint(os.Getpid(), n), size)
	if flags == os.O_CREATE {
		f.WriteAt(content, b.rng.Int64N(busySize))
	} else {
		f.Write(content)
	}
	if b.rng.IntN(4) == 0 {
		f.Sync()
	}
}

// directory makes, moves and takes away directories with something in them.
func (b *busyTree) directory(n int) {
	from, to := b.rng.IntN(busyDirs), b.rng.IntN(busyDirs)
	dir := fmt.Sprintf("%s/d%d/sub%d", b.root, from, b.rng.IntN(3))
	switch b.rng.IntN(3) {
	case 0:
		os.Mkdir(dir, 0o700)
		for i := range 20 {
			os.WriteFile(fmt.Sprintf("%s/%d-%d", dir, n%5, i), nil, 0o600)
		}
	case 1:
		os.Rename(dir, fmt.Sprintf("%s/d%d/sub%d", b.root, to, b.rng.IntN(3)))
	case 2:
		os.RemoveAll(dir)
	}
}

// allocate reserves blocks, or takes some out of the middle.
func (b *busyTree) allocate(p string) {
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	mode := uint32(0)
	if b.rng.IntN(2) == 0 {
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	unix.Fallocate(int(f.Fd()), mode, b.rng.Int64N(busySize), 1+b.rng.Int64N(40<<10))
}

// sync makes one file durable, or now and then all.
func (b *busyTree) sync(p string) {
	f, err := os.Open(p)
	if err != nil {
		return
	}
	defer f.Close()
	if b.rng.IntN(8) == 0 {
		unix.Syncfs(int(f.Fd()))
		return
	}
	f.Sync()
}
