package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/remote/store"
)

// Collections of documents and what their keys are.
const (
	inMachines   = "machine"   // name -> machine
	inNonces     = "nonce"     // nonce -> nonceEntry
	inCommands   = "command"   // agent + "/" + 20 digits -> remote.Command
	inCounters   = "counter"   // name -> uint64
	inEnrolments = "enrolment" // id -> enrolment
	inScans      = "scan"      // id -> scanEntry
	inAppraisals = "appraisal" // id -> remote.Appraisal
	inEvents     = "event"     // machine/stream/sequence -> remote.FileEvent
	inReviews    = "review"    // id -> reviewEntry
	inMoments    = "moment"    // id -> remote.Moment
	inOutbox     = "outbox"    // moment id -> remote.Moment still to be told
	inSessions   = "session"   // SHA-256 of the cookie -> session
	inAsked      = "asked"     // command id -> asked
	inManifests  = "manifest"  // record id -> waitingManifest
	inKeys       = "ek"        // keyOf the EK -> name of the machine that it stands for
	inRetired    = "retired"   // ID of a retired machine -> machine, as it was
	inRefusedEKs = "refusedek" // keyOf the EK of a retired machine -> its ID
	inHeldPages  = "held"      // scan id -> digests of the pages that it asked for
	inUploads    = "upload"    // id -> digests of bodies that an agent sent and no scan asked for
	inPages      = "page"      // page key -> true: judged clean before
)

// conflictTries bounds how often a change is decided again after another
// writer was faster.
const conflictTries = 16

// doc is a document with its value decoded.
type doc[T any] struct {
	store.Document
	V T
}

// load reads a document; store.ErrNotFound when there is none.
func load[T any](ctx context.Context, s store.Store, collection, key string) (*doc[T], error) {
	d, err := s.Get(ctx, collection, key)
	if err != nil {
		return nil, err
	}
	return decode[T](d)
}

// loadOrNew is load with an empty value, version 0, when there is none.
func loadOrNew[T any](ctx context.Context, s store.Store, collection, key string) (*doc[T], error) {
	d, err := load[T](ctx, s, collection, key)
	if errors.Is(err, store.ErrNotFound) {
		return &doc[T]{Document: store.Document{Collection: collection, Key: key}}, nil
	}
	return d, err
}

func decode[T any](d store.Document) (*doc[T], error) {
	out := &doc[T]{Document: d}
	if err := json.Unmarshal(d.Value, &out.V); err != nil {
		return nil, fmt.Errorf("stored %s %q: %w", d.Collection, d.Key, err)
	}
	return out, nil
}

// list reads documents, newest first.
func list[T any](ctx context.Context, s store.Store, q store.Query) ([]*doc[T], error) {
	docs, err := s.List(ctx, q)
	if err != nil {
		return nil, err
	}
	out := make([]*doc[T], 0, len(docs))
	for _, d := range docs {
		v, err := decode[T](d)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// values drops what is around the values.
func values[T any](docs []*doc[T]) []T {
	out := make([]T, 0, len(docs))
	for _, d := range docs {
		out = append(out, d.V)
	}
	return out
}

// stated is a value that is looked for by its state: the store keeps it beside the
// value.
type stated interface{ stateWord() string }

func stateOf(value any) string {
	if s, ok := value.(stated); ok {
		return s.stateWord()
	}
	return ""
}

// change writes the document back, if nobody else did meanwhile.
func (d *doc[T]) change() store.Change {
	d.Value, d.State = encode(d.V), stateOf(d.V)
	return store.Change{Document: d.Document}
}

// create is a change that makes a document.
func create(collection, key, machine string, at time.Time, value any) store.Change {
	return store.Change{Document: store.Document{
		Collection: collection, Key: key, Machine: machine, State: stateOf(value), Time: at, Value: encode(value),
	}}
}

// put is a change that writes a document whatever is there.
func put(collection, key, machine string, at time.Time, value any) store.Change {
	c := create(collection, key, machine, at, value)
	c.Version = store.Any
	return c
}

// remove is a change that removes a document whatever its version.
func remove(collection, key string) store.Change {
	return store.Change{Document: store.Document{Collection: collection, Key: key, Version: store.Any}, Delete: true}
}

// encode is for our own types, which JSON can hold.
func encode(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", value, err))
	}
	return data
}

// again repeats decide as long as another writer was faster.
func again(decide func() error) error {
	var err error
	for range conflictTries {
		if err = decide(); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return err
}
