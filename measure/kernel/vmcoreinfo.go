package kernel

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// A kernel describes itself to crash dumps in a page of text, VMCOREINFO
// (Documentation/admin-guide/kdump/vmcoreinfo.rst; kernel/crash_core.c and
// arch/x86/kernel/crash_core_64.c), lines of KEY=value:
//
//	OSRELEASE=6.1.0-56-amd64          first
//	SYMBOL(swapper_pg_dir)=ffffffff82810000   virtual, hex; x86 has init_top_pgt too
//	NUMBER(phys_base)=419430400       decimal, may be negative
//	NUMBER(pgtable_l5_enabled)=1      since 4.17
const (
	coreInfoStart = "OSRELEASE="
	coreInfoSize  = mem.PageSize // VMCOREINFO_BYTES

	// kernelMap is where the kernel's image is mapped without KASLR, that is
	// where phys_base counts from (__START_KERNEL_map).
	kernelMap mem.Virt = 0xffff_ffff_8000_0000

	// maxCoreInfos bounds how many descriptions are looked at. A kernel has two
	// copies; kernels in virtual machines within the target have theirs.
	maxCoreInfos = 64
)

// coreInfo is what a description says of the kernel's page tables.
type coreInfo struct {
	root   mem.Phys
	levels int
}

// describer is a source that hands out the kernel's description, so that memory
// need not be searched for one.
type describer interface {
	VMCoreInfo() []byte
}

// coreInfos returns what descriptions in memory say, each once.
func coreInfos(m mem.Reader) ([]coreInfo, error) {
	if d, ok := m.(describer); ok {
		if info, err := parseCoreInfo(d.VMCoreInfo()); err == nil {
			return []coreInfo{info}, nil
		}
	}
	touched, err := mem.Touched(m)
	if err != nil {
		return nil, err
	}
	var out []coreInfo
	for _, e := range touched {
		if out, err = searchCoreInfo(m, e, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// searchChunk is how much memory is read at once, and searchOverlap how much of
// it again, for a description that lies across the end.
const (
	searchChunk   = 1 << 20
	searchOverlap = coreInfoSize
)

func searchCoreInfo(m mem.Reader, e mem.Extent, out []coreInfo) ([]coreInfo, error) {
	buf := make([]byte, searchChunk+searchOverlap)
	for at := uint64(0); at < e.Size; at += searchChunk {
		b := buf[:min(uint64(len(buf)), e.Size-at)]
		if err := m.ReadPhys(b, e.Start+mem.Phys(at)); err != nil {
			return nil, fmt.Errorf("search for VMCOREINFO: %w", err)
		}
		for from := 0; ; {
			i := bytes.Index(b[from:], []byte(coreInfoStart))
			if i < 0 || from+i >= searchChunk {
				break
			}
			from += i
			info, err := parseCoreInfo(b[from:min(len(b), from+coreInfoSize)])
			from++
			if err != nil || slices.Contains(out, info) {
				continue
			}
			if len(out) == maxCoreInfos {
				return nil, fmt.Errorf("%w: more than %d kernels describe themselves", ErrNoKernel, maxCoreInfos)
			}
			out = append(out, info)
		}
	}
	return out, nil
}

// parseCoreInfo reads a description, which ends with its text.
func parseCoreInfo(b []byte) (coreInfo, error) {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	values := make(map[string]string)
	for line := range strings.Lines(string(b[:min(len(b), coreInfoSize)])) {
		if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok && values[key] == "" {
			values[key] = value
		}
	}
	tables := values["SYMBOL(swapper_pg_dir)"]
	if tables == "" {
		tables = values["SYMBOL(init_top_pgt)"]
	}
	at, err := strconv.ParseUint(tables, 16, 64)
	if err != nil || values["OSRELEASE"] == "" {
		return coreInfo{}, fmt.Errorf("%w: VMCOREINFO does not say where page tables are", ErrNoKernel)
	}
	base, err := strconv.ParseInt(values["NUMBER(phys_base)"], 10, 64)
	if err != nil || mem.Virt(at) < imageFirst || mem.Virt(at) > imageLast {
		return coreInfo{}, fmt.Errorf("%w: VMCOREINFO has page tables at %#x", ErrNoKernel, at)
	}
	root := mem.Phys(at-uint64(kernelMap)) + mem.Phys(base)
	if root%mem.PageSize != 0 {
		return coreInfo{}, fmt.Errorf("%w: VMCOREINFO has page tables at %v", ErrNoKernel, root)
	}
	info := coreInfo{root: root, levels: 4}
	if values["NUMBER(pgtable_l5_enabled)"] == "1" {
		info.levels = 5
	}
	return info, nil
}

// locateDescribed finds where kernels may be by their own descriptions: nothing
// but the target's word, which is held against its page tables and its image as
// everything else is.
func locateDescribed(m mem.Reader) ([]*located, error) {
	infos, err := coreInfos(m)
	if err != nil {
		return nil, err
	}
	var found []*located
	err = fmt.Errorf("%w: %w, and memory has no VMCOREINFO", ErrNoKernel, ErrNoRegisters)
	for _, info := range infos {
		l, findErr := locateIn(paging.SpaceAt(m, info.root, info.levels))
		if findErr != nil {
			err = fmt.Errorf("%w: %w, and VMCOREINFO leads nowhere: %w", ErrNoKernel, ErrNoRegisters, findErr)
			continue
		}
		l.described = true
		found = append(found, l)
	}
	if len(found) == 0 {
		return nil, err
	}
	return found[:min(len(found), maxPlaces)], nil
}
