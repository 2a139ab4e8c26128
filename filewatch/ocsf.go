package filewatch

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"time"
)

// The OCSF version that events follow: https://schema.ocsf.io/1.3.0/classes/file_activity
const (
	ocsfVersion  = "1.3.0"
	ocsfCategory = 1 // System Activity
	ocsfClass    = 1001
)

// wireEvent is an Event in OCSF's words. Attributes that OCSF does not have
// (target, sequence, operation, level, rule, verdict) stand beside them.
type wireEvent struct {
	ClassUID     int       `json:"class_uid"`
	ClassName    string    `json:"class_name"`
	CategoryUID  int       `json:"category_uid"`
	ActivityID   int       `json:"activity_id"`
	ActivityName string    `json:"activity_name"`
	TypeUID      int       `json:"type_uid"`
	SeverityID   int       `json:"severity_id"`
	Time         int64     `json:"time"` // milliseconds since the epoch
	TimeDT       time.Time `json:"time_dt"`
	StartTimeDT  time.Time `json:"start_time_dt,omitzero"` // with EndTimeDT, of what has a window
	EndTimeDT    time.Time `json:"end_time_dt,omitzero"`
	Metadata     wireMeta  `json:"metadata"`
	Target       string    `json:"target"`
	Sequence     uint64    `json:"sequence"`
	Operation    Op        `json:"operation"`
	Actor        Actor     `json:"actor"`
	File         wireFile  `json:"file"`
	FileResult   *wireFile `json:"file_result,omitempty"`
	Level        Level     `json:"level"`
	Rule         string    `json:"rule,omitempty"`
	Source       string    `json:"source,omitempty"`
	Verdict      *Verdict  `json:"verdict,omitempty"`
	StatusID     int       `json:"status_id"`
	Status       Status    `json:"status,omitempty"`
	StatusDetail string    `json:"status_detail,omitempty"`
	Follows      uint64    `json:"follows,omitempty"`
	Below        int       `json:"moved_below,omitempty"`
}

type wireMeta struct {
	Version  string      `json:"version"`
	Sequence uint64      `json:"sequence"`
	Product  wireProduct `json:"product"`
}

type wireProduct struct {
	Name   string `json:"name"`
	Vendor string `json:"vendor_name"`
}

// wireFile is OCSF's File object; volume, inode, generation and mode are ours.
type wireFile struct {
	Path       string     `json:"path,omitempty"`
	Name       string     `json:"name,omitempty"`
	Type       Type       `json:"type,omitempty"`
	TypeID     int        `json:"type_id"`
	Volume     string     `json:"volume,omitempty"`
	Inode      uint64     `json:"inode,omitempty"`
	Generation uint32     `json:"generation,omitempty"`
	Mode       string     `json:"mode,omitempty"`
	UID        *uint32    `json:"uid,omitempty"`
	GID        *uint32    `json:"gid,omitempty"`
	Size       *int64     `json:"size,omitempty"`
	Mtime      *time.Time `json:"modified_time_dt,omitempty"`
	Ctime      *time.Time `json:"changed_time_dt,omitempty"`
	Link       string     `json:"link,omitempty"`
	Hashes     []wireHash `json:"hashes,omitempty"`
}

// wireHash is OCSF's Fingerprint object.
type wireHash struct {
	Algorithm   string `json:"algorithm"`
	AlgorithmID int    `json:"algorithm_id"`
	Value       string `json:"value"` // hex
}

// MarshalJSON gives the event as one OCSF File System Activity.
func (e *Event) MarshalJSON() ([]byte, error) {
	activity := e.Op.Activity()
	w := wireEvent{
		ClassUID: ocsfClass, ClassName: "File System Activity", CategoryUID: ocsfCategory,
		ActivityID: activity, ActivityName: activities[activity], TypeUID: ocsfClass*100 + activity,
		SeverityID: e.severity(), Time: e.Time.UnixMilli(), TimeDT: e.Time.UTC(),
		Metadata: wireMeta{ocsfVersion, e.Sequence, wireProduct{"Plumbline", "Plumbline"}},
		Target:   e.Target, Sequence: e.Sequence, Operation: e.Op, Actor: e.Actor,
		File: fileOf(e.Path, e.Object), Level: e.Level, Rule: e.Rule, Source: e.Source, Below: e.Below,
	}
	if !e.Since.IsZero() {
		w.StartTimeDT, w.EndTimeDT = e.Since.UTC(), e.Time.UTC()
	}
	if e.NewPath != "" {
		result := fileOf(e.NewPath, e.Object)
		w.FileResult = &result
	}
	for _, h := range e.Hashes {
		w.File.Hashes = append(w.File.Hashes, wireHash{h.Algorithm, ocsfHash(h.Algorithm), hex.EncodeToString(h.Value)})
	}
	w.StatusID, w.Status, w.StatusDetail, w.Follows = e.Status.ocsf(), e.Status, EscapePath(e.Detail), e.Follows
	if e.Verdict.Outcome != NotJudged {
		w.Verdict = &e.Verdict
	}
	return json.Marshal(w)
}

// ocsf is status_id: 0 unknown, 1 success, 2 failure.
func (s Status) ocsf() int {
	switch s {
	case Done, Ongoing, Found:
		return 1
	case Denied:
		return 2
	}
	return 0
}

// ocsfHash is Fingerprint.algorithm_id: 3 SHA-256, 99 other.
func ocsfHash(algorithm string) int {
	if algorithm == "SHA-256" {
		return 3
	}
	return 99
}

// severity maps to OCSF's scale: 1 informational, 2 low, 3 medium, 4 high, 5
// critical.
func (e *Event) severity() int {
	switch {
	case e.Verdict.Outcome == Fail && e.Level == Protect:
		return 5
	case e.Verdict.Outcome == Fail:
		return 4
	case e.Level == Protect:
		return 3
	}
	return 1
}

// UnmarshalJSON reads what MarshalJSON gives.
func (e *Event) UnmarshalJSON(b []byte) error {
	var w wireEvent
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	if w.ClassUID != ocsfClass {
		return fmt.Errorf("read event: class %d is not File System Activity (%d)", w.ClassUID, ocsfClass)
	}
	*e = Event{Target: w.Target, Sequence: w.Sequence, Time: w.TimeDT.UTC(), Since: w.StartTimeDT, Op: w.Operation,
		Actor: w.Actor, Level: w.Level, Rule: w.Rule, Source: w.Source, Status: w.Status, Follows: w.Follows, Below: w.Below}
	if w.Verdict != nil {
		e.Verdict = *w.Verdict
	}
	var err error
	for _, h := range w.File.Hashes {
		value, err := hex.DecodeString(h.Value)
		if err != nil {
			return fmt.Errorf("read event: hash: %w", err)
		}
		e.Hashes = append(e.Hashes, Hash{h.Algorithm, value})
	}
	if e.Detail, err = UnescapePath(w.StatusDetail); err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	if e.Path, err = UnescapePath(w.File.Path); err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	if w.FileResult != nil {
		if e.NewPath, err = UnescapePath(w.FileResult.Path); err != nil {
			return fmt.Errorf("read event: %w", err)
		}
	}
	e.Object, err = w.File.object()
	return err
}

func fileOf(name string, o *Object) wireFile {
	f := wireFile{Path: EscapePath(name)}
	if name != "" {
		f.Name = EscapePath(path.Base(name))
	}
	if o == nil {
		return f
	}
	f.Type, f.TypeID = o.Type, ocsfType(o.Type)
	f.Volume, f.Inode, f.Generation = o.Volume, o.Inode, o.Generation
	f.Mode, f.UID, f.GID, f.Size = fmt.Sprintf("%04o", o.Mode), &o.UID, &o.GID, &o.Size
	f.Mtime, f.Ctime, f.Link = known(o.Mtime), known(o.Ctime), EscapePath(o.Link)
	return f
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (f *wireFile) object() (*Object, error) {
	if f.Inode == 0 && f.Type == "" {
		return nil, nil
	}
	o := &Object{Volume: f.Volume, Inode: f.Inode, Generation: f.Generation, Type: f.Type}
	if f.Mode != "" {
		if _, err := fmt.Sscanf(f.Mode, "%o", &o.Mode); err != nil {
			return nil, fmt.Errorf("read event: mode %q: %w", f.Mode, err)
		}
	}
	if f.UID != nil {
		o.UID = *f.UID
	}
	if f.GID != nil {
		o.GID = *f.GID
	}
	if f.Size != nil {
		o.Size = *f.Size
	}
	if f.Mtime != nil {
		o.Mtime = *f.Mtime
	}
	if f.Ctime != nil {
		o.Ctime = *f.Ctime
	}
	var err error
	o.Link, err = UnescapePath(f.Link)
	return o, err
}

// ocsfType is File.type_id: 0 unknown, 1 regular file, 2 folder, 3 character
// device, 4 block device, 5 local socket, 6 named pipe, 7 symbolic link.
func ocsfType(t Type) int {
	switch t {
	case TypeFile:
		return 1
	case TypeDir:
		return 2
	case TypeChar:
		return 3
	case TypeBlock:
		return 4
	case TypeSocket:
		return 5
	case TypeFIFO:
		return 6
	case TypeSymlink:
		return 7
	}
	return 0
}
