package dump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Errors of [New]. A file that ends too early is [io.ErrUnexpectedEOF].
var (
	// ErrFormat means that a file is no dump, or one that contradicts itself.
	ErrFormat = errors.New("not a memory dump")
	// ErrNotSupported means a dump of a kind that is known and not read.
	ErrNotSupported = errors.New("dump is not supported")
)

// Dump is a memory dump. It is safe for concurrent use.
type Dump struct {
	// Format is "elf", "kdump", "lime" or "raw".
	Format string

	memory   mem.Reader
	cpus     []mem.Registers
	coreInfo []byte // the kernel's description of itself, nil if the file has none
	path     string
	file     io.Closer
}

// Open opens the dump at path.
func Open(path string) (*Dump, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s: %w: not a regular file", path, ErrFormat), f.Close())
	}
	d, err := New(f, info.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	d.path, d.file = path, f
	return d, nil
}

// New reads a dump of size bytes.
func New(r io.ReaderAt, size int64) (*Dump, error) {
	src, err := newSource(r, size)
	if err != nil {
		return nil, err
	}
	head := make([]byte, min(uint64(magicSize), src.size))
	if err := src.read(head, 0); err != nil {
		return nil, err
	}
	d := &Dump{}
	switch format, err := recognise(head, src.size); {
	case err != nil:
		return nil, err
	case format == "elf":
		err = d.openELF(src)
		return d.ok(format, err)
	case format == "kdump":
		err = d.openKdump(src)
		return d.ok(format, err)
	case format == "lime":
		d.memory, err = openLiME(src)
		return d.ok(format, err)
	default:
		d.memory, err = newRanges(src, []filed{{Extent: mem.Extent{Size: src.size}}})
		return d.ok(format, err)
	}
}

func (d *Dump) ok(format string, err error) (*Dump, error) {
	if err != nil {
		return nil, fmt.Errorf("%s dump: %w", format, err)
	}
	d.Format = format
	return d, nil
}

// Target names the dump.
func (d *Dump) Target() measure.Target { return measure.Target{Kind: "dump", Path: d.path} }

// Memory reads the RAM that the dump holds. If the dump has the kernel's
// description of itself (VMCOREINFO), so has the reader, as VMCoreInfo.
func (d *Dump) Memory() mem.Reader {
	if d.coreInfo != nil {
		return described{d.memory, d.coreInfo}
	}
	return d.memory
}

// described is memory with what a note of the file says of the kernel.
type described struct {
	mem.Reader
	info []byte
}

// VMCoreInfo is the text of the note.
func (d described) VMCoreInfo() []byte { return d.info }

// Registers returns the registers of each CPU, none if the dump has none. EFER
// and the debug registers are in no dump.
func (d *Dump) Registers(context.Context) ([]mem.Registers, error) {
	return slices.Clone(d.cpus), nil
}

// Pause does nothing: a dump stands still.
func (d *Dump) Pause(context.Context) (resume func() error, err error) {
	return func() error { return nil }, nil
}

// Still says that a dump never runs.
func (d *Dump) Still() bool { return true }

// Close closes the file of [Open].
func (d *Dump) Close() error {
	if d.file == nil {
		return nil
	}
	return d.file.Close()
}

// PausedFor is zero: the target was not stopped for this scan.
func (d *Dump) PausedFor() time.Duration { return 0 }
