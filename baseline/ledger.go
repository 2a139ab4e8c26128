package baseline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/plumbline-sec/plumbline/internal/durable"
)

// Ledger remembers the newest version used of each lineage, so that an older
// one, signed as well as it is, is refused: one small file per lineage.
type Ledger struct{ Dir string }

type ledgerEntry struct {
	Version uint64 `json:"version"`
}

func (l Ledger) path(lineage string) (string, error) {
	if lineage == "" || lineage != filepath.Base(lineage) || lineage[0] == '.' {
		return "", fmt.Errorf("lineage %q: %w", lineage, ErrDamaged)
	}
	return filepath.Join(l.Dir, lineage+".json"), nil
}

// Version is the newest version used of a lineage, 0 for none. A ledger that
// cannot be read is an error: not knowing would let a rollback pass.
func (l Ledger) Version(lineage string) (uint64, error) {
	path, err := l.path(lineage)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read ledger: %w", err)
	}
	var e ledgerEntry
	if err := json.Unmarshal(text, &e); err != nil {
		return 0, fmt.Errorf("read ledger %s: %w", path, err)
	}
	return e.Version, nil
}

// Raise records that a version has been used. It never lowers one.
func (l Ledger) Raise(lineage string, version uint64) error {
	known, err := l.Version(lineage)
	if err != nil || known >= version {
		return err
	}
	path, err := l.path(lineage)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	text, err := json.Marshal(ledgerEntry{version})
	if err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return durable.WriteFile(path, append(text, '\n'), 0o600)
}
