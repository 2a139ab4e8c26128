package aide

import (
	"strings"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// attrs is a set of AIDE's attributes. The order of the bits is that in which
// AIDE 0.18.3 names them in a sum ("+l-acl").
type attrs uint32

const (
	attrLink attrs = 1 << iota
	attrPerm
	attrUID
	attrGID
	attrSize
	attrCtime
	attrMtime
	attrInode
	attrLinkcount
	attrACL
	attrSHA256
	attrSELinux
	attrXattrs
	attrFtype
	attrE2fs
	attrCaps
	attrGrowing
	attrBLAKE3 // not in AIDE 0.18; later versions call it so
	attrEnd

	attrHashes = attrSHA256 | attrBLAKE3
)

// attrNames are aide.conf's words for the bits, in their order.
var attrNames = []string{"l", "p", "u", "g", "s", "c", "m", "i", "n", "acl", "sha256", "selinux", "xattrs", "ftype",
	"e2fsattrs", "caps", "growing", "blake3"}

// sum writes what has to be added to and taken from a to make b.
func sum(a, b attrs) string {
	var out strings.Builder
	for i, name := range attrNames {
		bit := attrs(1) << i
		if (a^b)&bit == 0 {
			continue
		}
		if a != 0 || out.Len() > 0 {
			out.WriteByte("-+"[min(b&bit>>i, 1)])
		}
		out.WriteString(name)
	}
	return out.String()
}

// line is one entry of AIDE's database: what is known of one name.
type line struct {
	*baseline.Record
	attrs attrs
	acl   []string // "A: user::rw-", as AIDE prints it
	caps  string
	cntx  string // SELinux context
}

// newLine says what AIDE would keep of an object under a rule. It leaves out an
// attribute where the object has none, as AIDE does.
func newLine(r *baseline.Record, check filewatch.Attributes) *line {
	l := &line{Record: r}
	add := func(asked filewatch.Attributes, there bool, a attrs) {
		if check&asked != 0 && there {
			l.attrs |= a
		}
	}
	file, link := r.Type == filewatch.TypeFile, r.Type == filewatch.TypeSymlink
	l.attrs = attrFtype
	add(filewatch.AttrTarget, link, attrLink)
	add(filewatch.AttrMode, true, attrPerm)
	add(filewatch.AttrUID, true, attrUID)
	add(filewatch.AttrGID, true, attrGID)
	add(filewatch.AttrSize|filewatch.AttrGrowing, true, attrSize)
	add(filewatch.AttrCtime, true, attrCtime)
	add(filewatch.AttrMtime, true, attrMtime)
	add(filewatch.AttrInode, true, attrInode)
	add(filewatch.AttrNlink, true, attrLinkcount)
	add(filewatch.AttrGrowing, true, attrGrowing)
	add(filewatch.AttrFlags, file || r.Type == filewatch.TypeDir, attrE2fs)
	add(filewatch.AttrSHA256, file && r.SHA256 != (baseline.Digest{}), attrSHA256)
	add(filewatch.AttrContent|filewatch.AttrGrowing, file && r.BLAKE3 != (baseline.Digest{}), attrBLAKE3)
	if l.attrs&attrSHA256 != 0 {
		l.attrs &^= attrBLAKE3 // it says nothing more, and AIDE 0.18 has no such line
	}
	add(filewatch.AttrXattrs, true, attrXattrs)
	add(filewatch.AttrXattrs|filewatch.AttrACL, !link, attrACL)
	if l.attrs&attrACL != 0 {
		l.acl = aclLines(r)
	}
	if context, ok := r.Xattr("security.selinux"); ok {
		l.cntx = strings.TrimRight(string(context), "\x00")
		add(filewatch.AttrXattrs|filewatch.AttrSELinux, true, attrSELinux)
	}
	if value, ok := r.Xattr("security.capability"); ok && file {
		l.caps = capabilities(value)
		add(filewatch.AttrXattrs|filewatch.AttrCaps, l.caps != "", attrCaps)
	}
	return l
}

// xattrs are those that AIDE keeps: not the ACLs, which it has apart.
func (l *line) xattrs() []filewatch.Xattr {
	var out []filewatch.Xattr
	for _, x := range l.Xattrs {
		for _, space := range []string{"user.", "security.", "trusted."} {
			if strings.HasPrefix(x.Name, space) {
				out = append(out, x)
			}
		}
	}
	return out
}
