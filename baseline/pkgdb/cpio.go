package pkgdb

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

// A cpio archive in the new ASCII format (cpio(5), "New ASCII Format"): 110 bytes
// with the file's size at 0x36 and its name's at 0x5e in hex, the name, the
// content, each padded to 4 bytes. RPM's own variant for large files has "07070X"
// and the file's number in the header in place of all that.
const (
	cpioHead     = 110
	cpioTrailer  = "TRAILER!!!"
	cpioMaxName  = 64 << 10
	cpioStripped = "07070X"
)

// eachCPIO calls visit for each content. sizes are those of stripped members, by
// number.
func eachCPIO(r io.Reader, sizes []uint64, visit func(content io.Reader) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for range maxFiles {
		size, last, err := cpioMember(in, sizes)
		if err != nil || last {
			return err
		}
		content := &io.LimitedReader{R: in, N: size}
		if err := visit(content); err != nil {
			return err
		}
		if content.N > 0 {
			return fmt.Errorf("%w: archive ends early", ErrNotPackage)
		}
		if _, err := in.Discard(int(-size & 3)); err != nil {
			return fmt.Errorf("%w: archive ends early", ErrNotPackage)
		}
	}
	return fmt.Errorf("%w: more than %d files", ErrNotPackage, maxFiles)
}

// cpioMember reads one header with its name and gives the size of what follows.
func cpioMember(in *bufio.Reader, sizes []uint64) (size int64, last bool, err error) {
	head := make([]byte, cpioHead)
	if _, err := io.ReadFull(in, head[:6+8]); err != nil {
		return 0, false, fmt.Errorf("%w: archive ends early", ErrNotPackage)
	}
	if string(head[:6]) == cpioStripped {
		number, err := strconv.ParseUint(string(head[6:14]), 16, 32)
		if err != nil || number >= uint64(len(sizes)) || sizes[number] > maxContent {
			return 0, false, fmt.Errorf("%w: archive member", ErrNotPackage)
		}
		_, err = in.Discard(2) // 14 bytes are padded to 16
		return int64(sizes[number]), false, err
	}
	if _, err := io.ReadFull(in, head[14:]); err != nil || string(head[:6]) != "070701" && string(head[:6]) != "070702" {
		return 0, false, fmt.Errorf("%w: archive header", ErrNotPackage)
	}
	length, err := strconv.ParseUint(string(head[0x36:0x3e]), 16, 32)
	nameLength, errName := strconv.ParseUint(string(head[0x5e:0x66]), 16, 32)
	if err != nil || errName != nil || nameLength == 0 || nameLength > cpioMaxName {
		return 0, false, fmt.Errorf("%w: archive header", ErrNotPackage)
	}
	name := make([]byte, nameLength+(-(cpioHead+nameLength))&3)
	if _, err := io.ReadFull(in, name); err != nil {
		return 0, false, fmt.Errorf("%w: archive ends early", ErrNotPackage)
	}
	return int64(length), string(name[:nameLength-1]) == cpioTrailer, nil
}
