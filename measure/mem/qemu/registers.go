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

var errRegisters = errors.New("monitor's registers are not understood")

var (
	cpuHeading = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^CPU#(\d+)\s*$`) })
	plainValue = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`\b(RIP|RSP|RFL|CPL|SMM|CR[0234]|DR[0-7]|EFER) ?= ?([0-9a-f]+)`)
	})
	segmentLine = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?m)^(CS|FS|GS|LDT|TR) ?=\s*([0-9a-f]{4}) ([0-9a-f]{8,16}) ([0-9a-f]{8}) ([0-9a-f]{8})`)
	})
	tableLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^(GDT|IDT)=\s*([0-9a-f]{8,16}) ([0-9a-f]{8})`) })
)

// maxCPUs bounds the CPUs accepted; QEMU's own limit for x86 is 4096.
const maxCPUs = 4096

// ParseRegisters reads the answer of "info registers -a" (QEMU,
// target/i386/cpu-dump.c). A CPU that shows no control registers is an error:
// half of a state would be read as zeros.
func ParseRegisters(text string) ([]mem.Registers, error) {
	headings := cpuHeading().FindAllStringSubmatchIndex(text, maxCPUs+1)
	if len(headings) == 0 || len(headings) > maxCPUs {
		return nil, fmt.Errorf("%w: %d CPUs", errRegisters, len(headings))
	}
	var all []mem.Registers
	for i, h := range headings {
		end := len(text)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		index, err := strconv.Atoi(text[h[2]:h[3]])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errRegisters, err)
		}
		regs, err := parseCPU(text[h[1]:end])
		if err != nil {
			return nil, fmt.Errorf("%w: CPU %d: %w", errRegisters, index, err)
		}
		regs.CPU = index
		all = append(all, regs)
	}
	return all, nil
}

func parseCPU(text string) (mem.Registers, error) {
	// What follows (FPU, vector registers) is large and of no use here.
	if i := strings.Index(text, "\nFCW="); i >= 0 {
		text = text[:i]
	}
	var r mem.Registers
	var cpl, smm uint64
	values := map[string]*uint64{
		"RIP": &r.RIP, "RSP": &r.RSP, "RFL": &r.RFLAGS, "CPL": &cpl, "SMM": &smm, "EFER": &r.EFER,
		"CR0": &r.CR0, "CR2": &r.CR2, "CR3": &r.CR3, "CR4": &r.CR4,
	}
	for i := range r.DR {
		values[fmt.Sprintf("DR%d", i)] = &r.DR[i]
	}
	var seen []string
	for _, m := range plainValue().FindAllStringSubmatch(text, -1) {
		v, err := strconv.ParseUint(m[2], 16, 64)
		if err != nil {
			return r, fmt.Errorf("%s: %w", m[1], err)
		}
		*values[m[1]] = v
		seen = append(seen, m[1])
	}
	r.CPL = int(cpl & 3)
	r.SMM = smm != 0
	if err := parseSegments(text, &r, &seen); err != nil {
		return r, err
	}
	for _, need := range []string{"CR0", "CR3", "CR4", "IDT", "GDT"} {
		if !slices.Contains(seen, need) {
			return r, fmt.Errorf("no %s", need)
		}
	}
	for _, name := range []string{"RIP", "EFER", "TR", "CS", "GS", "DR7"} {
		if !slices.Contains(seen, name) {
			r.Missing = append(r.Missing, name)
		}
	}
	return r, nil
}

func parseSegments(text string, r *mem.Registers, seen *[]string) error {
	for _, m := range segmentLine().FindAllStringSubmatch(text, -1) {
		selector, err1 := strconv.ParseUint(m[2], 16, 16)
		base, err2 := strconv.ParseUint(m[3], 16, 64)
		limit, err3 := strconv.ParseUint(m[4], 16, 32)
		flags, err4 := strconv.ParseUint(m[5], 16, 32)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return fmt.Errorf("%s: %w", m[1], err)
		}
		s := mem.Segment{Selector: uint16(selector), Base: mem.Virt(base), Limit: uint32(limit), Flags: uint32(flags)}
		switch m[1] {
		case "CS":
			r.CS = s
		case "TR":
			r.TR = s
		case "LDT":
			r.LDT = s
		case "FS":
			r.FSBase = s.Base
		case "GS":
			r.GSBase = s.Base
		}
		*seen = append(*seen, m[1])
	}
	for _, m := range tableLine().FindAllStringSubmatch(text, -1) {
		base, err1 := strconv.ParseUint(m[2], 16, 64)
		limit, err2 := strconv.ParseUint(m[3], 16, 32)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("%s: %w", m[1], err)
		}
		table := mem.Table{Base: mem.Virt(base), Limit: uint32(limit)}
		if m[1] == "IDT" {
			r.IDT = table
		} else {
			r.GDT = table
		}
		*seen = append(*seen, m[1])
	}
	return nil
}
