// Package sqlite keeps the verifier's store in one SQLite file.
//
// Durability: write-ahead log with synchronous=FULL, so a commit has reached
// the disk before the call that asked for it returns (sqlite.org/pragma.html,
// synchronous). One goroutine writes; calls that arrive while it commits share
// the next commit, each in a savepoint of its own so that one call's error
// undoes only that call. Readers use connections of their own and never wait
// for the writer.
//
// The file belongs to one process at a time.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"

	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"github.com/plumbline-sec/plumbline/remote/store"
)

// maxBatch bounds the calls that share one commit.
const maxBatch = 500

// Store is a store.Store in one file.
type Store struct {
	write *sql.DB
	read  *sql.DB
	jobs  chan *job
	stop  chan struct{}
	done  chan struct{}
}

var _ store.Store = (*Store)(nil)

// Open opens the database file at path and creates it, readable by its owner
// only, if it is not there.
func Open(path string) (*Store, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	f.Close()
	s := &Store{jobs: make(chan *job), stop: make(chan struct{}), done: make(chan struct{})}
	if s.write, err = sql.Open("sqlite", dsn(path, "immediate")); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	s.write.SetMaxOpenConns(1)
	if s.read, err = sql.Open("sqlite", dsn(path, "deferred")+"&_pragma=query_only(1)"); err != nil {
		return nil, errors.Join(fmt.Errorf("open database: %w", err), s.write.Close())
	}
	s.read.SetMaxOpenConns(4)
	if err := s.migrate(); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), s.write.Close(), s.read.Close())
	}
	go s.writer()
	return s, nil
}

func dsn(path, lock string) string {
	v := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)"}, "_txlock": {lock}}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + v.Encode()
}

// Close waits for the commit in progress. Calls that come later fail.
func (s *Store) Close() error {
	close(s.stop)
	<-s.done
	return errors.Join(s.read.Close(), s.write.Close())
}

// job is one call that writes.
type job struct {
	ctx    context.Context
	change func(*sql.Tx) error
	result chan error
}

var errClosed = errors.New("store is closed")

// update runs change in the writer and returns once it is durable.
func (s *Store) update(ctx context.Context, change func(*sql.Tx) error) error {
	j := &job{ctx: ctx, change: change, result: make(chan error, 1)}
	select {
	case s.jobs <- j:
		return <-j.result
	case <-s.stop:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writer owns all writing until Close.
func (s *Store) writer() {
	defer close(s.done)
	for {
		select {
		case first := <-s.jobs:
			s.commit(s.gather(first))
		case <-s.stop:
			return
		}
	}
}

// gather takes what else waits already.
func (s *Store) gather(first *job) []*job {
	batch := []*job{first}
	for len(batch) < maxBatch {
		select {
		case j := <-s.jobs:
			batch = append(batch, j)
		default:
			return batch
		}
	}
	return batch
}

// commit runs a batch in one transaction and answers each job only after it.
func (s *Store) commit(batch []*job) {
	results := make([]error, len(batch))
	err := func() error {
		tx, err := s.write.Begin()
		if err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		defer tx.Rollback()
		for i, j := range batch {
			if results[i] = j.ctx.Err(); results[i] != nil {
				continue
			}
			if results[i], err = savepoint(tx, j.change); err != nil {
				return err
			}
		}
		if err := tx.Commit(); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		return nil
	}()
	for i, j := range batch {
		if err != nil {
			j.result <- err
			continue
		}
		j.result <- results[i]
	}
}

// savepoint runs change and undoes it alone when it fails. The second error
// is of the transaction itself.
func savepoint(tx *sql.Tx, change func(*sql.Tx) error) (failed, broken error) {
	if _, err := tx.Exec("SAVEPOINT job"); err != nil {
		return nil, fmt.Errorf("savepoint: %w", err)
	}
	if failed = change(tx); failed != nil {
		if _, err := tx.Exec("ROLLBACK TO job"); err != nil {
			return failed, fmt.Errorf("roll back: %w", err)
		}
	}
	if _, err := tx.Exec("RELEASE job"); err != nil {
		return failed, fmt.Errorf("release: %w", err)
	}
	return failed, nil
}
