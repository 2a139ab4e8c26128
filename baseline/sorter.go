package baseline

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// runSize is how many encoded bytes are sorted in memory before they go to a
// temporary file, about 90,000 records; chunkSize is how many lie together.
const (
	runSize   = 12 << 20
	chunkSize = 1 << 20
)

// sorter puts any number of encoded records in order with bounded memory: full
// runs are sorted and spilled, compressed, to one unlinked temporary file.
type sorter struct {
	mu      sync.Mutex
	dir     string
	chunks  [][]byte // the run in memory; they never grow
	used    int      // of chunks
	size    int      // of the run
	entries []span
	spill   *os.File
	packer  *zstd.Encoder // of the runs
	runs    []extent
	end     int64
}

// span is one record of the run in memory, its length prefix included. part is
// the sorting's own.
type span struct {
	part             uint64
	chunk, off, size uint32
}

// extent is one spilled run in the temporary file.
type extent struct{ off, size int64 }

// newSorter spills to dir, "" for the system's directory for temporary files.
func newSorter(dir string) *sorter { return &sorter{dir: dir} }

// add takes one encoded record; safe for concurrent use.
func (s *sorter) add(encoded []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size+len(encoded) > runSize && s.size > 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	c := s.chunk(len(encoded))
	s.entries = append(s.entries, span{chunk: uint32(s.used - 1), off: uint32(len(*c)), size: uint32(len(encoded))})
	*c = append(*c, encoded...)
	s.size += len(encoded)
	return nil
}

// chunk is one with room for n bytes.
func (s *sorter) chunk(n int) *[]byte {
	if s.used > 0 {
		if c := &s.chunks[s.used-1]; cap(*c)-len(*c) >= n {
			return c
		}
	}
	if s.used == len(s.chunks) {
		s.chunks = append(s.chunks, nil)
	}
	c := &s.chunks[s.used]
	if *c = (*c)[:0]; cap(*c) < n {
		*c = make([]byte, 0, max(n, chunkSize))
	}
	s.used++
	return c
}

func (s *sorter) record(e span) []byte { return s.chunks[e.chunk][e.off : e.off+e.size] }

// eachOfRun sorts the halves of the run at the same time, then merges them for fn.
func (s *sorter) eachOfRun(fn func(encoded []byte) error) error {
	low, high := s.entries[:len(s.entries)/2], s.entries[len(s.entries)/2:]
	var other sync.WaitGroup
	other.Go(func() { s.sort(low, 0) })
	s.sort(high, 0)
	other.Wait()
	for len(low)+len(high) > 0 {
		from := &low
		if len(low) == 0 || len(high) > 0 && s.compare(high[0], low[0]) < 0 {
			from = &high
		}
		if err := fn(s.record((*from)[0])); err != nil {
			return err
		}
		*from = (*from)[1:]
	}
	return nil
}

func (s *sorter) compare(a, b span) int { return compareEncoded(s.record(a), s.record(b)) }

// sort sorts records whose paths are alike up to depth, by the next 8 bytes, then
// those alike in these by what follows. So most comparisons are of numbers that lie
// together, not of records all over the memory. A path that ends is before those
// that go on, and zeros behind its end never say otherwise.
func (s *sorter) sort(list []span, depth int) {
	const few = 8
	if len(list) <= few {
		slices.SortFunc(list, s.compare)
		return
	}
	ended := true
	for i := range list {
		path, _ := splitKey(s.record(list[i]))
		ended = ended && len(path) <= depth
		list[i].part = partOf(path[min(depth, len(path)):])
	}
	if ended {
		slices.SortFunc(list, s.compare)
		return
	}
	slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.part, b.part) })
	for start, end := 0, 1; end <= len(list); end++ {
		if end == len(list) || list[end].part != list[start].part {
			if end-start > 1 {
				s.sort(list[start:end], depth+8)
			}
			start = end
		}
	}
}

// partOf are up to 8 bytes as a number of the same order.
func partOf(b []byte) uint64 {
	if len(b) >= 8 {
		return binary.BigEndian.Uint64(b)
	}
	var part uint64
	for i := range 8 {
		part <<= 8
		if i < len(b) {
			part |= uint64(b[i])
		}
	}
	return part
}

// flush spills the run in memory.
func (s *sorter) flush() error {
	if s.spill == nil {
		f, err := os.CreateTemp(s.dir, ".plumbline-sort-*")
		if err != nil {
			return fmt.Errorf("make temporary file: %w", err)
		}
		os.Remove(f.Name())
		s.spill = f
	}
	section := &counter{w: io.NewOffsetWriter(s.spill, s.end)}
	if s.packer == nil {
		var err error
		s.packer, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10))
		if err != nil {
			return err
		}
	}
	z := s.packer
	z.Reset(section)
	err := s.eachOfRun(func(encoded []byte) error {
		_, err := z.Write(encoded)
		return err
	})
	if err != nil {
		return fmt.Errorf("write temporary file: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("write temporary file: %w", err)
	}
	s.runs = append(s.runs, extent{s.end, section.n})
	s.end += section.n
	s.used, s.size, s.entries = 0, 0, s.entries[:0]
	return nil
}

// each calls fn for every record in order. The bytes are valid during the call.
func (s *sorter) each(fn func(encoded []byte) error) error {
	if len(s.runs) == 0 {
		return s.eachOfRun(fn)
	}
	if len(s.entries) > 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	s.chunks, s.entries, s.packer = nil, nil, nil
	return s.merge(fn)
}

func (s *sorter) merge(fn func(encoded []byte) error) error {
	var runs []sorted.Run
	for _, at := range s.runs {
		r, err := newRunReader(io.NewSectionReader(s.spill, at.off, at.size))
		if err != nil {
			return err
		}
		defer r.z.Close()
		runs = append(runs, r)
	}
	return sorted.Merge(runs, compareEncoded, fn)
}

// close frees the temporary file.
func (s *sorter) close() {
	if s.spill != nil {
		s.spill.Close()
	}
}

type runReader struct {
	z       *zstd.Decoder
	r       *bufio.Reader
	current []byte
}

func newRunReader(r io.Reader) (*runReader, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return &runReader{z: z, r: bufio.NewReaderSize(z, 64<<10)}, nil
}

// Next implements [sorted.Run]: one record, length prefix included.
func (r *runReader) Next() ([]byte, error) {
	n, err := binary.ReadUvarint(r.r)
	if errors.Is(err, io.EOF) {
		r.z.Close() // what it holds is needed for other runs
		return nil, nil
	}
	if err == nil && n > maxRecord {
		err = ErrDamaged
	}
	if err != nil {
		return nil, fmt.Errorf("read temporary file: %w", err)
	}
	r.current = binary.AppendUvarint(r.current[:0], n)
	head := len(r.current)
	r.current = slices.Grow(r.current, int(n))[:head+int(n)]
	if _, err := io.ReadFull(r.r, r.current[head:]); err != nil {
		return nil, fmt.Errorf("read temporary file: %w: %w", ErrDamaged, err)
	}
	return r.current, nil
}

// compareEncoded orders encoded records by path, then volume, then inode.
func compareEncoded(a, b []byte) int {
	pathA, restA := splitKey(a)
	pathB, restB := splitKey(b)
	if c := bytes.Compare(pathA, pathB); c != 0 {
		return c
	}
	volumeA, restA := splitString(restA)
	volumeB, restB := splitString(restB)
	return cmp.Or(bytes.Compare(volumeA, volumeB), bytes.Compare(restA, restB))
}

// splitKey takes the path from an encoded record that this process encoded.
func splitKey(encoded []byte) (path, rest []byte) {
	_, n := binary.Uvarint(encoded)
	return splitString(encoded[n:])
}

func splitString(b []byte) (s, rest []byte) {
	size, n := binary.Uvarint(b)
	return b[n : n+int(size)], b[n+int(size):]
}

// counter counts what passes.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
