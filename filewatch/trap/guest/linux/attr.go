package linux

import (
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Bits of iattr.ia_valid (include/linux/fs.h).
const (
	attrMode = 1 << 0
	attrUID  = 1 << 1
	attrGID  = 1 << 2
	attrSize = 1 << 3
	attrKill = 1<<11 | 1<<12 // set-user-ID and set-group-ID to be cleared
	attrPriv = 1 << 14       // security.capability to be removed
)

// attrOp names a change of attributes by its gravest part.
func attrOp(valid uint64) filewatch.Op {
	switch {
	case valid&(attrUID|attrGID) != 0:
		return filewatch.OpChown
	case valid&attrSize != 0:
		return filewatch.OpTruncate
	case valid&(attrMode|attrKill) != 0:
		return filewatch.OpChmod
	case valid&attrPriv != 0:
		return filewatch.OpSetACL
	}
	return filewatch.OpUtimes
}

func xattrOp(name string) filewatch.Op {
	if strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "system.posix_acl_") {
		return filewatch.OpSetACL
	}
	return filewatch.OpSetXattr
}
