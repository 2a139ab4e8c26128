package kernel

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// ErrOtherBuild means that a file belongs to another build than the one asked
// for.
var ErrOtherBuild = errors.New("image is of another build")

// ImageOptions are options of [OpenImage] and [NewImage].
type ImageOptions struct {
	// CacheDir keeps decompressed kernels, by the digest of the file they came
	// from; see [DefaultCacheDir]. Empty keeps none.
	CacheDir string
}

// Image is a kernel as its file says it should be: what its text and read-only
// data hold, where the kernel patches itself, and its symbols, all at the
// addresses it was linked for. It is safe for concurrent use.
type Image struct {
	BuildID string // GNU build-id, lower-case hex
	Release string // as in uname -r
	Symbols *Symbols

	base    uint64 // of _text
	relocs  *relocs
	spans   []span // every allocated section with contents, ascending
	text    span   // [_text, _etext), up to the end of its last page
	rodata  span   // [__start_rodata, __end_rodata)
	exports map[string]uint64
	// rodataEnd is where the last section of the read-only data ends.
	rodataEnd uint64
	object

	made madeOnce
}

// madeOnce is what an image gives when it is first asked for.
type madeOnce struct {
	digest       sync.Once
	symbolDigest [32]byte
	slots        sync.Once
	codeSlots    []PointerSlot
	counting     sync.Once
	countedCalls *object // with the calls that call depth tracking changes
}

// countingCalls is the object with each call in it: as many sites again, which only
// kernels that count calls need.
func (img *Image) countingCalls() *object {
	img.made.counting.Do(func() {
		o, err := imageObject(img, true)
		if err != nil { // too many sites: the calls are then findings
			o = img.object
		}
		img.made.countedCalls = &o
	})
	return img.made.countedCalls
}

// SymbolDigest stands for the symbols, as [Symbols.Digest] gives it.
func (img *Image) SymbolDigest() [32]byte {
	img.made.digest.Do(func() {
		base, _ := img.Symbols.Address("_text")
		img.made.symbolDigest = img.Symbols.Digest(base)
	})
	return img.made.symbolDigest
}

// span is a range of memory.
type span struct {
	name string
	addr uint64
	data []byte
}

func (s span) end() uint64 { return s.addr + uint64(len(s.data)) }

func (s span) holds(addr uint64, n int) bool {
	return addr >= s.addr && addr-s.addr <= uint64(len(s.data)) && uint64(n) <= s.end()-addr
}

// maxFile bounds the file of a kernel or module, in bytes: a vmlinux with what
// debuggers want has less.
const maxFile = 1 << 30

// OpenImage reads a kernel from a vmlinuz or vmlinux file. opts may be nil.
func OpenImage(path string, opts *ImageOptions) (*Image, error) {
	file, err := bin.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	img, err := NewImage(file, opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return img, nil
}

// NewImage reads a kernel from the bytes of a vmlinuz (a bzImage compressed
// with GZIP, XZ, LZ4 or ZSTD) or of a vmlinux to which the relocation tables
// are still appended, as bootloaders get it after decompression. opts may be
// nil. It returns [ErrFormat] or [ErrTooLarge] for anything else.
func NewImage(file []byte, opts *ImageOptions) (*Image, error) {
	if opts == nil {
		opts = &ImageOptions{}
	}
	vmlinux := file
	if !strings.HasPrefix(string(file[:min(4, len(file))]), "\x7fELF") {
		var err error
		if vmlinux, err = (imageCache{opts.CacheDir}).vmlinux(file); err != nil {
			return nil, err
		}
	}
	return newImage(vmlinux)
}

func newImage(vmlinux []byte) (*Image, error) {
	f, err := parseELF(vmlinux)
	if err != nil {
		return nil, err
	}
	img := &Image{}
	if err := img.load(f); err != nil {
		return nil, err
	}
	if img.relocs, err = parseRelocs(vmlinux[min(f.end, len(vmlinux)):]); err != nil {
		return nil, err
	}
	if err := img.delimit(); err != nil {
		return nil, err
	}
	img.exports = exportsOf(img)
	if img.object, err = imageObject(img, false); err != nil {
		return nil, err
	}
	return img, nil
}

// load takes what is needed from the sections.
func (img *Image) load(f *elfFile) error {
	for _, s := range f.sections {
		if s.flags&shfAlloc != 0 && s.data != nil && s.addr>>47 != 0 {
			img.spans = append(img.spans, span{s.name, s.addr, s.data})
		}
	}
	text, rodata := f.section(".text"), f.section(".rodata")
	if text == nil || rodata == nil || len(img.spans) == 0 {
		return fmt.Errorf("%w: no .text or .rodata", ErrFormat)
	}
	for i := 1; i < len(img.spans); i++ {
		if img.spans[i].addr < img.spans[i-1].end() {
			return fmt.Errorf("%w: sections overlap", ErrFormat)
		}
	}
	if notes := f.section(".notes"); notes != nil {
		img.BuildID, _ = buildIDOf(notes.data)
	}
	if img.BuildID == "" {
		return fmt.Errorf("%w: no build-id", ErrFormat)
	}
	img.base = text.addr
	var err error
	img.Symbols, err = DecodeKallsyms(rodata.data, img.base)
	if err != nil {
		return err
	}
	if at, ok := img.Symbols.Address("linux_banner"); ok {
		if words := strings.Fields(cString(img.At(at, 256), 0)); len(words) > 2 && words[0] == "Linux" {
			img.Release = words[2]
		}
	}
	return nil
}

// delimit cuts out text and read-only data.
func (img *Image) delimit() error {
	var bounds [4]uint64
	for i, name := range []string{"_text", "_etext", "__start_rodata", "__end_rodata"} {
		var ok bool
		if bounds[i], ok = img.Symbols.Address(name); !ok {
			return fmt.Errorf("%w: no symbol %s", ErrFormat, name)
		}
	}
	var err error
	if img.text, err = img.flatten("text", bounds[0], bounds[1]); err != nil {
		return err
	}
	img.rodata, err = img.flatten("rodata", bounds[2], bounds[3])
	for _, s := range img.spans {
		if s.addr < img.rodata.end() {
			img.rodataEnd = min(s.end(), img.rodata.end())
		}
	}
	return err
}

// flatten copies [start, end), rounded up to pages, with zeros where no section
// has contents.
func (img *Image) flatten(name string, start, end uint64) (span, error) {
	end = (end + 4095) &^ 4095
	if start%4096 != 0 || end <= start || end-start > maxKernelFile {
		return span{}, fmt.Errorf("%w: %s is [%#x, %#x)", ErrFormat, name, start, end)
	}
	out := span{name, start, make([]byte, end-start)}
	for _, s := range img.spans {
		if s.addr >= out.end() || s.end() <= start {
			continue
		}
		if s.addr >= start {
			copy(out.data[s.addr-start:], s.data)
		} else {
			copy(out.data, s.data[start-s.addr:])
		}
	}
	return out, nil
}

// At returns up to n bytes of the file at an address it is linked for, nil if
// none are there. Pointers among them are link-time addresses too.
func (img *Image) At(addr uint64, n int) []byte {
	for _, s := range img.spans {
		if s.holds(addr, 1) {
			return s.data[addr-s.addr : min(s.end(), addr+uint64(n))-s.addr]
		}
	}
	return nil
}

// between returns the bytes between two symbols, nil if they do not exist.
func (img *Image) between(start, stop string) span {
	from, ok := img.Symbols.Address(start)
	to, ok2 := img.Symbols.Address(stop)
	if !ok || !ok2 || to <= from || to-from > maxKernelFile {
		return span{}
	}
	b := img.At(from, int(to-from))
	if len(b) != int(to-from) {
		return span{}
	}
	return span{start, from, b}
}
