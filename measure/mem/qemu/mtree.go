package qemu

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// block is a guest-physical range backed by one RAM region.
type block struct {
	mem.Extent
	region string // the region's name, which is its memory backend's id
}

var errNoView = errors.New("monitor shows no address space of a CPU")

// blockLine matches one range of a flat view, such as
//
//	0000000000100000-000000001fffffff (prio 0, ram): ram @0000000000100000
//
// QEMU, softmmu/memory.c, mtree_print_flatview. Kinds are ram, ramd, rom, romd,
// i/o; "rom" is also RAM that the chipset write-protects (shadowed BIOS).
var blockLine = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (ram|rom|nv-ram)\): (\S+)(?: @[0-9a-f]{16})?( KVM)?\s*$`)
})

// maxBlocks bounds the ranges accepted. A machine with 255 DIMMs stays below.
const maxBlocks = 4096

// parseMtree reads the answer of "info mtree -f" and returns the RAM that the
// first CPU sees, in ascending order.
func parseMtree(text string) ([]block, error) {
	views := strings.Split(text, "FlatView #")
	i := slices.IndexFunc(views, func(v string) bool { return strings.Contains(v, `AS "cpu-memory-0"`) })
	if i < 0 {
		i = slices.IndexFunc(views, func(v string) bool { return strings.Contains(v, `AS "memory"`) })
	}
	if i < 0 {
		return nil, errNoView
	}
	var blocks []block
	for line := range strings.Lines(views[i]) {
		m := blockLine().FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			continue
		}
		b, err := parseBlock(m)
		if err != nil {
			return nil, fmt.Errorf("flat view line %q: %w", line, err)
		}
		if n := len(blocks); n > 0 && b.Start < blocks[n-1].End() {
			return nil, fmt.Errorf("flat view line %q: out of order", line)
		}
		if len(blocks) == maxBlocks {
			return nil, fmt.Errorf("flat view has more than %d ranges", maxBlocks)
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}

func parseBlock(m []string) (block, error) {
	first, err := strconv.ParseUint(m[1], 16, 64)
	if err != nil {
		return block{}, err
	}
	last, err := strconv.ParseUint(m[2], 16, 64)
	if err != nil {
		return block{}, err
	}
	if last < first || last-first+1 == 0 {
		return block{}, errors.New("range ends before it starts")
	}
	return block{
		Extent: mem.Extent{Start: mem.Phys(first), Size: last - first + 1},
		region: m[4],
	}, nil
}
