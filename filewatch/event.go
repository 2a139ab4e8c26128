package filewatch

import "time"

// Event is one operation on one object of one target. Its JSON form is OCSF
// File System Activity (class 1001); see MarshalJSON.
type Event struct {
	Target   string
	Sequence uint64 // per target, without gaps; the first is 1
	Time     time.Time
	// Since is set by a source that sees states and not operations: it happened
	// between Since and Time.
	Since time.Time
	Op    Op
	// Path is the object's path in the guest at the time, raw bytes. NewPath is
	// set for OpRename, OpExchange and OpLink. Either may be empty when only the
	// inode is known; Path also for an OpLink of an object that had no name.
	Path, NewPath string
	// Object is the object as far as the source knows it: a trap fills volume,
	// inode and what its inode in memory says. Nil when nothing is known.
	Object *Object
	Actor  Actor
	// Level and Rule are those of the first rule that matches.
	Level Level
	Rule  string
	// Source names what saw the event: "trap", "tap", "scan".
	Source  string
	Verdict Verdict
	// Status says how the operation stands; Detail what else is worth saying,
	// such as the name of an extended attribute or why a path is incomplete.
	Status Status
	Detail string
	// Follows is the Sequence of the event that this one completes: the object
	// as it was found on disk afterwards. 0 for an event of its own.
	Follows uint64
	// Hashes are of the object's content, as found on disk.
	Hashes []Hash
	// Below counts, for the renaming of a directory, the objects that moved along and
	// have no events of their own.
	Below int
}

// PathNow is where the object is after the operation, "" when that is not known. Of a link
// it is the older name, which the object kept, where it had one.
func (e *Event) PathNow() string {
	if e.NewPath != "" && (e.Op != OpLink || e.Path == "") {
		return e.NewPath
	}
	return e.Path
}

// Status says how an operation stands.
type Status string

// The statuses.
const (
	Done      Status = ""          // the guest's kernel returned success
	Ongoing   Status = "ongoing"   // a file is being written and still open
	Attempted Status = "attempted" // begun; its result was not seen
	Denied    Status = "denied"    // refused before it happened
	Found     Status = "found"     // concluded from the disk before and after; the operation was not seen
)

// Hash is one digest of a content.
type Hash struct {
	Algorithm string // "BLAKE3", "SHA-256"
	Value     []byte
}

// Judgement is what comparing with a baseline came to.
type Judgement string

// The judgements. The zero value means that nobody has compared yet.
const (
	NotJudged   Judgement = ""
	Pass        Judgement = "pass"
	Fail        Judgement = "fail"
	NotMeasured Judgement = "not-measured"
)

// Verdict is a judgement with its reason.
type Verdict struct {
	Outcome Judgement `json:"outcome"`
	// Reason says in words why; always set for NotMeasured.
	Reason string `json:"reason,omitempty"`
	// Attributes are those that differ.
	Attributes []string `json:"attributes,omitempty"`
}
