package sqlite

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/remote/store"
)

// steps make the schema, each from what the one before left. How many of them a
// file has had is kept in its user_version; a step that was released never changes.
var steps = []string{`
CREATE TABLE records (
	id        INTEGER PRIMARY KEY AUTOINCREMENT,
	agent     TEXT    NOT NULL,
	spool     TEXT    NOT NULL,
	seq       INTEGER NOT NULL,
	kind      TEXT    NOT NULL,
	time      INTEGER NOT NULL, -- nanoseconds since 1970, agent's clock
	received  INTEGER NOT NULL, -- nanoseconds since 1970, our clock
	processed INTEGER NOT NULL DEFAULT 0,
	body      BLOB    NOT NULL,
	UNIQUE (agent, spool, seq)
);
CREATE INDEX records_pending ON records (id) WHERE processed = 0;
CREATE TABLE documents (
	collection TEXT    NOT NULL,
	key        TEXT    NOT NULL,
	machine    TEXT    NOT NULL,
	time       INTEGER NOT NULL, -- nanoseconds since 1970
	version    INTEGER NOT NULL,
	value      BLOB    NOT NULL,
	PRIMARY KEY (collection, key)
) WITHOUT ROWID;
CREATE INDEX documents_time ON documents (collection, time, key);
CREATE INDEX documents_machine ON documents (collection, machine, time, key);
CREATE TABLE bodies (
	digest BLOB PRIMARY KEY,
	body   BLOB NOT NULL
) WITHOUT ROWID;
`, `
-- What is stored of scans and review items says its state, and nobody could ask for it.
ALTER TABLE documents ADD COLUMN state TEXT NOT NULL DEFAULT '';
UPDATE documents SET state = coalesce(json_extract(CAST(value AS TEXT), '$.state'), '') WHERE collection IN ('scan', 'review');
CREATE INDEX documents_state ON documents (collection, state, time, key) WHERE state <> '';
`}

// migrate brings the schema to that of this program.
func (s *Store) migrate() error {
	var version int
	if err := s.write.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(steps) {
		return fmt.Errorf("schema %d, this program knows %d: %w", version, len(steps), store.ErrVersion)
	}
	for ; version < len(steps); version++ {
		if err := s.step(version); err != nil {
			return fmt.Errorf("schema %d: %w", version+1, err)
		}
	}
	return nil
}

// step takes one step whole, or not at all.
func (s *Store) step(version int) error {
	tx, err := s.write.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Exec(steps[version]); err != nil {
		return err
	}
	if _, err := tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", version+1)); err != nil {
		return err
	}
	return tx.Commit()
}
