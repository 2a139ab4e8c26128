package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/remote"
)

// outbox takes evidence into the spool and delivers it in order. Evidence is on
// disk before anything else happens to it; the verifier's acknowledgement is
// what removes it. An agent that cannot reach its verifier keeps measuring.
type outbox struct {
	spool  *durable.Spool
	bodies *bodyCache
	log    *slog.Logger
	told   uint64 // up to here it was logged which records the spool lost
	unread int    // how often in a row the disk did not give back the next record
	// backoff bounds the wait between attempts; zero means 1 s to 1 min.
	backoff, maxBackoff time.Duration
}

// spooled is the payload of one spool entry: a record without its number, which
// the spool gives.
type spooled struct {
	Kind remote.Kind     `json:"kind"`
	Time time.Time       `json:"time"`
	Body json.RawMessage `json:"body"`
}

// errTooLarge: the verifier would refuse the record, and with it whatever stands
// behind it in the spool.
var errTooLarge = fmt.Errorf("record is larger than the %d bytes that a verifier takes", remote.MaxRecordBytes)

// put stores records of one kind; they are durable when it returns. How large a
// record is, its target may have a hand in: one that is too large for the
// verifier is errTooLarge and none of them is stored. How many file events there
// are is up to the target as well: they leave a quarter of the spool to scans and
// attestations.
func put[T any](o *outbox, kind remote.Kind, bodies ...T) error {
	if kind == remote.KindEvent && !o.takesEvents() {
		return fmt.Errorf("spool %s record: %w", kind, durable.ErrFull)
	}
	payloads := make([][]byte, len(bodies))
	for i, body := range bodies {
		raw, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode %s record: %w", kind, err)
		}
		if len(raw) > remote.MaxRecordBytes {
			return fmt.Errorf("%s: %w", kind, errTooLarge)
		}
		if payloads[i], err = json.Marshal(spooled{Kind: kind, Time: time.Now().UTC(), Body: raw}); err != nil {
			return err
		}
	}
	_, err := o.spool.Append(payloads...)
	if err != nil {
		return fmt.Errorf("spool %s record: %w", kind, err)
	}
	return nil
}

// takesEvents says whether there is room for file events.
func (o *outbox) takesEvents() bool {
	free, limit := o.spool.Room()
	return free >= limit/4
}

// run delivers until ctx ends.
func (o *outbox) run(ctx context.Context, client *remote.AgentClient) {
	shortest, longest := o.backoff, o.maxBackoff
	if shortest == 0 {
		shortest, longest = time.Second, time.Minute
	}
	wait := shortest
	for ctx.Err() == nil {
		grown := o.spool.Grown()
		sent, err := o.deliver(ctx, client)
		switch {
		case err != nil && ctx.Err() == nil && refusedAsRetired(err):
			o.log.Error(retiredMessage, "pending", o.spool.Pending(), "error", err, "next_try", retiredPause)
			sleep(ctx, retiredPause)
		case err != nil && ctx.Err() == nil:
			o.log.Warn("evidence stays in the spool", "pending", o.spool.Pending(), "error", err, "next_try", wait)
			// Jitter keeps a fleet from returning all at once after an outage.
			sleep(ctx, wait/2+rand.N(wait))
			wait = min(2*wait, longest)
		case sent == 0:
			wait = shortest
			select {
			case <-ctx.Done():
			case <-grown:
			}
		default:
			wait = shortest
		}
	}
}

// deliver sends one batch and whatever bodies the verifier asks for in return.
func (o *outbox) deliver(ctx context.Context, client *remote.AgentClient) (int, error) {
	entries, err := o.spool.Read(o.spool.Acked()+1, remote.MaxRecords, remote.MaxRequestBytes/2)
	if err != nil && len(entries) == 0 {
		return 0, o.unreadable(err)
	}
	o.unread = 0
	if len(entries) == 0 {
		return 0, nil
	}
	o.tellLost(entries)
	records := make([]remote.Record, 0, len(entries))
	for _, e := range entries {
		var s spooled
		err := json.Unmarshal(e.Payload, &s)
		if err == nil && len(s.Body) > remote.MaxRecordBytes {
			err = errTooLarge
		}
		if err != nil {
			// The checksum held, so this agent wrote it so: a gap tells more
			// than a spool that stands still for ever.
			o.log.Error("record in the spool cannot be sent", "seq", e.Seq, "error", err)
			continue
		}
		records = append(records, remote.Record{Seq: e.Seq, Kind: s.Kind, Time: s.Time, Body: s.Body})
	}
	if len(records) == 0 { // nothing of it can be sent: the next record shows the gap
		return len(entries), o.spool.Ack(entries[len(entries)-1].Seq)
	}
	reply, err := client.Send(ctx, o.spool.Name(), records)
	if err != nil {
		return 0, err
	}
	if err := o.spool.Ack(reply.Acked); err != nil {
		return 0, err
	}
	if len(reply.Need) > 0 {
		// Bodies are bulk that can be asked for again by command: a failure
		// here must not hold up the records behind.
		if _, err := o.sendBodies(ctx, client, reply.Need); err != nil {
			o.log.Warn("bodies not delivered", "error", err)
		}
	}
	return len(entries), nil
}

// tellLost logs the numbers that are missing before and between entries: what was
// spooled there can no longer be read. The verifier sees the gap and has everything
// measured anew. A batch that is sent again is not told again.
func (o *outbox) tellLost(entries []durable.Entry) {
	next := o.spool.Acked() + 1
	for _, e := range entries {
		if e.Seq > next && e.Seq > o.told {
			o.log.Error("records in the spool are damaged and lost", "from", next, "to", e.Seq-1)
		}
		next = e.Seq + 1
	}
	o.told = max(o.told, next-1)
}

// maxUnread is how often records are tried that the disk does not give back: some
// minutes, with the waits between. Those behind them are worth more by then.
const maxUnread = 8

// unreadable gives up the records at the front of the spool when they could not be
// read again and again. The verifier sees the gap.
func (o *outbox) unreadable(cause error) error {
	if !errors.Is(cause, durable.ErrUnreadable) {
		return cause
	}
	if o.unread++; o.unread < maxUnread {
		return cause
	}
	from := o.spool.Acked() + 1
	next, err := o.spool.Abandon(from)
	if err != nil {
		return errors.Join(cause, err)
	}
	if next == from {
		return cause
	}
	o.log.Error("records in the spool cannot be read and are given up", "from", from, "to", next-1, "error", cause)
	o.unread, o.told = 0, next-1
	return o.spool.Ack(next - 1)
}

// errBodyGone: a body that the verifier asks for is no longer here.
var errBodyGone = errors.New("no longer held by the agent")

// sendBodies uploads the bodies it has and returns how many it no longer has.
func (o *outbox) sendBodies(ctx context.Context, client *remote.AgentClient, need []remote.Digest) (gone int, err error) {
	var bundle [][]byte
	size := 0
	flush := func() error {
		if len(bundle) == 0 {
			return nil
		}
		err := client.PutBodies(ctx, bundle)
		bundle, size = nil, 0
		return err
	}
	for _, digest := range need {
		body, ok := o.bodies.get(digest)
		if !ok {
			gone++
			continue
		}
		if len(body) > remote.MaxBodyBytes/4 {
			if _, err := client.PutBody(ctx, body); err != nil {
				return gone, err
			}
			continue
		}
		if len(bundle) == remote.MaxBundle || size+len(body) > remote.MaxBodyBytes/2 {
			if err := flush(); err != nil {
				return gone, err
			}
		}
		bundle, size = append(bundle, body), size+len(body)
	}
	return gone, flush()
}
