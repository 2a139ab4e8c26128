package baseline

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
	Flags      string            `json:"flags,omitempty"`     // lsattr's letters
	FlagBits   uint32            `json:"flag_bits,omitempty"` // all of them, FS_IOC_GETFLAGS
	Xattrs     map[string]string `json:"xattrs,omitempty"`
	BLAKE3     string            `json:"blake3,omitempty"`
	SHA256     string            `json:"sha256,omitempty"`
	Unread     string            `json:"unread,omitempty"`
	Text       string            `json:"text,omitempty"` // whether the content is kept for diffs; never the content
}

// MarshalJSON gives the record as "baseline show" prints it.
func (r *Record) MarshalJSON() ([]byte, error) {
	w := wireRecord{
		Path: filewatch.EscapePath(r.Path()), Type: r.Type, Volume: r.Volume, Inode: r.Inode, Generation: r.Generation,
		Nlink: r.Nlink, Mode: formatMode(r.Mode), UID: r.UID, GID: r.GID, Size: r.Size,
		Mtime: formatTime(r.Mtime), Ctime: formatTime(r.Ctime), Link: filewatch.EscapePath(r.Link),
		Rdev: r.rdev(), Flags: filewatch.FlagLetters(r.Flags), FlagBits: r.Flags, Xattrs: encodeXattrs(r.Xattrs),
		BLAKE3: r.BLAKE3.String(), SHA256: r.SHA256.String(), Unread: r.Unread,
	}
	if r.Text.State != TextNone {
		w.Text = r.Text.State.String()
	}
	if len(r.Names) > 1 {
		w.Names = escapeAll(r.Names)
	}
	return json.Marshal(&w)
}

// UnmarshalJSON reads what MarshalJSON gives.
func (r *Record) UnmarshalJSON(text []byte) error {
	var w wireRecord
	if err := json.Unmarshal(text, &w); err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	d := wireDecoder{}
	*r = Record{Object: filewatch.Object{Volume: w.Volume, Inode: w.Inode, Generation: w.Generation, Type: w.Type,
		Mode: d.mode(w.Mode), UID: w.UID, GID: w.GID, Nlink: w.Nlink, Size: w.Size, Mtime: d.time(w.Mtime),
		Ctime: d.time(w.Ctime), Link: d.path(w.Link), Flags: w.FlagBits, Xattrs: d.xattrs(w.Xattrs)},
		Names: []string{d.path(w.Path)}, BLAKE3: d.digest(w.BLAKE3), SHA256: d.digest(w.SHA256), Unread: w.Unread}
	if len(w.Names) > 0 {
		r.Names = nil
		for _, name := range w.Names {
			r.Names = append(r.Names, d.path(name))
		}
	}
	if w.Rdev != "" {
		_, err := fmt.Sscanf(w.Rdev, "%d:%d", &r.Major, &r.Minor)
		d.keep(err)
	}
	if typeCode(r.Type) == 0 && r.Type != filewatch.TypeUnknown {
		d.keep(fmt.Errorf("unknown type %q", r.Type))
	}
	if r.Size < 0 {
		d.keep(fmt.Errorf("size %d", r.Size))
	}
	if d.err != nil {
		return fmt.Errorf("read record of %q: %w", w.Path, d.err)
	}
	return nil
}

// wireDecoder reads the text forms; the first error sticks.
type wireDecoder struct{ err error }

func (d *wireDecoder) keep(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *wireDecoder) mode(s string) uint16 {
	n, err := strconv.ParseUint(s, 8, 12)
	d.keep(err)
	return uint16(n)
}

func (d *wireDecoder) path(s string) string {
	raw, err := filewatch.UnescapePath(s)
	d.keep(err)
	return raw
}

func (d *wireDecoder) time(s string) time.Time {
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	d.keep(err)
	return t.UTC()
}

func (d *wireDecoder) digest(s string) (out Digest) {
	b, err := hex.DecodeString(s)
	if err == nil && len(b) != len(out) && s != "" {
		err = fmt.Errorf("digest of %d bytes", len(b))
	}
	d.keep(err)
	copy(out[:], b)
	return out
}

func (d *wireDecoder) xattrs(m map[string]string) []filewatch.Xattr {
	var out []filewatch.Xattr
	for _, name := range slices.Sorted(maps.Keys(m)) {
		value, err := base64.StdEncoding.DecodeString(m[name])
		d.keep(err)
		out = append(out, filewatch.Xattr{Name: d.path(name), Value: value})
	}
	return out
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
