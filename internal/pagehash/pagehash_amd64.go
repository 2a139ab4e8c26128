package pagehash

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// The kernels compress the blocks of 4 lanes for each input, 2 or 4 inputs: lane
// 4p+i starts at inputs[p]+i*stride, and out[32*(4p+i):] gets its chaining value.
// The block number is not counted up: counters are those of the lanes' chunks.

//go:noescape
func hashAVX2(out *byte, inputs *unsafe.Pointer, stride, blocks uint64, counters *uint32, flags, first, last uint32)

//go:noescape
func hashAVX512(out *byte, inputs *unsafe.Pointer, stride, blocks uint64, counters *uint32, flags, first, last uint32)

// Flags of a compression (BLAKE3 specification, table 3).
const (
	flagChunkStart = 1 << 0
	flagChunkEnd   = 1 << 1
	flagParent     = 1 << 2
	flagRoot       = 1 << 3
)

const (
	chunkSize = 1024
	blockSize = 64
	maxLanes  = 16
)

var (
	chunkCounters  = [maxLanes]uint32{0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}
	parentCounters [maxLanes]uint32
)

func sum(digests, data []byte) {
	switch {
	case cpu.X86.HasAVX512F:
		sumWith(16, digests, data)
	case cpu.X86.HasAVX2 && len(data) > PageSize: // one page alone fills half of the lanes
		sumWith(8, digests, data)
	default:
		sumEach(digests, data)
	}
}

// work is what lies between pages and their digests: chaining values of the
// chunks, of their parents, and digests, of as many pages as there are lanes.
type work struct {
	chunks  [4 * maxLanes][DigestSize]byte
	parents [2 * maxLanes][DigestSize]byte
	roots   [maxLanes][DigestSize]byte
}

// sumWith hashes as many pages as there are lanes at a time, 8 or 16, and what
// is left at the end with lanes that work for nothing.
func sumWith(lanes int, digests, data []byte) {
	var w work
	for len(data) > 0 {
		n := min(lanes, len(data)/PageSize)
		w.hash(lanes, data[:n*PageSize])
		for i := range n {
			copy(digests[i*DigestSize:], w.roots[i][:])
		}
		data, digests = data[n*PageSize:], digests[n*DigestSize:]
	}
}

func (w *work) hash(lanes int, data []byte) {
	pages, inputs := len(data)/PageSize, lanes/4
	for page := 0; page < pages; page += inputs {
		var in [maxLanes / 4]unsafe.Pointer
		for i := range in {
			in[i] = unsafe.Pointer(&data[min(page+i, pages-1)*PageSize])
		}
		compress(lanes, &w.chunks[4*page], &in, chunkSize, &chunkCounters, 0, flagChunkStart, flagChunkEnd)
	}
	for parent := 0; parent < 2*pages; parent += lanes {
		in := each(&w.chunks[2*parent])
		compress(lanes, &w.parents[parent], &in, blockSize, &parentCounters, flagParent, 0, 0)
	}
	in := each(&w.parents[0])
	compress(lanes, &w.roots[0], &in, blockSize, &parentCounters, flagParent|flagRoot, 0, 0)
}

// each makes inputs of blocks that follow one another.
func each(first *[DigestSize]byte) (in [maxLanes / 4]unsafe.Pointer) {
	for i := range in {
		in[i] = unsafe.Add(unsafe.Pointer(first), i*4*blockSize)
	}
	return in
}

// compress runs the kernel for this number of lanes over a chunk, or over one
// block where the stride is that of blocks.
func compress(lanes int, out *[DigestSize]byte, in *[maxLanes / 4]unsafe.Pointer, stride uint64, counters *[maxLanes]uint32, flags, first, last uint32) {
	blocks := stride / blockSize
	if lanes == 16 {
		hashAVX512(&out[0], &in[0], stride, blocks, &counters[0], flags, first, last)
	} else {
		hashAVX2(&out[0], &in[0], stride, blocks, &counters[0], flags, first, last)
	}
}
