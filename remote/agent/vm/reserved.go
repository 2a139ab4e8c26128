package vm

import (
	"errors"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// errReserved: the disk has space for content that it does not say is written.
var errReserved = errors.New("content has space on disk that is not marked as written yet")

// reservedPatience is how long space must have been there unwritten to be taken
// for space that was asked for ahead (fallocate). ext4 and XFS reserve space for
// new content, write the content, and say so in a later transaction; between the
// two the inode on disk looks settled and its content reads as zeros. ext4 commits
// every 5 s unless it was mounted otherwise, XFS flushes its log every 30 s.
const reservedPatience = 35 * time.Second

// reserved remembers since when objects are seen like that.
type reserved map[reservedKey]time.Time

type reservedKey struct {
	id    filewatch.ID
	ctime int64 // a later change is waited for anew
}

// check returns errReserved while an object's reserved space may still become
// content.
func (r *reserved) check(o *filewatch.Object, where filewatch.Content, now time.Time) error {
	for key, since := range *r {
		if now.Sub(since) > 2*reservedPatience {
			delete(*r, key)
		}
	}
	if !where.Reserved(o.Size) {
		return nil
	}
	if *r == nil {
		*r = make(reserved)
	}
	key := reservedKey{o.ID(), o.Ctime.UnixNano()}
	since, known := (*r)[key]
	if !known {
		(*r)[key], since = now, now
	}
	if now.Sub(since) < reservedPatience {
		return errReserved
	}
	return nil
}
