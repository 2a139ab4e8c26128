package baseline

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// Edition is what makes one version of a baseline out of a snapshot.
type Edition struct {
	Tool    string
	Created time.Time
	Lineage string
	Version uint64 // at least 1
	// Machine replaces the snapshot's where its Name is set.
	Name string
}

// LineageOf names the series of versions kept at one place for one machine.
func LineageOf(m filewatch.Machine, place string) string {
	h := blake3.New()
	fmt.Fprintf(h, "plumbline lineage\x00%s\x00%q\x00%s", m.Name, m.Volumes, place)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Write signs the snapshot and writes it as a baseline.
func (s *Snapshot) Write(out io.Writer, e *Edition, key sign.Signer) (*Header, error) {
	header := &Header{Tool: e.Tool, Created: e.Created.UTC(), Lineage: e.Lineage, Version: e.Version,
		Machine: s.Machine, Gaps: s.Gaps, Rules: string(s.rules.Text()), RulesDigest: rulesDigest(s.rules)}
	if e.Name != "" {
		header.Machine.Name = e.Name
	}
	w, err := newWriter(out, header)
	if err != nil {
		return nil, err
	}
	if err := s.sorter.each(w.add); err != nil {
		return nil, err
	}
	header.Unread = s.Unread
	return header, w.finish(key)
}

func rulesDigest(r *filewatch.Rules) string {
	sum := blake3.Sum256(r.Text())
	return hex.EncodeToString(sum[:])
}

// SaveFile replaces the file at path with what write produces, whole or not at
// all: the bytes are on the disk under a temporary name before they get theirs.
func SaveFile(path string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	buffered := bufio.NewWriterSize(f, 256<<10)
	if err = write(buffered); err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(dir)
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
