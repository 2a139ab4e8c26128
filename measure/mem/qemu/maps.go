package qemu

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mapping is one line of /proc/PID/maps (proc(5)).
type mapping struct {
	start, end uint64 // virtual addresses in the process
	access     string // such as "rw-p"
	shared     bool
	device     uint64 // as in stat's st_dev
	inode      uint64
	offset     int64
}

// parseMaps reads /proc/PID/maps.
func parseMaps(r io.Reader) ([]mapping, error) {
	var out []mapping
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		m, err := parseMapping(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("maps line %q: %w", lines.Text(), err)
		}
		out = append(out, m)
	}
	return out, lines.Err()
}

func parseMapping(line string) (mapping, error) {
	fields := strings.Fields(line)
	if len(fields) < 5 || len(fields[1]) != 4 {
		return mapping{}, errors.New("too few fields")
	}
	from, to, ok := strings.Cut(fields[0], "-")
	major, minor, ok2 := strings.Cut(fields[3], ":")
	if !ok || !ok2 {
		return mapping{}, errors.New("no range or no device")
	}
	var errs [6]error
	parse := func(i int, s string, base int) (v uint64) {
		v, errs[i] = strconv.ParseUint(s, base, 64)
		return v
	}
	m := mapping{
		start:  parse(0, from, 16),
		end:    parse(1, to, 16),
		access: fields[1],
		shared: fields[1][3] == 's',
		offset: int64(parse(2, fields[2], 16)),
		inode:  parse(3, fields[4], 10),
	}
	m.device = makedev(parse(4, major, 16), parse(5, minor, 16))
	return m, errors.Join(errs[:]...)
}

// makedev combines a device number the way stat shows it (glibc, sysmacros.h).
func makedev(major, minor uint64) uint64 {
	return minor&0xff | (major&0xfff)<<8 | (minor&^0xff)<<12 | (major&^0xfff)<<32
}

// openMapped opens, read-only, the file behind a shared mapping of a process,
// through the descriptor the process itself holds, so that unlinked files and
// memfds are found too. Shared memory without a descriptor, as QEMU before 10.0 makes
// of memory-backend-ram with share=on, is a file of the kernel's own, which root can
// open by the mapping (proc(5), /proc/PID/map_files).
func openMapped(pid int, m mapping) (*os.File, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		info, err := os.Stat(path)
		if err != nil {
			continue // closed meanwhile
		}
		if !info.Mode().IsRegular() || !m.of(info) {
			continue
		}
		return os.Open(path)
	}
	path := fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.start, m.end)
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && m.of(info) {
		return os.Open(path)
	}
	return nil, fmt.Errorf("process %d holds no descriptor of device %#x inode %d", pid, m.device, m.inode)
}
