package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// PutBodies implements store.Store.
func (s *Store) PutBodies(ctx context.Context, bodies map[remote.Digest][]byte) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		for digest, body := range bodies {
			if body == nil {
				body = []byte{} // a nil slice would be NULL
			}
			if _, err := tx.Exec("INSERT INTO bodies (digest, body) VALUES (?, ?) ON CONFLICT DO NOTHING", digest[:], body); err != nil {
				return fmt.Errorf("store body %s: %w", digest, err)
			}
		}
		return nil
	})
}

// Body implements store.Store.
func (s *Store) Body(ctx context.Context, digest remote.Digest) ([]byte, error) {
	var body []byte
	err := s.read.QueryRowContext(ctx, "SELECT body FROM bodies WHERE digest = ?", digest[:]).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("body %s: %w", digest, err)
	}
	return body, nil
}

// Missing implements store.Store.
func (s *Store) Missing(ctx context.Context, digests []remote.Digest) ([]remote.Digest, error) {
	stmt, err := s.read.PrepareContext(ctx, "SELECT 1 FROM bodies WHERE digest = ?")
	if err != nil {
		return nil, fmt.Errorf("look for bodies: %w", err)
	}
	defer stmt.Close()
	var missing []remote.Digest
	for _, d := range digests {
		var one int
		switch err := stmt.QueryRowContext(ctx, d[:]).Scan(&one); {
		case errors.Is(err, sql.ErrNoRows):
			missing = append(missing, d)
		case err != nil:
			return nil, fmt.Errorf("look for body %s: %w", d, err)
		}
	}
	return missing, nil
}

// DeleteBodies implements store.Store.
func (s *Store) DeleteBodies(ctx context.Context, digests []remote.Digest) error {
	return s.update(ctx, func(tx *sql.Tx) error {
		for _, d := range digests {
			if _, err := tx.Exec("DELETE FROM bodies WHERE digest = ?", d[:]); err != nil {
				return fmt.Errorf("delete body %s: %w", d, err)
			}
		}
		return nil
	})
}
