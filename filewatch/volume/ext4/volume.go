// Package ext4 reads ext2, ext3 and ext4 file systems.
//
// Layout: Linux Documentation/filesystems/ext4 (6.12) and fs/ext4/ext4.h,
// fs/jbd2/; the fields of every structure are cited by offset. Everything is
// little-endian but the journal, which is big-endian.
//
// The journal is replayed into memory. What metadata checksums cover is
// verified; file content has none, so nothing here says that content is whole.
package ext4

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Volume is one file system. It satisfies volume.Reader and is safe for
// concurrent use.
type Volume struct {
	// Type is "ext2", "ext3" or "ext4", as blkid(8) tells them apart.
	Type string
	// UUID and Label are those of the superblock.
	UUID, Label string
	// Replayed says in words what the journal held, "" when it was clean.
	Replayed string

	s      *super
	dev    *overlay
	groups []group
	fast   *fastCommits
	damage []error // not of one inode
}

// Open reads the superblock and the group descriptors and replays the journal
// into memory. The volume of size bytes is not written.
func Open(r io.ReaderAt, size int64) (*Volume, error) {
	v, err := open(r, size)
	if err != nil {
		return nil, fmt.Errorf("ext4: %w", err)
	}
	return v, nil
}

func open(r io.ReaderAt, size int64) (*Volume, error) {
	s, err := readSuper(r, size)
	if err != nil {
		return nil, err
	}
	v := &Volume{s: s, dev: newOverlay(r, s.blockSize, size), fast: &fastCommits{}}
	if v.groups, err = readGroups(v.dev, s); err != nil {
		return nil, err
	}
	if s.needsReplay() {
		if err := v.recover(size); err != nil {
			return nil, err
		}
	}
	v.Type, v.UUID, v.Label = v.s.kind(), v.s.uuidString(), v.s.label
	return v, nil
}

// recover replays the journal, then reads again what it may have changed.
func (v *Volume) recover(size int64) error {
	if v.s.journalInode == 0 {
		return fmt.Errorf("journal is on another device and needs replay: %w", filewatch.ErrNotSupported)
	}
	j, err := openJournal(v)
	if err != nil {
		return err
	}
	r, err := j.replay()
	if err != nil {
		return fmt.Errorf("replay journal: %w", err)
	}
	v.damage = r.damage
	v.dev.replace(r.blocks)
	if r.transactions > 0 {
		v.Replayed = fmt.Sprintf("%d transactions, %d blocks", r.transactions, len(r.blocks))
	}
	s, err := readSuper(v.dev, size)
	if err != nil {
		return fmt.Errorf("after journal replay: %w", err)
	}
	v.s = s
	if v.groups, err = readGroups(v.dev, s); err != nil {
		return err
	}
	return v.recoverFast(j, r.next)
}

// recoverFast applies the fast commits that follow the last full transaction.
func (v *Volume) recoverFast(j *journal, seq uint32) error {
	records, err := j.fastLog(seq)
	if err != nil || len(records) == 0 {
		return err
	}
	f := &fastCommits{v: v, inodes: map[uint32]*fastInode{}, dirs: map[uint32]*fastDir{}}
	v.fast = f
	for _, r := range records {
		if err := f.apply(r.tag, r.value); err != nil {
			v.damage = append(v.damage, err)
		}
	}
	v.Replayed = strings.TrimPrefix(fmt.Sprintf("%s, %d fast-commit records", v.Replayed, len(records)), ", ")
	return nil
}

// ReadAt reads the volume with its journal replayed.
func (v *Volume) ReadAt(b []byte, off int64) (int, error) { return v.dev.ReadAt(b, off) }

// ReadMany is ReadAt for many places at once, as span.Many has it.
func (v *Volume) ReadMany(bufs [][]byte, offs []int64) error { return v.dev.ReadMany(bufs, offs) }

// NextData gives the first offset at or after off that may hold data.
func (v *Volume) NextData(off int64) (int64, error) { return v.dev.NextData(off) }

// Root is the inode number of the root directory.
func (v *Volume) Root() uint64 { return rootInode }

// Object reads one inode. What could be read of a damaged inode comes with the
// error; nil only when nothing could.
func (v *Volume) Object(number uint64) (*filewatch.Object, filewatch.Content, error) {
	in, err := v.readInode(number, v.newScratch())
	if in == nil {
		return nil, filewatch.Content{}, err
	}
	o, c, derr := v.describe(in)
	return o, c, errors.Join(err, derr)
}

// List calls fn for each entry of a directory, then returns the damage met.
func (v *Volume) List(number uint64, fn func(filewatch.Name) error) error {
	in, err := v.readInode(number, v.newScratch())
	if err != nil {
		return err
	}
	_, c, err := v.describe(in)
	if lerr := v.list(in, c, fn); lerr != nil {
		return lerr
	}
	return err
}
