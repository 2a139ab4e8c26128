package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/remote/store"
)

// forgetAtOnce bounds one commit of Forget, for which other writers wait.
const forgetAtOnce = 2000

// Forget implements store.Store. The last of a stream's forgotten records stays as a
// row without a body, which no record that was sent is.
func (s *Store) Forget(ctx context.Context, before time.Time) (int, error) {
	dropped := 0
	err := s.update(ctx, func(tx *sql.Tx) error {
		ids, last, err := oldRecords(tx, before)
		if err != nil {
			return err
		}
		dropped = len(ids)
		for stream, seq := range last {
			_, err := tx.Exec("DELETE FROM records WHERE agent = ? AND spool = ? AND seq < ? AND body = x''", stream.Agent, stream.Spool, seq)
			if err == nil {
				_, err = tx.Exec("UPDATE records SET body = x'' WHERE agent = ? AND spool = ? AND seq = ?", stream.Agent, stream.Spool, seq)
			}
			if err != nil {
				return err
			}
		}
		for _, id := range ids {
			if _, err := tx.Exec("DELETE FROM records WHERE id = ? AND body <> x''", id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("forget records: %w", err)
	}
	return dropped, nil
}

// oldRecords are the first processed records that were received before a time, and
// the last number of each stream among them. They rise with time, so that the search
// ends at the first that is newer.
func oldRecords(tx *sql.Tx, before time.Time) (ids []int64, last map[store.Stream]int64, err error) {
	rows, err := tx.Query(`SELECT id, agent, spool, seq FROM records WHERE processed = 1 AND body <> x''
		AND id < coalesce((SELECT id FROM records WHERE received >= ? ORDER BY id LIMIT 1), 9223372036854775807)
		ORDER BY id LIMIT ?`, before.UnixNano(), forgetAtOnce)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	last = make(map[store.Stream]int64)
	for rows.Next() {
		var id, seq int64
		var stream store.Stream
		if err := rows.Scan(&id, &stream.Agent, &stream.Spool, &seq); err != nil {
			return nil, nil, err
		}
		ids = append(ids, id)
		last[stream] = max(last[stream], seq)
	}
	return ids, last, rows.Err()
}
