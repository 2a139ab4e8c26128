package vfat

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Directory entries of 32 bytes: specification, "FAT Directory Structure".
const (
	attrReadOnly = 0x01
	attrVolume   = 0x08
	attrDir      = 0x10
	attrLong     = 0x0F

	dot    = ".          " // the directory itself and the one above it
	dotDot = "..         "

	lastLong = 0x40
	maxLong  = 20 // entries of one long name

	// maxDir bounds a directory: the format's own bound is 65,536 entries.
	maxDir = 65536 * 32
)

// slot is one short entry with its name.
type slot struct {
	inode uint64
	raw   []byte
	name  string
}

func (s *slot) cluster(bits int) uint32 {
	n := uint32(le.Uint16(s.raw[0x1A:]))
	if bits == 32 {
		n |= uint32(le.Uint16(s.raw[0x14:])) << 16
	}
	return n
}

func (s *slot) isDir() bool { return s.raw[0x0B]&attrDir != 0 }

// dirReader walks the entries of one directory.
type dirReader struct {
	v     *Volume
	es    []filewatch.Extent
	label func(string)
	long  longName
	taken map[string]bool // what entries so far answer to, ASCII in upper case
	twice error           // two answer to one
}

// read calls fn for each entry in use but "." and "..". Linux goes on behind a free
// entry that ends the directory by the specification (fs/fat/dir.c, 6.12), so what
// lies there is read as well.
func (d *dirReader) read(fn func(slot) error) error {
	b := make([]byte, min(64<<10, d.v.cluster))
	total := int64(0)
	for _, e := range d.es {
		for off := int64(0); off < e.Length; {
			part := b[:min(int64(len(b)), e.Length-off)]
			if _, err := d.v.dev.ReadAt(part, e.Physical+off); err != nil {
				return fmt.Errorf("read directory at %#x: %w", e.Physical+off, err)
			}
			for i := 0; i+32 <= len(part); i += 32 {
				if err := d.entry(part[i:i+32], uint64(e.Physical+off+int64(i))/32, fn); err != nil {
					return err
				}
			}
			off += int64(len(part))
			if total += int64(len(part)); total > maxDir {
				return fmt.Errorf("directory of more than %d bytes: %w", maxDir, filewatch.ErrCorrupt)
			}
		}
	}
	return d.twice
}

func (d *dirReader) entry(b []byte, inode uint64, fn func(slot) error) error {
	attr := b[0x0B]
	switch {
	case b[0] == 0xE5 || b[0] == 0:
		d.long = longName{}
	case attr == attrLong:
		d.long.add(b)
	case attr&attrVolume != 0:
		d.long = longName{}
		if d.label != nil {
			d.label(strings.TrimRight(decode437(b[:11]), " "))
		}
	case string(b[:11]) == dot || string(b[:11]) == dotDot:
		d.long = longName{}
	default:
		name, short := d.long.take(b), shortName(b)
		if name == "" {
			name = short
		}
		d.answers(inode, name, short, b[:11])
		if name == "" || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("entry %d has the name %q: %w", inode, name, filewatch.ErrCorrupt)
		}
		return fn(slot{inode: inode, raw: append([]byte(nil), b...), name: name})
	}
	return nil
}

// answers notes the names by which an entry is found, its long and its short one
// (fat_search_long): where two answer to one, the first is used whatever longer name
// it shows. Only letters in ASCII have one case for everybody: others depend on the code
// page or on how the guest mounts, and names that differ there are listed as two. Short
// names are also held against each other as they stand, whatever case is shown.
func (d *dirReader) answers(inode uint64, name, short string, raw []byte) {
	if d.taken == nil {
		d.taken = map[string]bool{}
	}
	keys := [...]string{upperASCII(name), upperASCII(short), "\x00" + upperASCII(string(raw))} // no name has a NUL
	for _, key := range keys {
		if d.twice == nil && d.taken[key] {
			d.twice = fmt.Errorf("entry %d answers to a name of another, %q or %q: %w", inode, name, short, filewatch.ErrCorrupt)
		}
	}
	for _, key := range keys {
		d.taken[key] = true
	}
}

func upperASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// longName gathers a long name, which stands before its short entry, last part
// first.
type longName struct {
	parts [maxLong][13]uint16
	count int
	want  int // the part that must come next; 0 when complete
	sum   byte
}

// add takes one part: 0x0 order, 0xD checksum of the short name, 13 characters
// at 0x1, 0xE and 0x1C.
func (l *longName) add(b []byte) {
	order := int(b[0] &^ lastLong)
	if b[0]&lastLong != 0 {
		*l = longName{count: order, want: order, sum: b[0x0D]}
	}
	if order == 0 || order > maxLong || order != l.want || b[0x0D] != l.sum {
		*l = longName{}
		return
	}
	l.want--
	for i := range 13 {
		at := 0x1 + 2*i
		if i >= 5 {
			at = 0xE + 2*(i-5)
		}
		if i >= 11 {
			at = 0x1C + 2*(i-11)
		}
		l.parts[order-1][i] = le.Uint16(b[at:])
	}
}

// take gives the name if it is whole and belongs to the short entry. Halves of pairs
// are left out, as Linux does (utf16s_to_utf8s).
func (l *longName) take(b []byte) string {
	defer func() { *l = longName{} }()
	if l.count == 0 || l.want != 0 || l.sum != shortSum(b[:11]) {
		return ""
	}
	var u []uint16
	for _, p := range l.parts[:l.count] {
		u = append(u, p[:]...)
	}
	for i, c := range u {
		if c == 0 {
			u = u[:i]
			break
		}
	}
	var name []rune
	for i := 0; i < len(u); i++ {
		switch c := rune(u[i]); {
		case !utf16.IsSurrogate(c):
			name = append(name, c)
		case i+1 < len(u) && utf16.DecodeRune(c, rune(u[i+1])) != utf8.RuneError:
			name = append(name, utf16.DecodeRune(c, rune(u[i+1])))
			i++
		}
	}
	return string(name)
}

func shortSum(b []byte) byte {
	var sum byte
	for _, c := range b {
		sum = sum<<7 | sum>>1
		sum += c
	}
	return sum
}

// shortName joins base and extension; 0xC says which of them Windows NT shows in
// lower case.
func shortName(b []byte) string {
	raw := append([]byte(nil), b[:11]...)
	if raw[0] == 0x05 {
		raw[0] = 0xE5
	}
	base, ext := strings.TrimRight(decode437(raw[:8]), " "), strings.TrimRight(decode437(raw[8:]), " ")
	if b[0x0C]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if b[0x0C]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext == "" {
		return base
	}
	return base + "." + ext
}

// high437 is the upper half of code page 437, which Linux takes short names to
// be in.
var high437 = []rune("ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0")

func decode437(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		if c < 0x80 {
			s.WriteByte(c)
		} else {
			s.WriteRune(high437[c-0x80])
		}
	}
	return s.String()
}
