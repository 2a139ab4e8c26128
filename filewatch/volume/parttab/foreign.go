package parttab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrNotRead marks a disk with a table that Linux goes by and that is not read here.
var ErrNotRead = errors.New("a partition table that is not read here")

// foreign is the error of tables that a kernel built as Debian's would go by, beside or
// in the place of an MBR (block/partitions, Linux 6.12, whose order and checks these
// are). They lie where file systems and swap space leave room, so a guest can use them
// beside what is read here. An MBR whose entries are all empty ends Linux's search
// (msdos_partition gives 1) and not this one: a table behind it is named though no such
// kernel goes by it.
func foreign(r io.ReaderAt, size int64, boot []byte, t *Table) (err error) {
	found := func(name string, is bool) {
		if is {
			err = errors.Join(err, fmt.Errorf("%w: %s", ErrNotRead, name))
		}
	}
	found("SGI volume header", sumOf(boot, 0x0be5a941))
	for _, p := range t.Partitions {
		if p.Number <= 4 {
			name := nested(r, p)
			found(fmt.Sprintf("%s in partition %d", name, p.Number), name != "")
		}
	}
	if t.Kind != None || fatAlone(boot) {
		return err
	}
	start := make([]byte, min(size, 16<<10)) // has all but Apple's map of large blocks
	if _, err := r.ReadAt(start, 0); err != nil && err != io.EOF {
		return fmt.Errorf("read the first %d bytes: %w", len(start), err)
	}
	near := bytes.NewReader(start)
	at := func(off int64, want string) bool { return hasAt(near, int64(len(start)), off, want) }
	found("AIX", at(0, "\xC9\xC2\xD4\xC1") && at(7*512, "_LVM"))
	found("BSD or OSF disk label", at(64, bsdMagic) || at(512, bsdMagic))
	found("Sun disk label", string(boot[508:510]) == "\xDA\xBE" && xorOf(boot) == 0)
	found("Amiga rigid disk block", amiga(near, int64(len(start))))
	found("Atari", atari(boot, size))
	found("Apple partition map", at(0, "ER") && hasAt(r, size, int64(binary.BigEndian.Uint16(boot[2:])), "PM"))
	found("Ultrix", at(16384-72, "\x57\x29\x03\x00\x01\x00\x00\x00"))
	found("Rio Karma", string(boot[510:512]) == "\x56\xAB" && (boot[274] == 0x4D || boot[290] == 0x4D))
	found("SYSV68", string(boot[248:256]) == "MOTOROLA")
	return err
}

// fatAlone says that Linux takes the sector for that of a FAT over the whole disk and
// looks for no table (msdos.c).
func fatAlone(boot []byte) bool {
	return string(boot[510:512]) == "\x55\xAA" && boot[446]&^0x80 != 0 &&
		(boot[14] != 0 || boot[15] != 0) && boot[16] != 0 && (boot[21] == 0xF0 || boot[21] >= 0xF8)
}

const bsdMagic = "\x57\x45\x56\x82"

// nested names the table inside of a primary partition, "" for none, by the types that
// Linux looks into (msdos.c, subtypes), and LDM, which keeps one for the whole disk.
func nested(r io.ReaderAt, p Partition) string {
	at := func(off int64, want string) bool { return hasAt(r, p.Offset+p.Size, p.Offset+off, want) }
	switch p.Type {
	case "0x42":
		return "LDM (dynamic disk)"
	case "0xa5", "0xa6", "0xa9":
		if at(512, bsdMagic) {
			return "BSD disk label"
		}
	case "0x81":
		if at(510, "\x55\xAA") && at(446+4, "\x81") {
			return "Minix"
		}
	case "0x63":
		if at(29*512+4, "\x0D\x60\x5E\xCA") {
			return "UnixWare disk label"
		}
	case "0x82", "0xbf": // Linux swap has the number of Solaris
		if at(512+12, "\xEE\xDE\x0D\x60") {
			return "Solaris VTOC"
		}
	}
	return ""
}

func hasAt(r io.ReaderAt, size, off int64, want string) bool {
	b := make([]byte, len(want))
	if off < 0 || off+int64(len(b)) > size {
		return false
	}
	_, err := r.ReadAt(b, off)
	return (err == nil || err == io.EOF) && string(b) == want
}

// sumOf says that a sector begins with a magic and its 32-bit words add up to 0.
func sumOf(b []byte, magic uint32) bool {
	return binary.BigEndian.Uint32(b) == magic && wordsOf(b) == 0
}

func wordsOf(b []byte) (sum uint32) {
	for ; len(b) >= 4; b = b[4:] {
		sum += binary.BigEndian.Uint32(b)
	}
	return sum
}

func xorOf(b []byte) (sum uint16) {
	for ; len(b) >= 2; b = b[2:] {
		sum ^= binary.BigEndian.Uint16(b)
	}
	return sum
}

// amiga looks for a block in the first 16 sectors (amiga.c), also with the word that
// Windows writes over it.
func amiga(r io.ReaderAt, size int64) bool {
	for off := int64(0); off < 16*512 && off+512 <= size; off += 512 {
		if !hasAt(r, size, off, "RDSK") {
			continue
		}
		b := make([]byte, 512)
		if _, err := r.ReadAt(b, off); err != nil && err != io.EOF {
			continue
		}
		b = b[:4*(binary.BigEndian.Uint32(b[4:])&0x7F)]
		if wordsOf(b) == 0 {
			return true
		}
		if len(b) >= 0xE0 {
			clear(b[0xDC:0xE0])
			if wordsOf(b) == 0 {
				return true
			}
		}
	}
	return false
}

// atari says that one of four entries makes sense (atari.c): there is no magic.
func atari(boot []byte, size int64) bool {
	for i := range 4 {
		e := boot[0x1C6+12*i:]
		start, count := int64(binary.BigEndian.Uint32(e[4:])), int64(binary.BigEndian.Uint32(e[8:]))
		if e[0]&1 != 0 && strings.Trim(string(e[1:4]), letters) == "" && start+count <= size/512 {
			return true
		}
	}
	return false
}

const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
