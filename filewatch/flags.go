package filewatch

import "strings"

// Bits of Object.Flags that judging names (FS_*_FL, Linux
// include/uapi/linux/fs.h).
const (
	FlagImmutable = 0x00000010 // FS_IMMUTABLE_FL
	FlagAppend    = 0x00000020 // FS_APPEND_FL
)

// flagLetters in lsattr's order (e2fsprogs lib/e2p/pf.c, flags_array).
var flagLetters = [...]struct {
	bit    uint32
	letter byte
}{
	{0x00000001, 's'}, {0x00000002, 'u'}, {0x00000008, 'S'}, {0x00010000, 'D'},
	{0x00000010, 'i'}, {0x00000020, 'a'}, {0x00000040, 'd'}, {0x00000080, 'A'},
	{0x00000004, 'c'}, {0x00000800, 'E'}, {0x00004000, 'j'}, {0x00001000, 'I'},
	{0x00008000, 't'}, {0x00020000, 'T'}, {0x00080000, 'e'}, {0x00800000, 'C'},
	{0x02000000, 'x'}, {0x40000000, 'F'}, {0x10000000, 'N'}, {0x20000000, 'P'},
	{0x00100000, 'V'}, {0x00000400, 'm'},
}

// FlagLetters is what lsattr prints for Object.Flags without the dashes: "ie"
// for an immutable file with extents, "" for none. Bits that lsattr has no
// letter for are left out.
func FlagLetters(flags uint32) string {
	var b strings.Builder
	for _, l := range flagLetters {
		if flags&l.bit != 0 {
			b.WriteByte(l.letter)
		}
	}
	return b.String()
}
