// Package store is what the verifier remembers: records as they arrived,
// content-addressed bodies, and documents that the verifier derives from them.
//
// A driver promises three things, and storetest holds every driver to them:
//
//   - Durable: when Append, Apply or PutBodies returns without an error, the data
//     survives the death of the process and of the machine's power.
//   - Atomic: an Apply happens whole or not at all, and a document changes only
//     if it still has the version that the change was made from. That
//     compare-and-swap is the only coordination that verifiers need, so that
//     several of them can work on one database and none keeps state of its own.
//   - Idempotent: a record that was appended before is not appended again.
//
// Drivers may gather concurrent calls into one commit. They retry nothing:
// after an error the caller may repeat the call.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
)

var (
	// ErrNotFound is returned for a document or body that is not there.
	ErrNotFound = errors.New("not found")
	// ErrConflict is returned when a document no longer has the expected
	// version. Read it again and decide again.
	ErrConflict = errors.New("changed meanwhile")
	// ErrOrder is returned for records that do not rise.
	ErrOrder = errors.New("records are not in rising order")
	// ErrVersion is returned by a driver that finds a newer schema.
	ErrVersion = errors.New("the database was written by a newer version")
)

// Stream is one numbered sequence of records: a spool of an agent.
type Stream struct {
	Agent string
	Spool string
}

// Record is a stored record.
type Record struct {
	ID       int64 // rises in the order of arrival
	Stream   Stream
	Record   remote.Record
	Received time.Time
}

// Receipt answers Append.
type Receipt struct {
	Acked uint64 // highest stored number of the stream
	Added int    // records that were new
	// Gaps are ranges of numbers that never arrived, before each record of the
	// call: a caller that was killed before it told of one hears of it when the
	// records come again.
	Gaps []Gap
	// Altered are numbers that came again with another content; the first
	// content was kept.
	Altered []uint64
}

// Gap is a range of missing record numbers, both ends included.
type Gap struct{ From, To uint64 }

// PendingBytes bounds what one Pending reads: how large and how many the records
// that wait are is for the agents to say, and one of them may be hostile.
const PendingBytes = 64 << 20

// Any as the Version of a Change applies it whatever is stored.
const Any int64 = -1

// Document is one thing that the verifier derived, as JSON. Machine, State and
// Time are there to select by.
type Document struct {
	Collection string
	Key        string // unique in the collection
	Machine    string // may be empty
	State      string // one word; may be empty
	Time       time.Time
	Version    int64 // 1 when created, one more with each change
	Value      []byte
}

// Change is one document to write, or with Delete to remove. Version is the
// one it was read with, 0 to create it, or Any.
type Change struct {
	Document
	Delete bool
	// From, if set, is a machine whose documents in Collection all become those of
	// Machine. They keep their versions, and nothing else of the change is used.
	From string
}

// Query selects documents of one collection, newest first by (Time, Key).
type Query struct {
	Collection string
	Machine    string    // empty: all
	State      string    // empty: all
	Until      time.Time // zero: all; otherwise only what is older
	Before     string    // key of a document: only what follows it in the order
	Limit      int       // 0: no limit
	Bare       bool      // without values: to count, or to know the keys
}

// Store is a driver's whole surface. The verifier's parts each take the slice
// of it that they use.
type Store interface {
	// Append stores the records of a stream that are new, in rising order.
	Append(ctx context.Context, s Stream, received time.Time, records []remote.Record) (Receipt, error)
	// Pending returns records of the given kinds that no Apply has marked as
	// processed, in the order of their arrival: at least one if there is one,
	// and otherwise no more than limit and PendingBytes of bodies.
	Pending(ctx context.Context, limit int, kinds ...remote.Kind) ([]Record, error)
	// Forget drops records that were received before a time and are processed, some
	// at once, and returns how many it dropped: 0 when it is done. Of each stream
	// the number of the last one stays, so that Append tells gaps as before; whether
	// a dropped record comes again with another content it can no longer tell.
	Forget(ctx context.Context, before time.Time) (int, error)
	// Apply makes the changes and marks the records as processed, by ID.
	Apply(ctx context.Context, processed []int64, changes ...Change) error
	// Get returns one document.
	Get(ctx context.Context, collection, key string) (Document, error)
	// List returns the selected documents.
	List(ctx context.Context, q Query) ([]Document, error)
	// PutBodies stores bodies under their digests, which the caller has
	// checked. A body that is there already is no error.
	PutBodies(ctx context.Context, bodies map[remote.Digest][]byte) error
	// Body returns a body.
	Body(ctx context.Context, digest remote.Digest) ([]byte, error)
	// Missing returns those of digests that are not stored, in their order.
	Missing(ctx context.Context, digests []remote.Digest) ([]remote.Digest, error)
	// DeleteBodies removes bodies; one that is not there is no error.
	DeleteBodies(ctx context.Context, digests []remote.Digest) error
	// Close finishes what was begun and lets go of the database.
	Close() error
}
