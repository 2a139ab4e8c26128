package aide

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// column is one of the attributes in the order of AIDE's report: its letter in
// the summary, and the names before its values.
type column struct {
	attrs  attrs
	letter byte
	named  []named
}

// columns are those of AIDE 0.19; see [Release.columns].
var columns = []column{
	{attrFtype, '!', []named{{attrFtype, "File type"}}},
	{attrLink, 'l', []named{{attrLink, "Lname"}}},
	{attrSize, '>', []named{{attrSize, "Size"}}},
	{0, 'b', nil}, // blocks are not kept
	{attrPerm, 'p', []named{{attrPerm, "Perm"}}},
	{attrUID, 'u', []named{{attrUID, "Uid"}}},
	{attrGID, 'g', []named{{attrGID, "Gid"}}},
	{0, 'a', nil}, // access times are not kept
	{attrMtime, 'm', []named{{attrMtime, "Mtime"}}},
	{attrCtime, 'c', []named{{attrCtime, "Ctime"}}},
	{attrInode, 'i', []named{{attrInode, "Inode"}}},
	{attrLinkcount, 'n', []named{{attrLinkcount, "Linkcount"}}},
	{attrHashes, 'H', []named{{attrSHA256, "SHA256"}, {attrBLAKE3, "BLAKE3"}}},
	{attrACL, 'A', []named{{attrACL, "ACL"}}},
	{attrXattrs, 'X', []named{{attrXattrs, "XAttrs"}}},
	{attrSELinux, 'S', []named{{attrSELinux, "SELinux"}}},
	{attrE2fs, 'E', []named{{attrE2fs, "E2FSAttrs"}}},
	{attrCaps, 'C', []named{{attrCaps, "Caps"}}},
	{0, 'F', nil}, // file system types are not kept
}

type named struct {
	attr attrs
	name string
}

// values are an attribute's values as AIDE prints them, one line or several;
// none when the line does not have the attribute.
func (r *report) values(l *line, a attrs) []string {
	if l == nil || l.attrs&a == 0 {
		return nil
	}
	switch a {
	case attrFtype:
		return []string{typeNames[l.Type].name}
	case attrLink:
		return []string{l.Link}
	case attrSize:
		return []string{strconv.FormatInt(l.Size, 10)}
	case attrPerm:
		return []string{permissions(l.Record)}
	case attrUID:
		return []string{strconv.FormatUint(uint64(l.UID), 10)}
	case attrGID:
		return []string{strconv.FormatUint(uint64(l.GID), 10)}
	case attrMtime:
		return []string{r.time(l.Mtime)}
	case attrCtime:
		return []string{r.time(l.Ctime)}
	case attrInode:
		return []string{strconv.FormatUint(l.Inode, 10)}
	case attrLinkcount:
		return []string{strconv.FormatUint(uint64(l.Nlink), 10)}
	case attrSHA256:
		return []string{r.digest(l.SHA256)}
	case attrBLAKE3:
		return []string{r.digest(l.BLAKE3)}
	case attrACL:
		return l.acl
	case attrXattrs:
		return xattrValues(l.xattrs())
	case attrSELinux:
		return []string{l.cntx}
	case attrE2fs:
		return []string{e2fsLetters(l.Flags, r.o.ignoreE2fs)}
	case attrCaps:
		return []string{l.caps}
	}
	return nil
}

func (r *report) digest(d baseline.Digest) string {
	if r.o.base16 {
		return hex.EncodeToString(d[:])
	}
	return base64.StdEncoding.EncodeToString(d[:])
}

// time is a time as AIDE prints it, in the zone of whoever reads the report.
func (r *report) time(t time.Time) string { return t.In(r.zone).Format("2006-01-02 15:04:05 -0700") }

// typeNames are what AIDE calls the types, in one letter and in words.
var typeNames = map[filewatch.Type]struct {
	letter byte
	name   string
}{
	filewatch.TypeFile: {'f', "File"}, filewatch.TypeDir: {'d', "Directory"}, filewatch.TypeFIFO: {'p', "FIFO"},
	filewatch.TypeSymlink: {'l', "Link"}, filewatch.TypeBlock: {'b', "Block device"},
	filewatch.TypeChar: {'c', "Character device"}, filewatch.TypeSocket: {'s', "Socket"},
	filewatch.TypeUnknown: {'?', "Unknown file type"},
}

// permissions is a mode as AIDE writes it: like ls(1), but "l" for a setgid bit
// without the right to execute.
func permissions(r *baseline.Record) string {
	b := []byte("-" + rwx(r.Mode>>6) + rwx(r.Mode>>3) + rwx(r.Mode))
	if letter := typeNames[r.Type].letter; letter != 'f' && letter != '?' {
		b[0] = letter
	}
	for _, s := range []struct {
		bit      uint16
		at       int
		with, no byte
	}{{filewatch.ModeSetuid, 3, 's', 'S'}, {filewatch.ModeSetgid, 6, 's', 'l'}, {filewatch.ModeSticky, 9, 't', 'T'}} {
		switch {
		case r.Mode&s.bit == 0:
		case b[s.at] == 'x':
			b[s.at] = s.with
		default:
			b[s.at] = s.no
		}
	}
	return string(b)
}

// printableXattr are the bytes of a value that AIDE prints as they are; NUL is
// among them, and ends the value.
const printableXattr = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_:;,[]{}<>()!@#$%^&*|\\/?~\x00"

func xattrValues(xattrs []filewatch.Xattr) []string {
	out := []string{fmt.Sprintf("num=%d", len(xattrs))}
	if len(xattrs) == 0 {
		return out
	}
	width := int(math.Log10(float64(len(xattrs))))
	for i, x := range xattrs {
		if value := string(x.Value); strings.Trim(value, printableXattr) == "" {
			value, _, _ = strings.Cut(value, "\x00")
			out = append(out, fmt.Sprintf("[%0*d] %s = %s", width, i+1, x.Name, value))
			continue
		}
		out = append(out, fmt.Sprintf("[%0*d] %s <=> %s", width, i+1, x.Name, base64.StdEncoding.EncodeToString(x.Value)))
	}
	return out
}

// e2fsFlags are lsattr's flags in AIDE's order (linux/fs.h, FS_*_FL).
var e2fsFlags = []struct {
	bit    uint32
	letter byte
}{
	{0x1, 's'}, {0x2, 'u'}, {0x8, 'S'}, {0x10000, 'D'}, {0x10, 'i'}, {0x20, 'a'}, {0x40, 'd'}, {0x80, 'A'}, {0x4, 'c'},
	{0x800, 'E'}, {0x4000, 'j'}, {0x1000, 'I'}, {0x8000, 't'}, {0x20000, 'T'}, {0x80000, 'e'}, {0x800000, 'C'},
	{0x2000000, 'x'}, {0x40000000, 'F'}, {0x10000000, 'N'}, {0x20000000, 'P'}, {0x100000, 'V'}, {0x400, 'm'},
}

func e2fsLetters(flags, ignored uint32) string {
	var b strings.Builder
	for _, f := range e2fsFlags {
		switch {
		case f.bit&ignored != 0:
			b.WriteByte(':')
		case f.bit&flags != 0:
			b.WriteByte(f.letter)
		default:
			b.WriteByte('-')
		}
	}
	return b.String()
}
