package check

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/internal/pagehash"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Digest is the BLAKE3 hash of a page, or of any body that travels by digest.
type Digest [32]byte

// DigestOf hashes b.
func DigestOf(b []byte) (d Digest) {
	if len(b) == pagehash.PageSize {
		pagehash.Sum(d[:], b)
		return d
	}
	return blake3.Sum256(b)
}

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText returns lower-case hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads hex.
func (d *Digest) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(d) {
		return fmt.Errorf("digest of %d characters", len(text))
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// PageSource gives the bytes of a page by digest.
type PageSource interface {
	// Page returns the bytes whose digest is d. They need not be checked by
	// the source: the caller hashes them.
	Page(d Digest) ([]byte, bool)
}

// Pages holds the bytes of pages by digest.
type Pages map[Digest][]byte

// Page implements [PageSource].
func (p Pages) Page(d Digest) ([]byte, bool) { b, ok := p[d]; return b, ok }

// MissingPagesError says that a judgement needs the bytes of pages that the
// [PageSource] does not have.
type MissingPagesError struct {
	Digests []Digest // without repetitions, in order of need
}

func (e *MissingPagesError) Error() string {
	return fmt.Sprintf("bytes of %d pages are needed for the judgement", len(e.Digests))
}

// region is a range of the target's virtual memory, page by page, as digests.
type region struct {
	Name  string  `json:"name"`
	Start address `json:"start"` // page-aligned
	// Digests holds one 32-byte digest per page; all zero where the page is
	// not mapped or could not be read.
	Digests []byte `json:"digests"`
	// Held are the pages of text that were read while the kernel held a lock under
	// which it patches, ascending: see quiet.go.
	Held []address `json:"held,omitempty"`
}

// maxRegion bounds one region, in pages: 1 GiB, the room of a kernel image.
const maxRegion = 1 << 18

var (
	errRegion = errors.New("region is not a whole number of pages")
	errHeld   = errors.New("pages that were held are out of order")
)

// pages is the number of pages in the region.
func (r *region) pages() int { return len(r.Digests) / len(Digest{}) }

// digest returns page i's digest and whether the page was readable.
func (r *region) digest(i int) (Digest, bool) {
	d := Digest(r.Digests[i*len(Digest{}):])
	return d, d != Digest{}
}

// set sets page i's digest.
func (r *region) set(i int, d Digest) { copy(r.Digests[i*len(d):], d[:]) }

// page returns page i's address.
func (r *region) page(i int) mem.Virt { return mem.Virt(r.Start) + mem.Virt(i)*mem.PageSize }

// validate is for regions that were decoded.
func (r *region) validate() error {
	if len(r.Digests)%len(Digest{}) != 0 || r.pages() > maxRegion || r.Start%mem.PageSize != 0 {
		return fmt.Errorf("%s: %w", r.Name, errRegion)
	}
	if len(r.Held) > r.pages() || !slices.IsSorted(r.Held) {
		return fmt.Errorf("%s: %w", r.Name, errHeld)
	}
	return nil
}

// held reports whether page i was.
func (r *region) held(i int) bool {
	_, ok := slices.BinarySearch(r.Held, address(r.page(i)))
	return ok
}

// source is memory by virtual address.
type source interface {
	// Read fills p from at. It reads all of p or fails.
	Read(p []byte, at mem.Virt) error
	// Equal reports whether memory at an address is p, with the errors of Read.
	Equal(p []byte, at mem.Virt) (bool, error)
}

// region reads the pages that hold [start, end), records their digests and
// keeps their bytes for the scan. A page that is not mapped has no digest; it
// is for the judging half to say whether it should have been.
func (c *collector) region(name string, start, end mem.Virt) (region, error) {
	return c.readRegion(name, start, end, c.space)
}

func (c *collector) readRegion(name string, start, end mem.Virt, from source) (region, error) {
	return c.readKept(name, start, end, from, c.earlier())
}

// readKept reads a region of which earlier scans may have kept the pages, and keeps
// them for later ones.
func (c *collector) readKept(name string, start, end mem.Virt, from source, earlier *earlier) (region, error) {
	first := start &^ (mem.PageSize - 1)
	n := (uint64(end-first) + mem.PageSize - 1) / mem.PageSize
	if end < start || n > maxRegion {
		return region{}, fmt.Errorf("%s [%v, %v): %w", name, start, end, errRegion)
	}
	r := region{Name: name, Start: address(first), Digests: make([]byte, n*uint64(len(Digest{})))}
	before, kept := earlier.of(&r), make([]keptPage, n)
	for i := 0; i < r.pages(); i += hashedAtOnce {
		if err := c.ctx.Err(); err != nil {
			return region{}, err
		}
		c.readPages(&r, before, kept, i, min(i+hashedAtOnce, r.pages()), from)
		c.breathe()
	}
	earlier.keep(&r, kept)
	return r, nil
}

// hashedAtOnce is how many pages are read before they are hashed: what a
// processor's second-level cache holds.
const hashedAtOnce = 64

// otherAtOnce is of how many pages, of hashedAtOnce, it is cheaper to have each in a
// piece of memory of its own than to read all anew. More would also have pages that
// stay as they are hold on to the memory of many that did not.
const otherAtOnce = 4

// readPages reads pages from to to of a region into kept, and hashes those that are not
// what they were before.
func (c *collector) readPages(r *region, before, kept []keptPage, from, to int, source source) {
	var others []int
	for i := from; i < to && before != nil && len(others) <= otherAtOnce; i++ {
		if before[i].bytes == nil {
			others = append(others, i)
		} else if same, err := source.Equal(before[i].bytes, r.page(i)); !same || err != nil {
			others = append(others, i)
		} else {
			kept[i] = before[i]
			r.set(i, before[i].digest)
			c.pages[before[i].digest] = before[i].bytes
		}
	}
	if before == nil || len(others) > otherAtOnce {
		clear(r.Digests[from*len(Digest{}) : to*len(Digest{})])
		clear(kept[from:to])
		c.readAnew(r, from, kept[from:to], source)
		return
	}
	for _, i := range others {
		c.readAnew(r, i, kept[i:i+1], source)
	}
}

// readAnew reads and hashes the pages of a region that follow from one on, into memory
// of theirs alone.
func (c *collector) readAnew(r *region, first int, into []keptPage, source source) {
	bytes := make([]byte, len(into)*mem.PageSize)
	for i := 0; i < len(into); {
		run := readRun(bytes[i*mem.PageSize:], r.page(first+i), source.Read)
		if run == 0 {
			i++
			continue
		}
		digests := r.Digests[(first+i)*len(Digest{}):]
		pagehash.Sum(digests[:run*len(Digest{})], bytes[i*mem.PageSize:(i+run)*mem.PageSize])
		for range run {
			d, _ := r.digest(first + i)
			into[i] = keptPage{d, bytes[i*mem.PageSize : (i+1)*mem.PageSize : (i+1)*mem.PageSize]}
			c.pages[d] = into[i].bytes
			i++
		}
	}
}

// readRun reads pages from an address on, up to the first that cannot be read,
// and returns how many there were.
func readRun(p []byte, at mem.Virt, read func([]byte, mem.Virt) error) (pages int) {
	for ; len(p) > 0; p, at, pages = p[mem.PageSize:], at+mem.PageSize, pages+1 {
		if read(p[:mem.PageSize], at) != nil {
			break
		}
	}
	return pages
}
