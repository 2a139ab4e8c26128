package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/remote/store"
)

// Apply implements store.Store.
func (s *Store) Apply(ctx context.Context, processed []int64, changes ...store.Change) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		for i := range changes {
			if err := apply(tx, &changes[i]); err != nil {
				return fmt.Errorf("%s %q: %w", changes[i].Collection, changes[i].Key, err)
			}
		}
		for _, id := range processed {
			if _, err := tx.Exec("UPDATE records SET processed = 1 WHERE id = ?", id); err != nil {
				return fmt.Errorf("mark record %d: %w", id, err)
			}
		}
		return nil
	})
}

func apply(tx *sql.Tx, c *store.Change) error {
	var result sql.Result
	var err error
	at := c.Time.UnixNano()
	switch {
	case c.From != "":
		_, err = tx.Exec("UPDATE documents SET machine = ? WHERE collection = ? AND machine = ?", c.Machine, c.Collection, c.From)
		return err
	case c.Delete && c.Version == store.Any:
		_, err = tx.Exec("DELETE FROM documents WHERE collection = ? AND key = ?", c.Collection, c.Key)
		return err
	case c.Delete:
		result, err = tx.Exec("DELETE FROM documents WHERE collection = ? AND key = ? AND version = ?", c.Collection, c.Key, c.Version)
	case c.Version == store.Any:
		_, err = tx.Exec(`INSERT INTO documents (collection, key, machine, state, time, version, value) VALUES (?, ?, ?, ?, ?, 1, ?)
			ON CONFLICT DO UPDATE SET machine = excluded.machine, state = excluded.state, time = excluded.time,
			value = excluded.value, version = version + 1`,
			c.Collection, c.Key, c.Machine, c.State, at, c.Value)
		return err
	case c.Version == 0:
		result, err = tx.Exec(`INSERT INTO documents (collection, key, machine, state, time, version, value) VALUES (?, ?, ?, ?, ?, 1, ?)
			ON CONFLICT DO NOTHING`, c.Collection, c.Key, c.Machine, c.State, at, c.Value)
	default:
		result, err = tx.Exec(`UPDATE documents SET machine = ?, state = ?, time = ?, value = ?, version = version + 1
			WHERE collection = ? AND key = ? AND version = ?`, c.Machine, c.State, at, c.Value, c.Collection, c.Key, c.Version)
	}
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return errors.Join(store.ErrConflict, err)
	}
	return nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, collection, key string) (store.Document, error) {
	row := s.read.QueryRowContext(ctx, "SELECT "+columns+" FROM documents WHERE collection = ? AND key = ?", collection, key)
	d, err := scan(row)
	if errors.Is(err, sql.ErrNoRows) {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Document{}, fmt.Errorf("%s %q: %w", collection, key, err)
	}
	return d, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, q store.Query) ([]store.Document, error) {
	selected := columns
	if q.Bare {
		selected = columnsBare
	}
	query, args := "SELECT "+selected+" FROM documents WHERE collection = ?", []any{q.Collection}
	if q.Machine != "" {
		query, args = query+" AND machine = ?", append(args, q.Machine)
	}
	if !q.Until.IsZero() {
		query, args = query+" AND time < ?", append(args, q.Until.UnixNano())
	}
	if q.State != "" {
		// Said twice: the index of states has no empty ones, and is used only if
		// the query says that it wants none.
		query, args = query+" AND state = ? AND state <> ''", append(args, q.State)
	}
	if q.Before != "" {
		query += " AND (time, key) < (SELECT time, key FROM documents WHERE collection = ? AND key = ?)"
		args = append(args, q.Collection, q.Before)
	}
	query += " ORDER BY time DESC, key DESC"
	if q.Limit > 0 {
		query, args = query+" LIMIT ?", append(args, q.Limit)
	}
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", q.Collection, err)
	}
	defer rows.Close()
	var out []store.Document
	for rows.Next() {
		d, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", q.Collection, err)
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

const (
	columns     = "collection, key, machine, state, time, version, value"
	columnsBare = "collection, key, machine, state, time, version, NULL"
)

func scan(row interface{ Scan(...any) error }) (store.Document, error) {
	var d store.Document
	var at int64
	err := row.Scan(&d.Collection, &d.Key, &d.Machine, &d.State, &at, &d.Version, &d.Value)
	d.Time = time.Unix(0, at).UTC()
	return d, err
}
