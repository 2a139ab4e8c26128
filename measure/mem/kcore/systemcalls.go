package kcore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ErrNoMSRs means that the registers of system calls cannot be read here.
var ErrNoMSRs = errors.New("the msr module is not loaded, which shows the registers of system calls")

// maxCPUs bounds the CPUs accepted; the kernel's own limit is 8192.
const maxCPUs = 8192

// SystemCalls reads the registers of system calls of each CPU that is on line,
// from /dev/cpu/N/msr (msr(4)): the kernel's own word for them.
func (h *Host) SystemCalls(context.Context) ([]mem.SystemCalls, error) {
	if _, err := os.Stat(h.msrs); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoMSRs
	}
	b, err := os.ReadFile(h.cpus)
	if err != nil {
		return nil, fmt.Errorf("which CPUs are on line: %w", err)
	}
	cpus, err := parseCPUs(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("which CPUs are on line: %w", err)
	}
	var out []mem.SystemCalls
	for _, cpu := range cpus {
		s, err := readMSRs(filepath.Join(h.msrs, strconv.Itoa(cpu), "msr"))
		if err != nil {
			return nil, fmt.Errorf("registers of CPU %d: %w", cpu, err)
		}
		s.CPU = cpu
		out = append(out, s)
	}
	return out, nil
}

func readMSRs(path string) (s mem.SystemCalls, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	for number, into := range map[int64]*uint64{
		0xc000_0081: &s.STAR, 0xc000_0082: &s.LSTAR, 0xc000_0083: &s.CSTAR, 0xc000_0084: &s.FMASK,
		0x174: &s.SysenterCS, 0x175: &s.SysenterESP, 0x176: &s.SysenterEIP,
	} {
		var b [8]byte
		if _, err := f.ReadAt(b[:], number); err != nil {
			return s, fmt.Errorf("%#x: %w", number, err)
		}
		*into = binary.LittleEndian.Uint64(b[:])
	}
	return s, nil
}

// parseCPUs reads a list such as "0-3,5" (Documentation/admin-guide/cputopology.rst).
func parseCPUs(list string) ([]int, error) {
	var out []int
	for part := range strings.SplitSeq(list, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if first < 0 || last < first || last >= maxCPUs || len(out) > 0 && first <= out[len(out)-1] {
			return nil, fmt.Errorf("CPUs %q", list)
		}
		for cpu := first; cpu <= last; cpu++ {
			out = append(out, cpu)
		}
	}
	return out, nil
}
