package baseline

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Log is what a baseline has of a growing file, and what a capture that looked for it
// says of it.
type Log struct {
	ID   filewatch.ID `json:"id"`
	Size int64        `json:"size"`
	Want Digest       `json:"want"`
	// Kept says that the file still begins with it.
	Kept bool `json:"kept"`
	// Path is where the baseline has it, In what else begins with it.
	Path []byte         `json:"path"`
	In   []filewatch.ID `json:"in,omitempty"`
	// Mtime is that of the file in the baseline, zero where nobody said.
	Mtime time.Time `json:"mtime,omitzero"`
	// Asked says that another one's baseline has it, not that of the state it is in.
	Asked bool `json:"asked,omitempty"`
	// Unsought says that a search that ended at its bound did not look into all that may
	// have the content.
	Unsought bool `json:"unsought,omitempty"`
}

// Logs gives what the baseline has of files that the rules call growing, in the order of
// their paths and about so many bytes as JSON at most, however long the paths that a
// guest chose: whoever captures the files elsewhere, without the baseline, looks for them
// with [CaptureOptions.FollowLogs]. full says that there are more.
func (b *Baseline) Logs(rules *filewatch.Rules, most int) (logs []Log, full bool, err error) {
	const each = 400 // of digest, numbers and UUID
	o := &CaptureOptions{Rules: rules}
	if !rules.Asked().Has(filewatch.AttrGrowing) {
		return nil, false, nil
	}
	for r, err := range b.Records() {
		if err != nil {
			return nil, false, err
		}
		if !o.grows(r) {
			continue
		}
		if most -= each + len(r.Path())*4/3 + len(r.Volume); most < 0 {
			return logs, true, nil
		}
		logs = append(logs, Log{ID: r.ID(), Size: r.Size, Want: r.BLAKE3, Path: []byte(r.Path()), Mtime: r.Mtime})
	}
	return logs, false, nil
}

// FollowLogs is [CaptureOptions.Follow] for a baseline that is not here. The capture,
// written as a baseline, says where the logs' contents are now.
func (o *CaptureOptions) FollowLogs(logs []Log) {
	o.growing, o.moved = prefixes{}, newMovedLogs()
	for _, l := range logs {
		l.Asked = true
		o.followLog(&l)
	}
}

// followLog has a growing file's old content looked for.
func (o *CaptureOptions) followLog(l *Log) *prefix {
	p := o.growing.add(l.ID, l.Size, l.Want)
	p.path, p.mtime = l.Path, l.Mtime
	if l.Asked {
		p.asked, o.moved.judgedElsewhere = true, true
	}
	o.moved.follow(l.ID.Volume, string(l.Path), p)
	return p
}

// prefixesOf are old contents as a capture tells of them.
func prefixesOf(logs []Log) prefixes {
	out := prefixes{}
	for _, l := range logs {
		p := out.add(l.ID, l.Size, l.Want)
		p.kept, p.in, p.unsought = l.Kept, l.In, l.Unsought
	}
	return out
}

// asked are those that another one's baseline has, in order.
func (m prefixes) asked() (logs []Log) {
	for id, p := range m {
		for ; p != nil; p = p.also {
			if p.asked {
				logs = append(logs, Log{id, p.size, p.want, p.kept, p.path, p.in, p.mtime, true, p.unsought})
			}
		}
	}
	slices.SortFunc(logs, func(a, b Log) int {
		return cmp.Or(bytes.Compare(a.Path, b.Path), cmp.Compare(a.ID.Volume, b.ID.Volume), cmp.Compare(a.ID.Inode, b.ID.Inode),
			cmp.Compare(a.ID.Generation, b.ID.Generation), cmp.Compare(a.Size, b.Size), bytes.Compare(a.Want[:], b.Want[:]))
	})
	for _, l := range logs {
		slices.SortFunc(l.In, compareIDs)
	}
	return logs
}

func compareIDs(a, b filewatch.ID) int {
	return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Inode, b.Inode), cmp.Compare(a.Generation, b.Generation))
}
