package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// identity names the QEMU process and its CPUs: which process it is (proc(5),
// /proc/PID/stat, starttime), and which thread runs each CPU.
func (vm *VM) identity(ctx context.Context) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", vm.PID()))
	if err != nil {
		return "", err
	}
	// The second field is a name that may hold anything, in parentheses.
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	if len(fields) < 20 {
		return "", errors.New("/proc/PID/stat is too short")
	}
	var cpus []struct {
		Thread int `json:"thread-id"`
	}
	if err := vm.client.Execute(ctx, "query-cpus-fast", nil, &cpus); err != nil {
		return "", err
	}
	return fmt.Sprint(vm.PID(), fields[19], cpus), nil
}

// ownMemory lists what the QEMU process has of private, writable memory that is no
// file and none of the machine's RAM, and of that only pages that exist.
func (vm *VM) ownMemory() ([]mem.Extent, error) {
	maps, err := processMaps(vm.PID())
	if err != nil {
		return nil, err
	}
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", vm.PID()))
	if err != nil {
		return nil, err
	}
	defer pagemap.Close()
	var out []mem.Extent
	var total uint64
	for _, m := range maps {
		if m.access != "rw-p" || m.inode != 0 || vm.ram.within(m.start, m.end) {
			continue
		}
		if out, err = present(pagemap, m, out); err != nil {
			return nil, err
		}
	}
	for _, e := range out {
		total += e.Size
	}
	if total > maxSought {
		return nil, fmt.Errorf("%w: QEMU has %d bytes of memory", errNoPlaces, total)
	}
	return out, nil
}

// present adds the pages of a mapping that are in memory or swapped out (Linux,
// Documentation/admin-guide/mm/pagemap.rst: bits 63 and 62).
func present(pagemap io.ReaderAt, m mapping, out []mem.Extent) ([]mem.Extent, error) {
	const chunk = 1 << 16 // pages
	b := make([]byte, 8*min(chunk, (m.end-m.start)/mem.PageSize))
	for at := m.start; at < m.end; {
		b := b[:min(uint64(len(b)), (m.end-at)/mem.PageSize*8)]
		if _, err := pagemap.ReadAt(b, int64(at/mem.PageSize*8)); err != nil {
			return nil, fmt.Errorf("read pagemap: %w", err)
		}
		for ; len(b) > 0; b, at = b[8:], at+mem.PageSize {
			if binary.LittleEndian.Uint64(b)>>62 == 0 {
				continue
			}
			if n := len(out); n > 0 && uint64(out[n-1].End()) == at {
				out[n-1].Size += mem.PageSize
			} else {
				out = append(out, mem.Extent{Start: mem.Phys(at), Size: mem.PageSize})
			}
		}
	}
	return out, nil
}

// within says that memory of the QEMU process is, in part, the machine's RAM.
func (r *RAM) within(start, end uint64) bool {
	return slices.ContainsFunc(r.parts, func(p part) bool {
		return !p.sparse && uint64(p.offset) < end && start < uint64(p.offset)+p.Size
	})
}
