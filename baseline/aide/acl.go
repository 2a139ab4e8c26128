package aide

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/baseline"
)

// Tags of an entry of an ACL (Linux 6.1, include/uapi/linux/posix_acl.h).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// aclLines is an object's access ACL ("A: ...") and default ACL ("D: ...") one
// entry a line. An object without an ACL has that of its mode.
func aclLines(r *baseline.Record) []string {
	value, _ := r.Xattr("system.posix_acl_access")
	access := parseACL(value)
	if access == nil {
		access = []aclEntry{{aclUserObj, r.Mode >> 6 & 7, 0}, {aclGroupObj, r.Mode >> 3 & 7, 0}, {aclOther, r.Mode & 7, 0}}
	}
	value, _ = r.Xattr("system.posix_acl_default")
	return append(aclText("A", access), aclText("D", parseACL(value))...)
}

// parseACL reads the value of the xattr: version 2 (4 bytes), then per entry tag
// (0x00, 2 bytes), permissions (0x02, 2) and id (0x04, 4), little-endian (Linux
// 6.1, include/uapi/linux/posix_acl_xattr.h). nil when it is none.
func parseACL(value []byte) []aclEntry {
	if len(value) < 4 || binary.LittleEndian.Uint32(value) != 2 || len(value)%8 != 4 {
		return nil
	}
	var out []aclEntry
	for value = value[4:]; len(value) > 0; value = value[8:] {
		out = append(out, aclEntry{binary.LittleEndian.Uint16(value), binary.LittleEndian.Uint16(value[2:]), binary.LittleEndian.Uint32(value[4:])})
	}
	return out
}

// aclText is acl_to_text(3)'s form with users and groups by number: their names
// are the guest's to change. What the mask takes away stands behind "#effective".
func aclText(kind string, acl []aclEntry) []string {
	mask := uint16(7)
	for _, e := range acl {
		if e.tag == aclMask {
			mask = e.perm
		}
	}
	var out []string
	for _, e := range acl {
		who := map[uint16]string{aclUserObj: "user:", aclUser: fmt.Sprintf("user:%d", e.id), aclGroupObj: "group:",
			aclGroup: fmt.Sprintf("group:%d", e.id), aclMask: "mask:", aclOther: "other:"}[e.tag]
		text := fmt.Sprintf("%s: %s:%s", kind, who, rwx(e.perm))
		masked := e.tag == aclUser || e.tag == aclGroup || e.tag == aclGroupObj
		if masked && e.perm&^mask != 0 {
			text += "\t#effective:" + rwx(e.perm&mask)
		}
		out = append(out, text)
	}
	return out
}

func rwx(perm uint16) string {
	var b strings.Builder
	for i, letter := range []byte("rwx") {
		if perm&(4>>i) == 0 {
			letter = '-'
		}
		b.WriteByte(letter)
	}
	return b.String()
}
