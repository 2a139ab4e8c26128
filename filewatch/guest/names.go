package guest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Bounds on what a hostile volume can make of its directories.
const (
	maxInode    = 1<<48 - 1 // larger than any volume numbers its inodes
	maxNameData = 1<<32 - 1<<16
)

// names has every directory entry of a volume: 16 bytes and the name for each.
// Adding and sorting come first; of and label may then be used concurrently.
type names struct {
	chunks  [][]name
	entries []name // sorted by inode
	text    [][]byte
	asked   []uint32 // one bit for each entry: its inode was asked for; see dangling

	mu   sync.Mutex
	dirs dirPaths
}

// name is one directory entry; inode numbers have 48 bits.
type name struct {
	inodeLow, parentLow   uint32
	inodeHigh, parentHigh uint16
	text                  uint32 // number of the piece and place in it, see put
}

func (n *name) inode() uint64  { return uint64(n.inodeHigh)<<32 | uint64(n.inodeLow) }
func (n *name) parent() uint64 { return uint64(n.parentHigh)<<32 | uint64(n.parentLow) }

func newNames(root uint64, point string) *names {
	t := &names{}
	t.dirs = newDirPaths(root, point, func(inode uint64) (uint64, string, bool) {
		entries := t.find(inode)
		if len(entries) == 0 {
			return 0, "", false
		}
		return entries[0].parent(), t.get(entries[0].text), true
	})
	return t
}

var errTooMany = errors.New("more directory entries than can be held")

// Entries and their text grow in pieces, so that growing never copies.
const (
	chunkLen  = 1 << 16
	textShift = 16
	textLen   = 1 << textShift
)

func (t *names) add(n filewatch.Name) error {
	e, err := t.entry(n)
	if err != nil {
		return err
	}
	last := len(t.chunks) - 1
	if last < 0 || len(t.chunks[last]) == chunkLen {
		t.chunks = append(t.chunks, make([]name, 0, chunkLen))
		last++
	}
	t.chunks[last] = append(t.chunks[last], e)
	return nil
}

// entry keeps the text of a directory entry.
func (t *names) entry(n filewatch.Name) (name, error) {
	if n.Inode > maxInode || n.Parent > maxInode || len(n.Name) > 1<<10 {
		return name{}, fmt.Errorf("directory entry of inode %d in %d: %w", n.Inode, n.Parent, filewatch.ErrCorrupt)
	}
	at, err := t.put(n.Name)
	return name{uint32(n.Inode), uint32(n.Parent), uint16(n.Inode >> 32), uint16(n.Parent >> 32), at}, err
}

// put stores the text with its length before it (2 bytes).
func (t *names) put(text []byte) (uint32, error) {
	last := len(t.text) - 1
	if last < 0 || len(t.text[last])+2+len(text) > textLen {
		if len(t.text) == maxNameData>>textShift {
			return 0, errTooMany
		}
		t.text = append(t.text, make([]byte, 0, textLen))
		last++
	}
	at := len(t.text[last])
	t.text[last] = append(append(t.text[last], byte(len(text)), byte(len(text)>>8)), text...)
	return uint32(last)<<textShift | uint32(at), nil
}

func (t *names) get(at uint32) string { return string(t.bytes(at)) }

func (t *names) bytes(at uint32) []byte {
	piece := t.text[at>>textShift][at&(textLen-1):]
	return piece[2 : 2+int(piece[0])+int(piece[1])<<8]
}

// sort ends adding. Inodes are numbered nearly without gaps, so entries are first
// put into ranges of inodes that hold one or two each, and sorted within those; a
// volume that numbers otherwise only has fuller ranges.
func (t *names) sort() {
	total, highest := 0, uint64(0)
	for _, c := range t.chunks {
		total += len(c)
		for i := range c {
			highest = max(highest, c[i].inode())
		}
	}
	shift := bits.Len64(highest / uint64(total/2+1))
	at := make([]uint32, highest>>shift+2) // where ranges end, then where they start
	for _, c := range t.chunks {
		for i := range c {
			at[c[i].inode()>>shift]++
		}
	}
	for i := 1; i < len(at); i++ {
		at[i] += at[i-1]
	}
	t.entries = make([]name, total)
	t.asked = make([]uint32, total/32+1)
	for i, c := range t.chunks {
		for _, n := range c {
			to := &at[n.inode()>>shift]
			*to--
			t.entries[*to] = n
		}
		t.chunks[i] = nil
	}
	t.chunks = nil
	for i := range len(at) - 1 {
		if part := t.entries[at[i]:at[i+1]]; len(part) > 1 {
			slices.SortFunc(part, t.compare)
		}
	}
}

// compare orders by inode, then by directory and text.
func (t *names) compare(a, b name) int {
	if c := cmp.Compare(a.inode(), b.inode()); c != 0 {
		return c
	}
	if c := cmp.Compare(a.parent(), b.parent()); c != 0 {
		return c
	}
	return bytes.Compare(t.bytes(a.text), t.bytes(b.text))
}

// find is the run of entries that name inode.
func (t *names) find(inode uint64) []name {
	first, end := t.run(inode)
	return t.entries[first:end]
}

func (t *names) run(inode uint64) (first, end int) {
	first = sort.Search(len(t.entries), func(i int) bool { return t.entries[i].inode() >= inode })
	end = first
	for end < len(t.entries) && t.entries[end].inode() == inode {
		end++
	}
	return first, end
}

// of gives the paths of an inode in the guest, sorted; nil for none.
func (t *names) of(inode uint64) []string {
	if inode == t.dirs.root {
		return []string{t.dirs.point}
	}
	first, end := t.run(inode)
	if first == end {
		return nil
	}
	atomic.OrUint32(&t.asked[first/32], 1<<(first%32))
	entries := t.entries[first:end]
	var out []string
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range entries {
		if dir, ok := t.dirs.of(entries[i].parent(), 0); ok {
			out = append(out, join(dir, t.get(entries[i].text)))
		}
	}
	if len(out) > 1 {
		slices.Sort(out)
		out = slices.Compact(out)
	}
	return out
}

// label says which directory that is, for people.
func (t *names) label(inode uint64) string {
	if paths := t.of(inode); len(paths) > 0 {
		return filewatch.EscapePath(paths[0])
	}
	return fmt.Sprintf("directory inode %d", inode)
}
