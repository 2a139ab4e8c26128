package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// minKeep is the least that Config.Keep may be: pages, nonces and what is under way
// are younger.
const minKeep = 24 * time.Hour

// forgetAtOnce bounds the documents that are read to see whether they are dropped.
const forgetAtOnce = 200

// forgetOld drops records, scans, appraisals, file events and lines of the timeline
// that are older than Config.Keep, each with the body that is its own. What stays
// however old it is: what each machine's state rests on, scans that are not over,
// review items and the events behind those that are open, and all baselines. Bodies
// that an agent sent and no scan asked for, captures of files among them, go too.
func (v *Verifier) forgetOld(ctx context.Context) error {
	if v.config.Keep == 0 {
		return nil
	}
	before := v.now().Add(-time.Duration(v.config.Keep))
	for {
		n, err := v.store.Forget(ctx, before)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	needed, err := v.neededDocuments(ctx)
	if err != nil {
		return err
	}
	if err := v.forgetUploads(ctx, before); err != nil {
		return err
	}
	for collection, judge := range map[string]func(data []byte) (old bool, bodies []remote.Digest, err error){
		inScans: oldScan, inAppraisals: oldAppraisal, inMoments: oldMoment,
		inEvents: func(data []byte) (bool, []remote.Digest, error) { return oldEvent(data, before) },
	} {
		if err := v.forgetDocuments(ctx, collection, before, needed, judge); err != nil {
			return fmt.Errorf("forget old %ss: %w", collection, err)
		}
	}
	return nil
}

// neededDocuments are the keys of what machines' states rest on and of the events
// behind open review items.
func (v *Verifier) neededDocuments(ctx context.Context) (map[string]bool, error) {
	needed := make(map[string]bool)
	machines, err := v.everyMachine(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		needed[m.V.Scan.ID], needed[m.V.Boot.ID] = true, true
	}
	open, err := list[reviewEntry](ctx, v.store, store.Query{Collection: inReviews, State: reviewOpen})
	if err != nil {
		return nil, err
	}
	for _, r := range open {
		needed[r.V.Event] = true
	}
	return needed, nil
}

// forgetDocuments drops what is old of one collection. Each page of documents is
// dropped once the next has been read, which begins behind its last.
func (v *Verifier) forgetDocuments(ctx context.Context, collection string, before time.Time, needed map[string]bool,
	judge func(data []byte) (bool, []remote.Digest, error)) error {
	q := store.Query{Collection: collection, Until: before, Limit: forgetAtOnce}
	var drop []store.Change
	var bodies []remote.Digest
	for {
		docs, err := v.store.List(ctx, q)
		if err != nil {
			return err
		}
		// Bodies first: if this ends half way, the document still names them.
		err = errors.Join(v.store.DeleteBodies(ctx, bodies), v.store.Apply(ctx, nil, drop...))
		if err != nil || len(docs) == 0 {
			return err
		}
		drop, bodies = nil, nil
		for _, d := range docs {
			old, own, err := judge(d.Value)
			if err != nil {
				return fmt.Errorf("stored %s %q: %w", collection, d.Key, err)
			}
			if old && !needed[d.Key] {
				// By its version: one that is changed this moment stays.
				drop, bodies = append(drop, store.Change{Document: d, Delete: true}), append(bodies, own...)
			}
			q.Before = d.Key
		}
	}
}

func oldScan(data []byte) (bool, []remote.Digest, error) {
	var s scanEntry
	err := json.Unmarshal(data, &s)
	return s.Done(), own(s.Body), err
}

func oldAppraisal(data []byte) (bool, []remote.Digest, error) {
	var a remote.Appraisal
	err := json.Unmarshal(data, &a)
	return true, own(a.Evidence), err
}

func oldMoment([]byte) (bool, []remote.Digest, error) { return true, nil, nil }

// oldEvent goes by when an event came: when it happened is the agent's word.
func oldEvent(data []byte, before time.Time) (bool, []remote.Digest, error) {
	var e remote.FileEvent
	err := json.Unmarshal(data, &e)
	return e.Received.Before(before), nil, err
}

// own is the body of a report, which no other document names: it holds a nonce.
func own(d remote.Digest) []remote.Digest {
	if d == (remote.Digest{}) {
		return nil
	}
	return []remote.Digest{d}
}
