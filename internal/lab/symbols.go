package lab

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// symbols returns the addresses of kernel or module symbols, from the guest's
// own /proc/kallsyms: the lab may ask the guest, the product never does. A name
// of the form "a|b" is the first of these that the kernel has.
func (c *change) symbols(ctx context.Context, names ...string) ([]uint64, error) {
	if c.table == nil {
		var err error
		if c.table, err = c.machine.kallsyms(ctx); err != nil {
			return nil, fmt.Errorf("the guest's symbols: %w", err)
		}
	}
	addresses := make([]uint64, len(names))
	for i, name := range names {
		for alternative := range strings.SplitSeq(name, "|") {
			if addresses[i] == 0 {
				addresses[i] = c.table[alternative]
			}
		}
		if addresses[i] == 0 {
			return nil, fmt.Errorf("%s: %w", name, ErrNoSubject)
		}
	}
	return addresses, nil
}

// kallsyms reads all symbols. The guest's way out is slow, so they are kept
// beside the machine for as long as boot and loaded modules stay the same.
func (m *Machine) kallsyms(ctx context.Context) (map[string]uint64, error) {
	key, err := m.Shell(ctx, `cat /proc/sys/kernel/random/boot_id; cut -d " " -f 1,6 /proc/modules`)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(m.Dir, "kallsyms")
	if kept, err := os.ReadFile(path); err == nil {
		if text, ok := bytes.CutPrefix(kept, []byte(key)); ok {
			return parseKallsyms(bytes.NewReader(text))
		}
	}
	packed, err := m.Shell(ctx, "gzip -1 < /proc/kallsyms")
	if err != nil {
		return nil, err
	}
	unpacked, err := gzip.NewReader(strings.NewReader(packed))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(unpacked)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, append([]byte(key), text...), 0o600); err != nil {
		return nil, err
	}
	return parseKallsyms(bytes.NewReader(text))
}

// parseKallsyms reads lines of address, kind, name and perhaps [module]. Of
// several symbols of one name the first counts.
func parseKallsyms(r io.Reader) (map[string]uint64, error) {
	table := make(map[string]uint64)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || table[fields[2]] != 0 {
			continue
		}
		address, err := strconv.ParseUint(fields[0], 16, 64)
		if err != nil {
			return nil, fmt.Errorf("symbol %s: %w", fields[2], err)
		}
		table[fields[2]] = address
	}
	return table, lines.Err()
}
