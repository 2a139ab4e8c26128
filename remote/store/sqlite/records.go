package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// Append implements store.Store.
func (s *Store) Append(ctx context.Context, stream store.Stream, received time.Time, records []remote.Record) (store.Receipt, error) {
	for i := range records {
		if records[i].Seq == 0 || i > 0 && records[i].Seq <= records[i-1].Seq {
			return store.Receipt{}, fmt.Errorf("number %d at position %d: %w", records[i].Seq, i, store.ErrOrder)
		}
	}
	var receipt store.Receipt
	err := s.update(ctx, func(tx *sql.Tx) error {
		receipt = store.Receipt{}
		var last sql.NullInt64
		row := tx.QueryRow("SELECT max(seq) FROM records WHERE agent = ? AND spool = ?", stream.Agent, stream.Spool)
		if err := row.Scan(&last); err != nil {
			return fmt.Errorf("read last number: %w", err)
		}
		receipt.Acked = uint64(last.Int64)
		for _, r := range records {
			if err := appendOne(tx, stream, received, r, &receipt); err != nil {
				return fmt.Errorf("append record %d: %w", r.Seq, err)
			}
		}
		return nil
	})
	if err != nil {
		return store.Receipt{}, err
	}
	return receipt, nil
}

func appendOne(tx *sql.Tx, stream store.Stream, received time.Time, r remote.Record, receipt *store.Receipt) error {
	if r.Seq <= receipt.Acked {
		return compareOld(tx, stream, r, receipt)
	}
	if r.Seq > receipt.Acked+1 {
		receipt.Gaps = append(receipt.Gaps, store.Gap{From: receipt.Acked + 1, To: r.Seq - 1})
	}
	_, err := tx.Exec("INSERT INTO records (agent, spool, seq, kind, time, received, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
		stream.Agent, stream.Spool, int64(r.Seq), string(r.Kind), r.Time.UnixNano(), received.UnixNano(), []byte(r.Body))
	if err != nil {
		return err
	}
	receipt.Acked = r.Seq
	receipt.Added++
	return nil
}

// compareOld looks at a record that came again: a number in a gap stays lost,
// since the stream has gone on without it. A gap before the record is reported
// again with it.
func compareOld(tx *sql.Tx, stream store.Stream, r remote.Record, receipt *store.Receipt) error {
	var kind string
	var body []byte
	row := tx.QueryRow("SELECT kind, body FROM records WHERE agent = ? AND spool = ? AND seq = ?", stream.Agent, stream.Spool, int64(r.Seq))
	switch err := row.Scan(&kind, &body); {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	if len(body) == 0 { // forgotten, with what was before it
		return nil
	}
	if kind != string(r.Kind) || !bytes.Equal(body, r.Body) {
		receipt.Altered = append(receipt.Altered, r.Seq)
	}
	var before sql.NullInt64
	row = tx.QueryRow("SELECT max(seq) FROM records WHERE agent = ? AND spool = ? AND seq < ?", stream.Agent, stream.Spool, int64(r.Seq))
	if err := row.Scan(&before); err != nil {
		return err
	}
	if first := uint64(before.Int64) + 1; first < r.Seq {
		receipt.Gaps = append(receipt.Gaps, store.Gap{From: first, To: r.Seq - 1})
	}
	return nil
}

// Pending implements store.Store.
func (s *Store) Pending(ctx context.Context, limit int, kinds ...remote.Kind) ([]store.Record, error) {
	var args []any
	for _, k := range kinds {
		args = append(args, string(k))
	}
	marks := strings.TrimSuffix(strings.Repeat("?,", len(kinds)), ",")
	rows, err := s.read.QueryContext(ctx, `SELECT id, agent, spool, seq, kind, time, received, body
		FROM records WHERE processed = 0 AND kind IN (`+marks+`) ORDER BY id LIMIT ?`, append(args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list pending records: %w", err)
	}
	defer rows.Close()
	var out []store.Record
	total := 0
	for rows.Next() {
		var r store.Record
		var seq, at, received int64
		var body []byte
		if err := rows.Scan(&r.ID, &r.Stream.Agent, &r.Stream.Spool, &seq, &r.Record.Kind, &at, &received, &body); err != nil {
			return nil, fmt.Errorf("list pending records: %w", err)
		}
		if total += len(body); total > store.PendingBytes && len(out) > 0 {
			break
		}
		r.Record.Seq, r.Record.Body = uint64(seq), body
		r.Record.Time, r.Received = time.Unix(0, at).UTC(), time.Unix(0, received).UTC()
		out = append(out, r)
	}
	return out, rows.Err()
}
