package baseline

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Kind is what happened to an object.
type Kind string

// The kinds of change. Unmeasured is none: it says that nobody can tell.
const (
	Added      Kind = "added"
	Removed    Kind = "removed"
	Changed    Kind = "changed"
	Unmeasured Kind = "not-measured"
)

// Change is one object that differs from the baseline.
type Change struct {
	Path string // raw bytes; the new one after a rename, "" for a gap
	Kind Kind
	// Attributes are those that differ, in a fixed order; of an added or removed
	// object none.
	Attributes Deltas
	Level      filewatch.Level
	Rule       string
	// Explanation says in words what it means.
	Explanation string
	// Suspicious names the patterns the change shows.
	Suspicious []Pattern
	// Explained names the package or acceptance that accounts for the change.
	Explained string
	// Partial: not all that the rules ask of the object could be read, so that
	// nobody can call the change right.
	Partial bool
	// Diff is what changed in a file's text, as "diff -u" shows it; NoDiff says
	// why there is none where the content changed.
	Diff, NoDiff string
	// Old and New are the two states; nil when there is none.
	Old, New *Record
	// Gap is what could not be read at all, nil where the change is of an object.
	Gap *filewatch.Gap
}

// Counts says whether the change is a failure: recorded objects are reported
// only, and so is what a signed package explains.
func (c *Change) Counts() bool {
	return c.Level >= filewatch.Verify && c.Kind != Unmeasured && c.Explained == ""
}

// Delta is one attribute that differs. Old and New are as "baseline show" gives
// them, nil where the attribute did not apply.
type Delta struct {
	Name     string
	Old, New any
}

// Deltas marshal as one JSON object, name to {"old","new"}, in order.
type Deltas []Delta

// MarshalJSON keeps the order of the attributes.
func (d Deltas) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, delta := range d {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := json.Marshal(struct {
			Old any `json:"old"`
			New any `json:"new"`
		}{delta.Old, delta.New})
		if err != nil {
			return nil, err
		}
		name, err := json.Marshal(delta.Name)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// Names are the names of the attributes.
func (d Deltas) Names() []string {
	var names []string
	for _, delta := range d {
		names = append(names, delta.Name)
	}
	return names
}

// Has says that the attribute of that name differs.
func (d Deltas) Has(name string) bool {
	return slices.ContainsFunc(d, func(delta Delta) bool { return delta.Name == name })
}

// MarshalJSON gives the change as "baseline check" prints it.
func (c *Change) MarshalJSON() ([]byte, error) {
	w := struct {
		Path        string          `json:"path"`
		Change      Kind            `json:"change"`
		Attributes  Deltas          `json:"attributes"`
		Level       filewatch.Level `json:"level"`
		Rule        string          `json:"rule,omitempty"`
		Explanation string          `json:"explanation"`
		Suspicious  []Pattern       `json:"suspicious,omitempty"`
		Explained   string          `json:"explained,omitempty"`
		Partial     bool            `json:"partial,omitempty"`
		Diff        string          `json:"diff,omitempty"`
		NoDiff      string          `json:"diff_reason,omitempty"`
		Volume      string          `json:"volume,omitempty"`
		Inode       uint64          `json:"inode,omitempty"`
		Type        filewatch.Type  `json:"type,omitempty"`
	}{Path: filewatch.EscapePath(c.Path), Change: c.Kind, Attributes: c.Attributes, Level: c.Level, Rule: c.Rule,
		Explanation: c.Explanation, Suspicious: c.Suspicious, Explained: c.Explained,
		Partial: c.Partial, Diff: c.Diff, NoDiff: c.NoDiff}
	if r := c.state(); r != nil {
		w.Volume, w.Inode, w.Type = r.Volume, r.Inode, r.Type
	}
	return json.Marshal(&w)
}

// state is the newest state there is.
func (c *Change) state() *Record {
	if c.New != nil {
		return c.New
	}
	return c.Old
}
