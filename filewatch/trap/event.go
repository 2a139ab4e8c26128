package trap

import (
	"fmt"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// event is the event of a record, nil when the rules ignore it.
func (s *Source) event(r *Record) *filewatch.Event {
	e := &filewatch.Event{
		Target: s.Target, Time: time.Unix(0, r.Time).UTC(), Op: r.Op, Source: "trap",
		Path: r.Path.String(), Object: r.object(), Actor: r.actor(),
	}
	names := []string{e.Path}
	if r.NewPath.Path != "" {
		e.NewPath = r.NewPath.String()
		names = append(names, e.NewPath)
	}
	if s.Baseline != nil {
		names = append(names, s.Baseline.Names(e.Object.ID())...)
	}
	rule := s.Rules.MatchNames(names, e.Object)
	if rule.Level == filewatch.Ignore {
		return nil
	}
	e.Level, e.Rule = rule.Level, rule.Name
	e.Status, e.Detail = r.status()
	return e
}

// status says how the operation stands, and what is unusual about the record.
func (r *Record) status() (filewatch.Status, string) {
	status := filewatch.Done
	switch {
	case r.Marks&Denied != 0:
		status = filewatch.Denied
	case r.Marks&NotSettled != 0:
		status = filewatch.Attempted
	case r.Stage == Ongoing:
		status = filewatch.Ongoing
	}
	var words []string
	if r.Op == filewatch.OpSetXattr || r.Op == filewatch.OpSetACL {
		words = append(words, r.Detail)
	}
	if r.Marks&PathTruncated != 0 {
		words = append(words, "the path could not be read whole")
	}
	if r.Marks&Unlinked != 0 {
		words = append(words, "the object has no name any more")
	}
	if r.Marks&NoMount != 0 {
		words = append(words, "the path is within a volume that is not mounted whole")
	}
	if r.Replaced.Number != 0 && r.Op == filewatch.OpRename {
		words = append(words, fmt.Sprintf("replaced inode %d", r.Replaced.Number))
	}
	return status, strings.Join(words, "; ")
}

func (r *Record) object() *filewatch.Object {
	i := &r.Object
	o := &filewatch.Object{
		Volume: r.Volume.ID(), Inode: i.Number, Generation: i.Generation, Type: filewatch.TypeOf(i.Mode),
		Mode: uint16(i.Mode & 0o7777), UID: i.UID, GID: i.GID, Nlink: i.Nlink, Size: i.Size,
		Mtime: unixNano(i.Mtime), Ctime: unixNano(i.Ctime),
	}
	switch o.Type {
	case filewatch.TypeChar, filewatch.TypeBlock:
		o.Major, o.Minor = i.Rdev>>20, i.Rdev&0xfffff
	case filewatch.TypeSymlink:
		if r.Op == filewatch.OpSymlink {
			o.Link = r.Detail
		}
	}
	return o
}

func unixNano(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func (r *Record) actor() filewatch.Actor {
	if r.Actor.Comm == "" && r.Actor.TID == 0 {
		return filewatch.Actor{Unknown: "the current task could not be read"}
	}
	a := filewatch.Actor{Process: r.Actor.process(), TID: int(r.Actor.TID), EUID: r.Actor.UID}
	a.UID = r.Actor.RealUID
	for i := range r.Parent {
		if r.Parent[i].TID == 0 {
			break
		}
		a.Ancestry = append(a.Ancestry, r.Parent[i].process())
	}
	return a
}

func (t *Task) process() filewatch.Process {
	return filewatch.Process{PID: int(t.PID), UID: t.UID, Name: t.Comm}
}

// ID is the volume as readers of disks name it: the UUID, or the device where
// there is none.
func (v *Volume) ID() string {
	if v.UUID == ([16]byte{}) {
		return fmt.Sprintf("%s:%s", v.Type, v.Name)
	}
	u := v.UUID
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
