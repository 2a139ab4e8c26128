package verifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// maxWait bounds how long a request is held, in seconds.
const maxWait = 60

// maxCommands bounds one answer; the rest follows in the next.
const maxCommands = 100

// handleCommands is GET /v1/agent/commands.
func (v *Verifier) handleCommands(_ http.ResponseWriter, r *http.Request) (any, error) {
	agent, err := v.agentOf(r)
	if err != nil {
		return nil, err
	}
	wait, err := intParameter(r, "wait", 0, maxWait)
	if err != nil {
		return nil, err
	}
	after, err := intParameter(r, "after", 0, math.MaxInt)
	if err != nil {
		return nil, err
	}
	if err := v.forgetCommands(r.Context(), agent.Name, uint64(after)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(wait)*time.Second)
	defer cancel()
	var open []remote.Command
	err = v.hub.until(ctx, concerns(inCommands, agent.Name), func() (bool, error) {
		if open, err = v.openCommands(r.Context(), agent.Name); err != nil || len(open) == 0 {
			return false, err
		}
		_, err = v.agentOf(r) // what is asked of the name may be for another by now
		return true, err
	})
	if err != nil {
		return nil, err
	}
	return remote.Commands{Commands: open}, nil
}

// concerns selects the changes of a machine's documents in a collection.
func concerns(collection, machine string) func(store.Change) bool {
	return func(c store.Change) bool { return c.Collection == collection && c.Machine == machine }
}

// openCommands are an agent's commands, oldest first.
func (v *Verifier) openCommands(ctx context.Context, agent string) ([]remote.Command, error) {
	docs, err := list[remote.Command](ctx, v.store, store.Query{Collection: inCommands, Machine: agent})
	if err != nil {
		return nil, err
	}
	open := make([]remote.Command, 0, min(len(docs), maxCommands))
	for i := len(docs) - 1; i >= 0 && len(open) < maxCommands; i-- {
		if !stale(docs[i], v.now()) {
			open = append(open, docs[i].V)
		}
	}
	return open, nil
}

func (v *Verifier) forgetCommands(ctx context.Context, agent string, upTo uint64) error {
	docs, err := list[remote.Command](ctx, v.store, store.Query{Collection: inCommands, Machine: agent})
	if err != nil {
		return err
	}
	var changes []store.Change
	for _, d := range docs {
		if d.V.ID <= upTo {
			changes = append(changes, remove(inCommands, d.Key))
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return v.store.Apply(ctx, nil, changes...)
}

// command makes the changes that give an agent something to do.
func (v *Verifier) command(ctx context.Context, agent string, c remote.Command) ([]store.Change, error) {
	counter, err := loadOrNew[uint64](ctx, v.store, inCounters, "commands")
	if err != nil {
		return nil, err
	}
	counter.V++
	counter.Time = v.now()
	c.ID = counter.V
	return []store.Change{counter.change(), create(inCommands, commandKey(agent, c.ID), agent, v.now(), c)}, nil
}

func commandKey(agent string, id uint64) string { return fmt.Sprintf("%s/%020d", agent, id) }

// commandID is the number of the command among the changes that make it.
func commandID(changes []store.Change) uint64 {
	var c remote.Command
	for _, change := range changes {
		if change.Collection == inCommands && json.Unmarshal(change.Value, &c) == nil {
			return c.ID
		}
	}
	return 0
}

// handleRecords is POST /v1/agent/records. Its answer follows the durable
// commit.
func (v *Verifier) handleRecords(w http.ResponseWriter, r *http.Request) (any, error) {
	agent, end, err := v.beginBulk(r)
	if err != nil {
		return nil, err
	}
	defer end()
	var req remote.RecordsRequest
	if err := readJSON(w, r, remote.MaxRequestBytes, &req); err != nil {
		return nil, err
	}
	if err := checkRecords(&req); err != nil {
		return nil, err
	}
	stream := store.Stream{Agent: agent.Name, Spool: req.Spool}
	receipt, err := v.takeIn(r, stream, req.Records)
	if errors.Is(err, store.ErrOrder) {
		return nil, apiError(http.StatusConflict, remote.CodeSequence, err.Error(), "")
	}
	if err != nil {
		return nil, err
	}
	v.metrics.records.Add(float64(receipt.Added))
	for _, g := range receipt.Gaps {
		v.metrics.lost.Add(float64(g.To - g.From + 1))
	}
	// What is stored is not told anew: who hangs up now must not keep a loss from
	// being told. A verifier that dies here tells it when the records come again.
	if err := v.noteReceipt(context.WithoutCancel(r.Context()), agent, stream, receipt); err != nil && !errors.Is(err, errRetired) {
		return nil, err
	}
	v.fast.poke()
	v.slow.poke()
	need, err := v.needed(r.Context(), req.Records)
	if err != nil {
		return nil, err
	}
	return remote.RecordsReply{Acked: receipt.Acked, Need: need}, nil
}

// takeIn stores records of the agent that r shows a certificate of. It asks for that again,
// since what was sent may have taken minutes to arrive.
func (v *Verifier) takeIn(r *http.Request, stream store.Stream, records []remote.Record) (store.Receipt, error) {
	v.turnover.RLock()
	defer v.turnover.RUnlock()
	if _, err := v.agentOf(r); err != nil {
		return store.Receipt{}, err
	}
	return v.store.Append(r.Context(), stream, v.now(), records)
}

func checkRecords(req *remote.RecordsRequest) error {
	if err := remote.CheckName(req.Spool); err != nil {
		return badRequest(fmt.Errorf("spool: %w", err))
	}
	if len(req.Records) > remote.MaxRecords {
		return apiError(http.StatusRequestEntityTooLarge, remote.CodeTooLarge,
			fmt.Sprintf("%d records, at most %d", len(req.Records), remote.MaxRecords), "")
	}
	for i := range req.Records {
		rec := &req.Records[i]
		switch {
		case rec.Seq > math.MaxInt64:
			return badRequest(fmt.Errorf("record %d: number out of range", rec.Seq))
		case len(rec.Body) > remote.MaxRecordBytes:
			return apiError(http.StatusRequestEntityTooLarge, remote.CodeTooLarge, fmt.Sprintf("record %d is too large", rec.Seq), "")
		case rec.Time.Year() < 1970 || rec.Time.Year() > 2200:
			return badRequest(fmt.Errorf("record %d: time %s is out of range", rec.Seq, rec.Time))
		case !knownKind(rec.Kind):
			return badRequest(fmt.Errorf("record %d: unknown kind %q", rec.Seq, rec.Kind))
		}
	}
	return nil
}

func knownKind(k remote.Kind) bool {
	switch k {
	case remote.KindAttestation, remote.KindScan, remote.KindEvent, remote.KindStatus, remote.KindBaseline:
		return true
	}
	return false
}

// noteReceipt keeps what a receipt says beyond the acknowledgement: a new
// spool, numbers that never came, and numbers that came twice with other
// content.
func (v *Verifier) noteReceipt(ctx context.Context, agent *machine, stream store.Stream, receipt store.Receipt) error {
	if agent.Spool == stream.Spool && len(receipt.Gaps) == 0 && len(receipt.Altered) == 0 {
		return nil
	}
	err := v.changeMachine(ctx, agent.Name, nil, func(m *machine) ([]store.Change, error) {
		var changes []store.Change
		note := func(s remote.Severity, format string, args ...any) {
			changes = append(changes, v.moment(remote.Moment{Machine: m.Name, Kind: "loss", Severity: s, Text: fmt.Sprintf(format, args...)})...)
		}
		if m.tag() != agent.tag() {
			return nil, errRetired // meanwhile, and another has the name
		}
		if m.Spool != stream.Spool {
			if m.Spool != "" {
				note(remote.SeverityWarning, "the agent on %s began a new spool: records that waited in the old one are lost", m.Name)
			}
			m.Spool = stream.Spool
		}
		for _, g := range receipt.Gaps {
			note(remote.SeverityAlert, "records %d to %d of the agent on %s never arrived", g.From, g.To, m.Name)
		}
		for _, n := range receipt.Altered {
			note(remote.SeverityAlert, "the agent on %s sent record %d again with another content; the first was kept", m.Name, n)
		}
		if len(receipt.Gaps) == 0 {
			return changes, nil
		}
		return changes, nil
	})
	if err != nil || len(receipt.Gaps) == 0 {
		return err
	}
	return v.loseRecords(ctx, agent.Name)
}

// loseRecords asks for a rescan of every machine whose files an agent watches: the records
// that never came may have been events of any of them.
func (v *Verifier) loseRecords(ctx context.Context, agent string) error {
	docs, err := list[machine](ctx, v.store, store.Query{Collection: inMachines})
	if err != nil {
		return err
	}
	for _, d := range docs {
		if v.refresh(&d.V); d.V.MeasuredBy != agent || d.V.Files.Baseline == "" {
			continue
		}
		err := v.changeMachine(ctx, d.V.Name, nil, func(m *machine) ([]store.Change, error) {
			if m.MeasuredBy != agent || m.Files.Baseline == "" {
				return nil, errNothing
			}
			return v.lose(ctx, m, "records were lost")
		})
		if err != nil && !errors.Is(err, errRetired) {
			return err
		}
	}
	return nil
}

// needed are the bodies that records name and the store does not have.
func (v *Verifier) needed(ctx context.Context, records []remote.Record) ([]remote.Digest, error) {
	return v.store.Missing(ctx, manifestsOf(records))
}

// manifestsOf are the bodies that records name.
func manifestsOf(records []remote.Record) (named []remote.Digest) {
	for _, rec := range records {
		if rec.Kind != remote.KindBaseline {
			continue
		}
		var b remote.Baseline
		if json.Unmarshal(rec.Body, &b) == nil && b.Manifest != (remote.Digest{}) {
			named = append(named, b.Manifest)
		}
	}
	return named
}

// handleBody is PUT /v1/agent/bodies/{digest}.
func (v *Verifier) handleBody(w http.ResponseWriter, r *http.Request) (any, error) {
	agent, end, err := v.beginBulk(r)
	if err != nil {
		return nil, err
	}
	defer end()
	digest, err := remote.ParseDigest(r.PathValue("digest"))
	if err != nil {
		return nil, badRequest(err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, remote.MaxBodyBytes))
	if err != nil {
		return nil, bodyError(err)
	}
	if got := remote.DigestOf(body); got != digest {
		return nil, badRequest(errors.New("the body's BLAKE3 is " + got.String() + ", not the one in the path"))
	}
	return nil, v.storeBodies(r.Context(), agent.Name, map[remote.Digest][]byte{digest: body})
}

// handleBundle is POST /v1/agent/bodies.
func (v *Verifier) handleBundle(w http.ResponseWriter, r *http.Request) (any, error) {
	agent, end, err := v.beginBulk(r)
	if err != nil {
		return nil, err
	}
	defer end()
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, remote.MaxBodyBytes+4*remote.MaxBundle))
	if err != nil {
		return nil, bodyError(err)
	}
	list, err := remote.DecodeBundle(data)
	if err != nil {
		return nil, badRequest(err)
	}
	bodies := make(map[remote.Digest][]byte, len(list))
	for _, body := range list {
		bodies[remote.DigestOf(body)] = body
	}
	return nil, v.storeBodies(r.Context(), agent.Name, bodies)
}

func (v *Verifier) storeBodies(ctx context.Context, agent string, bodies map[remote.Digest][]byte) error {
	if err := v.noteUpload(ctx, agent, bodies); err != nil {
		return err
	}
	if err := v.store.PutBodies(ctx, bodies); err != nil {
		return err
	}
	v.metrics.bodies.Add(float64(len(bodies)))
	v.fast.poke()
	v.slow.poke()
	return nil
}

// clientAddress is what attempts are counted by.
func clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func tooMany() *remote.Error {
	return apiError(http.StatusTooManyRequests, remote.CodeRateLimited, "too many attempts, wait a while", "")
}
