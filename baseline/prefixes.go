package baseline

import (
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// prefix is the old content of a growing file.
type prefix struct {
	size int64
	want Digest
	// mtime is zero where only a state of scans has it.
	mtime time.Time
	// path is where the baseline has it; asked is that of a [Log].
	path  []byte
	asked bool
	kept  bool // set during the capture: the old content is still there
	was   bool // what kept is again where the content is the last capture's
	// in are the objects, rotations of the log by their names when they were read,
	// that begin with it; wasIn as was. Guarded by the log's mutex.
	in, wasIn []filewatch.ID
	elsewhere int // of in, those that are known to be in another directory
	before    int // of in, those that an earlier capture noted
	// unsought: not all was looked into that may have it; guarded as in.
	unsought bool
	also     *prefix
}

// prefixes are the old contents of growing files by the objects that had them. A
// baseline may have several records of one identity: where a volume keeps no
// generations an inode number is used again, and of the changes that come of it not
// all need to have been accepted.
type prefixes map[filewatch.ID]*prefix

// add adds the old content of an object, or returns it where it is there.
func (m prefixes) add(id filewatch.ID, size int64, want Digest) *prefix {
	for p := m[id]; p != nil; p = p.also {
		if p.size == size && p.want == want {
			return p
		}
	}
	m[id] = &prefix{size: size, want: want, also: m[id]}
	return m[id]
}

// of returns the old content that a record of the baseline has, nil for none.
func (m prefixes) of(old *Record) *prefix {
	for p := m[old.ID()]; p != nil; p = p.also {
		if p.size == old.Size && p.want == old.BLAKE3 {
			return p
		}
	}
	return nil
}

// allKept says that all of an object's old contents are still there.
func (p *prefix) allKept() bool {
	for ; p != nil; p = p.also {
		if !p.kept {
			return false
		}
	}
	return true
}
