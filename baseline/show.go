package baseline

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// wireRecord is a record as people and scripts read it. Keys that do not apply
// are absent.
type wireRecord struct {
	Path       string            `json:"path"`
	Names      []string          `json:"names,omitempty"` // all of them, when there is more than one
	Type       filewatch.Type    `json:"type"`
	Volume     string            `json:"volume"`
	Inode      uint64            `json:"inode"`
	Generation uint32            `json:"generation"`
	Nlink      uint32            `json:"nlink"`
	Mode       string            `json:"mode"`
	UID        uint32            `json:"uid"`
	GID        uint32            `json:"gid"`
	Size       int64             `json:"size"`
	Mtime      string            `json:"mtime,omitempty"`
	Ctime      string            `json:"ctime,omitempty"`
	Link       string            `json:"link,omitempty"`
	Rdev       string            `json:"rdev,omitempty"`
	Flags      string            `json:"flags,omitempty"`
	Xattrs     map[string]string `json:"xattrs,omitempty"`
	BLAKE3     string            `json:"blake3,omitempty"`
	SHA256     string            `json:"sha256,omitempty"`
	Unread     string            `json:"unread,omitempty"`
}

// MarshalJSON gives the record as "baseline show" prints it.
func (r *Record) MarshalJSON() ([]byte, error) {
	w := wireRecord{
		Path: filewatch.EscapePath(r.Path()), Type: r.Type, Volume: r.Volume, Inode: r.Inode, Generation: r.Generation,
		Nlink: r.Nlink, Mode: formatMode(r.Mode), UID: r.UID, GID: r.GID, Size: r.Size,
		Mtime: formatTime(r.Mtime), Ctime: formatTime(r.Ctime), Link: filewatch.EscapePath(r.Link),
		Rdev: r.rdev(), Flags: filewatch.FlagLetters(r.Flags), Xattrs: encodeXattrs(r.Xattrs),
		BLAKE3: r.BLAKE3.String(), SHA256: r.SHA256.String(), Unread: r.Unread,
	}
	if len(r.Names) > 1 {
		w.Names = escapeAll(r.Names)
	}
	return json.Marshal(&w)
}

// String is the digest in hex, "" for none.
func (d Digest) String() string {
	if d == (Digest{}) {
		return ""
	}
	return hex.EncodeToString(d[:])
}

func (r *Record) rdev() string {
	if r.Type != filewatch.TypeChar && r.Type != filewatch.TypeBlock {
		return ""
	}
	return fmt.Sprintf("%d:%d", r.Major, r.Minor)
}

func formatMode(mode uint16) string { return fmt.Sprintf("%04o", mode) }

// formatTime is RFC 3339 with all nine digits, "" for no time.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000000Z07:00")
}

func encodeXattrs(xattrs []filewatch.Xattr) map[string]string {
	if len(xattrs) == 0 {
		return nil
	}
	m := make(map[string]string, len(xattrs))
	for _, x := range xattrs {
		m[filewatch.EscapePath(x.Name)] = base64.StdEncoding.EncodeToString(x.Value)
	}
	return m
}

func escapeAll(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = filewatch.EscapePath(name)
	}
	return out
}
