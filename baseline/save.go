package baseline

import (
	"encoding/hex"
	"fmt"
	"io"
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
		Machine: s.Machine, Gaps: s.Gaps, Logs: s.growing.asked(), Rules: string(s.rules.Text()), RulesDigest: rulesDigest(s.rules)}
	if e.Name != "" {
		header.Machine.Name = e.Name
	}
	w, err := newWriter(out, header)
	if err != nil {
		return nil, err
	}
	add := w.add
	if s.rules.KeepsText() {
		add = limitText(add)
	}
	if err := s.sorter.each(add); err != nil {
		return nil, err
	}
	header.Unread = s.Unread
	return header, w.finish(key)
}

func rulesDigest(r *filewatch.Rules) string {
	sum := blake3.Sum256(r.Text())
	return hex.EncodeToString(sum[:])
}

// Reissue writes the records of b as another edition signed with another key:
// how a verifier takes over what an agent captured. The decisions kept in b stay, what
// it says of another baseline's logs does not.
func Reissue(b *Baseline, e *Edition, out io.Writer, key sign.Signer) (*Header, error) {
	header := b.Header
	header.Tool, header.Created, header.Lineage, header.Version = e.Tool, e.Created.UTC(), e.Lineage, e.Version
	header.Logs = nil // of the baseline before
	if e.Name != "" {
		header.Machine.Name = e.Name
	}
	w, err := newWriter(out, &header)
	if err != nil {
		return nil, err
	}
	var encoded, scratch []byte
	add := limitText(w.add)
	for r, err := range b.Records() {
		if err != nil {
			return nil, err
		}
		encoded = appendRecord(encoded[:0], r, &scratch)
		if err := add(encoded); err != nil {
			return nil, err
		}
	}
	header.Unread = b.Header.Unread
	return &header, w.finish(key)
}
