// Package storetest is the conformance suite that every driver of
// remote/store passes.
package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// Run holds a driver to the promises of store.Store. create makes an empty
// database; each call of the open it returns opens that database again, after
// the store of the call before was closed.
func Run(t *testing.T, create func(t *testing.T) (open func() store.Store)) {
	tests := []struct {
		name string
		run  func(t *testing.T, open func() store.Store)
	}{
		{"AppendIsIdempotent", appendIsIdempotent},
		{"AppendReportsGaps", appendReportsGaps},
		{"AppendRefusesDisorder", appendRefusesDisorder},
		{"AppendKeepsTheFirstContent", appendKeepsTheFirstContent},
		{"StreamsAreApart", streamsAreApart},
		{"PendingUntilApplied", pendingUntilApplied},
		{"PendingIsBounded", pendingIsBounded},
		{"ForgetKeepsNumbers", forgetKeepsNumbers},
		{"ApplyIsAtomic", applyIsAtomic},
		{"CompareAndSwap", compareAndSwap},
		{"OneWinnerOfManyWriters", oneWinnerOfManyWriters},
		{"ListNewestFirst", listNewestFirst},
		{"ListByState", listByState},
		{"MoveToAnotherMachine", moveToAnotherMachine},
		{"Bodies", bodies},
		{"SurvivesReopening", survivesReopening},
		{"CancelledCallChangesNothing", cancelledCall},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, create(t)) })
	}
}

var (
	stream   = store.Stream{Agent: "host1", Spool: "s1"}
	received = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
)

// records makes records with the given numbers.
func records(seqs ...uint64) []remote.Record {
	var out []remote.Record
	for _, n := range seqs {
		out = append(out, remote.Record{Seq: n, Kind: remote.KindEvent, Time: received.Add(-time.Second),
			Body: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))})
	}
	return out
}

func mustAppend(t *testing.T, s store.Store, stream store.Stream, records []remote.Record) store.Receipt {
	t.Helper()
	receipt, err := s.Append(t.Context(), stream, received, records)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return receipt
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

func appendIsIdempotent(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	want(t, "first", mustAppend(t, s, stream, records(1, 2, 3)), store.Receipt{Acked: 3, Added: 3})
	want(t, "again", mustAppend(t, s, stream, records(2, 3)), store.Receipt{Acked: 3})
	want(t, "overlapping", mustAppend(t, s, stream, records(3, 4)), store.Receipt{Acked: 4, Added: 1})
	want(t, "nothing", mustAppend(t, s, stream, nil), store.Receipt{Acked: 4})
	pending, err := s.Pending(t.Context(), 100, remote.KindEvent)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "stored", len(pending), 4)
	want(t, "as sent", pending[0].Record, records(1)[0])
	want(t, "received", pending[0].Received, received)
}

func appendReportsGaps(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	want(t, "begins late", mustAppend(t, s, stream, records(3)), store.Receipt{Acked: 3, Added: 1, Gaps: []store.Gap{{From: 1, To: 2}}})
	want(t, "two gaps", mustAppend(t, s, stream, records(5, 9)),
		store.Receipt{Acked: 9, Added: 2, Gaps: []store.Gap{{From: 4, To: 4}, {From: 6, To: 8}}})
	want(t, "into a gap", mustAppend(t, s, stream, records(7)), store.Receipt{Acked: 9})
	want(t, "the same again", mustAppend(t, s, stream, records(5, 9)),
		store.Receipt{Acked: 9, Gaps: []store.Gap{{From: 4, To: 4}, {From: 6, To: 8}}})
	want(t, "the first again", mustAppend(t, s, stream, records(3)), store.Receipt{Acked: 9, Gaps: []store.Gap{{From: 1, To: 2}}})
}

func appendRefusesDisorder(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	for _, bad := range [][]uint64{{2, 1}, {1, 1}, {0}, {0, 1}} {
		_, err := s.Append(t.Context(), stream, received, records(bad...))
		wantError(t, fmt.Sprint(bad), err, store.ErrOrder)
	}
	want(t, "nothing was stored", mustAppend(t, s, stream, nil), store.Receipt{})
}

func appendKeepsTheFirstContent(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	mustAppend(t, s, stream, records(1))
	forged := records(1)
	forged[0].Body = json.RawMessage(`{"n":"forged"}`)
	want(t, "forged", mustAppend(t, s, stream, forged), store.Receipt{Acked: 1, Altered: []uint64{1}})
	pending, err := s.Pending(t.Context(), 10, remote.KindEvent)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "first content", string(pending[0].Record.Body), `{"n":1}`)
}

func streamsAreApart(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	mustAppend(t, s, stream, records(1, 2))
	for _, other := range []store.Stream{{Agent: "host2", Spool: "s1"}, {Agent: "host1", Spool: "s2"}} {
		want(t, fmt.Sprint(other), mustAppend(t, s, other, records(1)), store.Receipt{Acked: 1, Added: 1})
	}
}

func pendingUntilApplied(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	mustAppend(t, s, stream, records(1, 2))
	pending, err := s.Pending(t.Context(), 1, remote.KindScan, remote.KindEvent)
	if err != nil || len(pending) != 1 {
		t.Fatalf("Pending = %d records, %v", len(pending), err)
	}
	conflict := change("c", "k", "", 7)
	wantError(t, "refused change", s.Apply(t.Context(), []int64{pending[0].ID}, conflict), store.ErrConflict)
	again, err := s.Pending(t.Context(), 10, remote.KindEvent)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "after a refused change", len(again), 2)
	if err := s.Apply(t.Context(), []int64{pending[0].ID}, change("c", "k", "", 0)); err != nil {
		t.Fatal(err)
	}
	rest, err := s.Pending(t.Context(), 10, remote.KindEvent)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "after it was applied", len(rest), 1)
	other, err := s.Pending(t.Context(), 10, remote.KindScan)
	wantError(t, "other kinds", err, nil)
	want(t, "other kinds", len(other), 0)
	want(t, "the other one", rest[0].Record.Seq, uint64(2))
}

// change writes the document key, expecting version.
func change(collection, key, machine string, version int64) store.Change {
	return store.Change{Document: store.Document{
		Collection: collection, Key: key, Machine: machine, Time: received, Version: version, Value: []byte(`"` + key + `"`),
	}}
}

// An agent that leaves many large records waiting must not have all of them read
// into memory at once.
func pendingIsBounded(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	const each, waiting = store.PendingBytes / 4, 6
	body := append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, each-2)...), '"')
	for seq := range uint64(waiting) {
		r := records(seq + 1)
		r[0].Body = body
		mustAppend(t, s, stream, r)
	}
	for _, n := range []int{4, 2, 0} {
		pending, err := s.Pending(t.Context(), 100, remote.KindEvent)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "records at once", len(pending), n)
		var ids []int64
		for _, r := range pending {
			ids = append(ids, r.ID)
		}
		if err := s.Apply(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
	}
	huge := records(waiting + 1)
	huge[0].Body = append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, store.PendingBytes)...), '"')
	mustAppend(t, s, stream, huge)
	pending, err := s.Pending(t.Context(), 100, remote.KindEvent)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "one that is larger than the bound", len(pending), 1)
}

// forgetKeepsNumbers: what is forgotten is no gap, what was a gap before is told as
// ever, and what nobody has handled yet stays.
func forgetKeepsNumbers(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	forget := func(before time.Time, most int) {
		t.Helper()
		dropped := 0
		for {
			n, err := s.Forget(t.Context(), before)
			if err != nil {
				t.Fatal(err)
			}
			if dropped += n; n == 0 {
				break
			}
		}
		want(t, "dropped", dropped, most)
	}
	mustAppend(t, s, stream, records(1, 2, 3))
	other := store.Stream{Agent: "host2", Spool: "s"}
	mustAppend(t, s, other, records(1))
	forget(received.Add(time.Hour), 0)
	pending, err := s.Pending(t.Context(), 10, remote.KindEvent)
	if err != nil || len(pending) != 4 {
		t.Fatalf("%d records are pending, %v", len(pending), err)
	}
	if err := s.Apply(t.Context(), []int64{pending[0].ID, pending[1].ID, pending[3].ID}); err != nil {
		t.Fatal(err)
	}
	forget(received, 0)
	forget(received.Add(time.Second), 3)
	forget(received.Add(time.Second), 0)
	left, err := s.Pending(t.Context(), 10, remote.KindEvent)
	if err != nil || len(left) != 1 || left[0].Record.Seq != 3 {
		t.Fatalf("pending are %+v, %v", left, err)
	}
	want(t, "all again", mustAppend(t, s, stream, records(1, 2, 3)), store.Receipt{Acked: 3})
	want(t, "another stream", mustAppend(t, s, other, records(1, 3)), store.Receipt{Acked: 3, Added: 1, Gaps: []store.Gap{{From: 2, To: 2}}})
	if err := s.Apply(t.Context(), []int64{left[0].ID}); err != nil {
		t.Fatal(err)
	}
	forget(received.Add(time.Second), 1)
	want(t, "the next", mustAppend(t, s, stream, records(3, 5)), store.Receipt{Acked: 5, Added: 1, Gaps: []store.Gap{{From: 4, To: 4}}})
}

func applyIsAtomic(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	err := s.Apply(t.Context(), nil, change("c", "a", "", 0), change("c", "b", "", 5))
	wantError(t, "second change", err, store.ErrConflict)
	_, err = s.Get(t.Context(), "c", "a")
	wantError(t, "first change was undone", err, store.ErrNotFound)
}

func compareAndSwap(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	apply := func(c store.Change) error { return s.Apply(t.Context(), nil, c) }
	wantError(t, "change what is not there", apply(change("c", "k", "", 1)), store.ErrConflict)
	wantError(t, "create", apply(change("c", "k", "m", 0)), nil)
	wantError(t, "create again", apply(change("c", "k", "", 0)), store.ErrConflict)
	wantError(t, "change", apply(change("c", "k", "m", 1)), nil)
	wantError(t, "change from an old version", apply(change("c", "k", "", 1)), store.ErrConflict)
	got, err := s.Get(t.Context(), "c", "k")
	wantError(t, "get", err, nil)
	stored := change("c", "k", "m", 2).Document
	want(t, "stored", got, stored)
	wantError(t, "any version", apply(change("c", "k", "m", store.Any)), nil)
	wantError(t, "any version creates", apply(change("c", "new", "", store.Any)), nil)

	del := change("c", "k", "", 1)
	del.Delete = true
	wantError(t, "delete an old version", apply(del), store.ErrConflict)
	del.Version = 3
	wantError(t, "delete", apply(del), nil)
	del.Version = store.Any
	wantError(t, "delete what is gone", apply(del), nil)
	_, err = s.Get(t.Context(), "c", "k")
	wantError(t, "get what is gone", err, store.ErrNotFound)
}

func oneWinnerOfManyWriters(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	const writers, rounds = 8, 25
	if err := s.Apply(t.Context(), nil, change("c", "counter", "", 0)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < rounds; {
				d, err := s.Get(t.Context(), "c", "counter")
				if err == nil {
					err = s.Apply(t.Context(), nil, store.Change{Document: d})
				}
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					t.Errorf("writer: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	d, err := s.Get(t.Context(), "c", "counter")
	wantError(t, "get", err, nil)
	want(t, "no change was lost", d.Version, int64(1+writers*rounds))
}

func listNewestFirst(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	var changes []store.Change
	for i, key := range []string{"d", "a", "c", "b"} {
		c := change("c", key, "m"+key, 0)
		c.Time = received.Add(time.Duration(i/2) * time.Hour) // d a, then c b
		changes = append(changes, c)
	}
	changes = append(changes, change("other", "x", "", 0))
	if err := s.Apply(t.Context(), nil, changes...); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		q    store.Query
		keys string
	}{
		{store.Query{Collection: "c"}, "cbda"},
		{store.Query{Collection: "c", Limit: 2}, "cb"},
		{store.Query{Collection: "c", Before: "b"}, "da"},
		{store.Query{Collection: "c", Before: "c", Limit: 1}, "b"},
		{store.Query{Collection: "c", Machine: "ma"}, "a"},
		{store.Query{Collection: "c", Until: received.Add(time.Second)}, "da"},
		{store.Query{Collection: "c", Until: received}, ""},
		{store.Query{Collection: "c", Machine: "nobody"}, ""},
		{store.Query{Collection: "c", Before: "gone"}, ""},
		{store.Query{Collection: "empty"}, ""},
		{store.Query{Collection: "c", Limit: 2, Bare: true}, "cb"},
	} {
		docs, err := s.List(t.Context(), test.q)
		if err != nil {
			t.Fatal(err)
		}
		keys := ""
		for _, d := range docs {
			keys += d.Key
			want(t, "value of "+d.Key, d.Value == nil, test.q.Bare)
		}
		want(t, fmt.Sprintf("%+v", test.q), keys, test.keys)
	}
}

// listByState: a document is found by the state it has now, and by no other.
func listByState(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	var changes []store.Change
	for i, key := range []string{"a", "b", "c", "d", "e"} {
		c := change("c", key, "m", 0)
		c.Time = received.Add(time.Duration(i) * time.Hour)
		c.State = []string{"open", "done", "open", "", "open"}[i]
		changes = append(changes, c)
	}
	if err := s.Apply(t.Context(), nil, changes...); err != nil {
		t.Fatal(err)
	}
	list := func(q store.Query) (keys string) {
		docs, err := s.List(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range docs {
			keys += d.Key
			want(t, "state of "+d.Key, d.State, q.State)
		}
		return keys
	}
	q := store.Query{Collection: "c", State: "open"}
	want(t, "open", list(q), "eca")
	want(t, "nobody's", list(store.Query{Collection: "c", Machine: "other", State: "open"}), "")
	want(t, "a part", list(store.Query{Collection: "c", Machine: "m", State: "open", Before: "e", Limit: 1}), "c")
	closed, put := change("c", "e", "m", 1), change("c", "d", "m", store.Any)
	closed.State, put.State = "done", "open"
	closed.Time, put.Time = received, received
	if err := s.Apply(t.Context(), nil, closed, put); err != nil {
		t.Fatal(err)
	}
	want(t, "open after a change", list(q), "cda")
	got, err := s.Get(t.Context(), "c", "e")
	wantError(t, "get", err, nil)
	want(t, "state", got.State, "done")
}

// What a machine has in one collection becomes another's, in the order of the changes
// around it.
func moveToAnotherMachine(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	ctx := t.Context()
	if err := s.Apply(ctx, nil, change("scan", "a", "m1", 0), change("scan", "b", "m1", 0), change("scan", "c", "m2", 0), change("event", "a", "m1", 0)); err != nil {
		t.Fatal(err)
	}
	move := store.Change{Document: store.Document{Collection: "scan", Machine: "m3"}, From: "m1"}
	if err := s.Apply(ctx, nil, move, change("scan", "b", "m1", 1), change("scan", "d", "m1", 0)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		collection, machine string
		want                []string
	}{{"scan", "m1", []string{"d", "b"}}, {"scan", "m2", []string{"c"}}, {"scan", "m3", []string{"a"}}, {"event", "m1", []string{"a"}}} {
		docs, err := s.List(ctx, store.Query{Collection: c.collection, Machine: c.machine})
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, d := range docs {
			keys = append(keys, d.Key)
		}
		want(t, c.collection+" of "+c.machine, keys, c.want)
	}
	moved, err := s.Get(ctx, "scan", "a")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "version of what was moved", moved.Version, int64(1))
}

func bodies(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	big := bytes.Repeat([]byte{0, 0xFF, 'x'}, 1<<20)
	digests := []remote.Digest{remote.DigestOf(big), remote.DigestOf(nil), remote.DigestOf([]byte("absent"))}
	for range 2 { // again is harmless
		err := s.PutBodies(t.Context(), map[remote.Digest][]byte{digests[0]: big, digests[1]: nil})
		wantError(t, "put", err, nil)
	}
	got, err := s.Body(t.Context(), digests[0])
	wantError(t, "get", err, nil)
	want(t, "same bytes", bytes.Equal(got, big), true)
	missing, err := s.Missing(t.Context(), digests)
	wantError(t, "missing", err, nil)
	want(t, "missing", missing, digests[2:])
	wantError(t, "delete", s.DeleteBodies(t.Context(), digests), nil)
	_, err = s.Body(t.Context(), digests[0])
	wantError(t, "get what is gone", err, store.ErrNotFound)
}

func survivesReopening(t *testing.T, open func() store.Store) {
	s := open()
	mustAppend(t, s, stream, records(1, 2))
	wantError(t, "apply", s.Apply(t.Context(), nil, change("c", "k", "m", 0)), nil)
	body := []byte("body")
	wantError(t, "put", s.PutBodies(t.Context(), map[remote.Digest][]byte{remote.DigestOf(body): body}), nil)
	wantError(t, "close", s.Close(), nil)
	if _, err := s.Append(context.Background(), stream, received, records(3)); err == nil {
		t.Error("Append to a closed store gave no error")
	}
	s = open()
	defer s.Close()
	want(t, "records", mustAppend(t, s, stream, nil), store.Receipt{Acked: 2})
	_, err := s.Get(t.Context(), "c", "k")
	wantError(t, "document", err, nil)
	_, err = s.Body(t.Context(), remote.DigestOf(body))
	wantError(t, "body", err, nil)
}

func cancelledCall(t *testing.T, open func() store.Store) {
	s := open()
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Append(ctx, stream, received, records(1))
	wantError(t, "append", err, context.Canceled)
	want(t, "nothing was stored", mustAppend(t, s, stream, nil), store.Receipt{})
}
