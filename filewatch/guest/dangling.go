package guest

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// maxDangling bounds how many names are told one by one.
const maxDangling = 100

// dangling gives the names whose inodes of was not asked for once all objects were
// visited, and why: a name without an object is no state that a file system comes to,
// and an inode that a volume does not own up to is where to hide a file. A kernel reads
// an inode that its superblock calls a quota's, or its group's descriptor unused.
func (t *names) dangling(fn func(what string, err error)) {
	told, more := 0, 0
	for first := 0; first < len(t.entries); {
		n := &t.entries[first]
		end := first + 1
		for end < len(t.entries) && t.entries[end].inode() == n.inode() {
			end++
		}
		known := t.asked[first/32]&(1<<(first%32)) != 0 || n.inode() == t.dirs.root
		first = end
		switch {
		case known:
		case told < maxDangling:
			told++
			fn(t.label(n.parent())+": "+filewatch.EscapePath(t.get(n.text)), danglingError(n.inode()))
		default:
			more++
		}
	}
	if more > 0 {
		fn("directories", fmt.Errorf("%d further names lead to inodes that are not in use: %w", more, filewatch.ErrCorrupt))
	}
}

func danglingError(inode uint64) error {
	return fmt.Errorf("this name leads to inode %d, which the volume says is not in use or its own: %w", inode, filewatch.ErrCorrupt)
}
