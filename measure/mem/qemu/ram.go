package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"sync"

	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// RAM is a virtual machine's memory. It is safe for concurrent use.
type RAM struct {
	parts   []part
	extents []mem.Extent
	files   []*os.File
}

// part is a guest-physical range that lies in one piece in one file.
type part struct {
	mem.Extent
	file   *os.File
	offset int64   // of Start in file
	sparse bool    // file knows its holes
	window *window // of all of the part, or nil
}

// openRAM finds the machine's RAM.
func openRAM(ctx context.Context, client *qmp.Client) (*RAM, error) {
	blocks, err := ramBlocks(ctx, client)
	if err != nil {
		return nil, err
	}
	pid := client.PID()
	maps, err := processMaps(pid)
	if err != nil {
		return nil, fmt.Errorf("%w: memory map of QEMU (process %d) cannot be read: %w", mem.ErrNotShared, pid, err)
	}
	o := opener{pid: pid, maps: maps, ram: &RAM{}, byInode: make(map[[2]uint64]*os.File)}
	for _, b := range blocks {
		if err := o.block(ctx, client, b); err != nil {
			o.ram.Close()
			return nil, err
		}
	}
	if len(o.ram.parts) == 0 {
		return nil, errors.New("virtual machine has no RAM")
	}
	o.ram.merge()
	o.ram.openWindows()
	return o.ram, nil
}

// ramBlocks lists the ranges whose region is a memory backend. Video memory,
// firmware flash and option ROMs are not: they have no backend object.
func ramBlocks(ctx context.Context, client *qmp.Client) ([]block, error) {
	text, err := client.HMP(ctx, "info mtree -f")
	if err != nil {
		return nil, fmt.Errorf("read memory tree: %w", err)
	}
	blocks, err := parseMtree(text)
	if err != nil {
		return nil, err
	}
	var backends []struct {
		ID string `json:"id"`
	}
	if err := client.Execute(ctx, "query-memdev", nil, &backends); err != nil {
		return nil, err
	}
	known := make(map[string]bool)
	for _, b := range backends {
		known[b.ID] = true
		known["/objects/"+b.ID] = true
	}
	return slices.DeleteFunc(blocks, func(b block) bool { return !known[b.region] }), nil
}

func processMaps(pid int) ([]mapping, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMaps(f)
}

// opener collects the parts of a RAM.
type opener struct {
	pid     int
	maps    []mapping
	ram     *RAM
	byInode map[[2]uint64]*os.File
	process *os.File // /proc/PID/mem, once needed
}

// hvaAnswer matches the answer of "gpa2hva" (QEMU, monitor/hmp-cmds-target.c).
var hvaAnswer = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^Host virtual address for 0x[0-9a-f]+ \(.*\) is 0x([0-9a-f]+)\s*$`)
})

func (o *opener) block(ctx context.Context, client *qmp.Client, b block) error {
	answer, err := client.HMP(ctx, fmt.Sprintf("gpa2hva %#x", uint64(b.Start)))
	if err != nil {
		return err
	}
	m := hvaAnswer().FindStringSubmatch(answer)
	if m == nil {
		return fmt.Errorf("gpa2hva %v: unexpected answer %q", b.Start, answer)
	}
	hva, err := strconv.ParseUint(m[1], 16, 64)
	if err != nil {
		return fmt.Errorf("gpa2hva %v: %w", b.Start, err)
	}
	for b.Size > 0 {
		p, err := o.part(b, hva)
		if err != nil {
			return err
		}
		o.ram.parts = append(o.ram.parts, p)
		b.Start += mem.Phys(p.Size)
		b.Size -= p.Size
		hva += p.Size
	}
	return nil
}

// part makes the first part of b, which lies at hva in QEMU.
func (o *opener) part(b block, hva uint64) (part, error) {
	i := slices.IndexFunc(o.maps, func(m mapping) bool { return hva >= m.start && hva < m.end })
	if i < 0 {
		return part{}, fmt.Errorf("RAM at %v: process %d has nothing mapped at %#x", b.Start, o.pid, hva)
	}
	m := o.maps[i]
	p := part{Extent: mem.Extent{Start: b.Start, Size: min(b.Size, m.end-hva)}}
	var err error
	if m.shared && m.inode != 0 {
		p.file, err = o.open(m)
		p.offset = m.offset + int64(hva-m.start)
		p.sparse = true
	} else {
		p.file, err = o.openProcess()
		p.offset = int64(hva)
	}
	if err != nil {
		return part{}, fmt.Errorf("RAM at %v (memory backend %q): %w: %w", b.Start, b.region, mem.ErrNotShared, err)
	}
	return p, nil
}

func (o *opener) open(m mapping) (*os.File, error) {
	key := [2]uint64{m.device, m.inode}
	if f := o.byInode[key]; f != nil {
		return f, nil
	}
	f, err := openMapped(o.pid, m)
	if err != nil {
		return nil, err
	}
	o.byInode[key] = f
	o.ram.files = append(o.ram.files, f)
	return f, nil
}

func (o *opener) openProcess() (*os.File, error) {
	if o.process == nil {
		f, err := os.Open(fmt.Sprintf("/proc/%d/mem", o.pid))
		if err != nil {
			return nil, err
		}
		o.process = f
		o.ram.files = append(o.ram.files, f)
	}
	return o.process, nil
}

// merge joins parts that follow each other both in the guest and in the file,
// and fills in the extents.
func (r *RAM) merge() {
	sort.Slice(r.parts, func(i, j int) bool { return r.parts[i].Start < r.parts[j].Start })
	var parts []part
	for _, p := range r.parts {
		if n := len(parts); n > 0 {
			last := &parts[n-1]
			if last.file == p.file && last.End() == p.Start && last.offset+int64(last.Size) == p.offset {
				last.Size += p.Size
				continue
			}
		}
		parts = append(parts, p)
	}
	r.parts = parts
	for _, p := range parts {
		if n := len(r.extents); n > 0 && r.extents[n-1].End() == p.Start {
			r.extents[n-1].Size += p.Size
			continue
		}
		r.extents = append(r.extents, p.Extent)
	}
}

// ReadPhys implements [mem.Reader].
func (r *RAM) ReadPhys(p []byte, at mem.Phys) error {
	for len(p) > 0 {
		part := r.find(at)
		if part == nil {
			return fmt.Errorf("physical %v: %w", at, mem.ErrNotMapped)
		}
		into := uint64(at - part.Start)
		n := min(uint64(len(p)), part.Size-into)
		if err := part.read(p[:n], into); err != nil {
			return fmt.Errorf("physical %v: %w", at, err)
		}
		p = p[n:]
		at += mem.Phys(n)
	}
	return nil
}

// read fills p from an offset into the part.
func (p *part) read(b []byte, into uint64) error {
	if done, err := p.window.read(b, into); done || err != nil {
		return err
	}
	_, err := p.file.ReadAt(b, p.offset+int64(into))
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// EqualPhys implements [mem.Comparer].
func (r *RAM) EqualPhys(p []byte, at mem.Phys) (bool, error) {
	if part := r.find(at); part != nil {
		into := uint64(at - part.Start)
		if uint64(len(p)) <= part.Size-into {
			if same, done, err := part.window.equal(p, into); done || err != nil {
				return same, err
			}
		}
	}
	b := make([]byte, len(p))
	if err := r.ReadPhys(b, at); err != nil {
		return false, err
	}
	return bytes.Equal(b, p), nil
}

// U64 implements [mem.WordReader].
func (r *RAM) U64(at mem.Phys) (uint64, error) {
	if part := r.find(at); part != nil && at%mem.PageSize <= mem.PageSize-8 {
		if v, ok, err := part.window.u64(uint64(at - part.Start)); ok || err != nil {
			return v, err
		}
	}
	var b [8]byte
	err := r.ReadPhys(b[:], at)
	return binary.LittleEndian.Uint64(b[:]), err
}

// openWindows maps what can be mapped.
func (r *RAM) openWindows() {
	for i := range r.parts {
		if p := &r.parts[i]; p.sparse && p.Start%mem.PageSize == 0 {
			p.window = openWindow(p.file, p.offset, p.Size)
		}
	}
}

func (r *RAM) find(at mem.Phys) *part {
	i := sort.Search(len(r.parts), func(i int) bool { return r.parts[i].End() > at })
	if i < len(r.parts) && r.parts[i].Start <= at {
		return &r.parts[i]
	}
	return nil
}

// Extents implements [mem.Reader].
func (r *RAM) Extents() []mem.Extent { return slices.Clone(r.extents) }

// Shared reports whether all RAM is read through shared files.
func (r *RAM) Shared() bool {
	return !slices.ContainsFunc(r.parts, func(p part) bool { return !p.sparse })
}

// Close closes the files. Nothing may read any more, or afterwards.
func (r *RAM) Close() error {
	var errs []error
	for i := range r.parts {
		errs = append(errs, r.parts[i].window.close())
		r.parts[i].window = nil
	}
	for _, f := range r.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
