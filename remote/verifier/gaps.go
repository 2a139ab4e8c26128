package verifier

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// A gap is a part of a machine's disks that could not be read at all when its files were
// last compared, such as an encrypted volume. It makes the machine unknown. A person who
// knows that it cannot be otherwise may accept it: then it counts no more, and the state
// says so each time, with who accepted it and why. It is the same gap only as long as
// volume, place and reason are the same, and there are no more of it than then.

// maxGaps and maxGapText, which is in bytes, bound what people are asked about: a damaged
// volume has as many gaps as its owner likes. What is beyond cannot be accepted.
const (
	maxGaps    = 64
	maxGapText = 4096
)

func gapID(tag string, g *filewatch.Gap) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "gap\x00%s\x00%s\x00%s\x00%s", tag, g.Volume, g.What, g.Reason))
	return hex.EncodeToString(sum[:16])
}

// gapsOf are the gaps of a comparison.
func gapsOf(report *baseline.Report) (gaps []filewatch.Gap) {
	for _, c := range report.Changes {
		if c.Gap != nil {
			gaps = append(gaps, *c.Gap)
		}
	}
	return gaps
}

// takeGaps brings a machine's review items in line with the gaps that there are, and says
// how many of these are accepted.
func (v *Verifier) takeGaps(ctx context.Context, m *machine, gaps []filewatch.Gap) (changes []store.Change, accepted int, err error) {
	m.Gaps, m.Files.Accepted = map[string]int{}, nil
	for i := range gaps {
		g := &gaps[i]
		id := gapID(m.tag(), g)
		if len(g.Volume)+len(g.What)+len(g.Reason) <= maxGapText && (m.Gaps[id] > 0 || len(m.Gaps) < maxGaps) {
			m.Gaps[id]++
		}
	}
	open, err := list[reviewEntry](ctx, v.store, store.Query{Collection: inReviews, Machine: m.Name, State: reviewOpen})
	if err != nil {
		return nil, 0, err
	}
	for _, d := range open {
		if d.V.Kind == reviewGap && m.Gaps[d.Key] == 0 {
			d.V.State, d.V.DecidedAt, d.V.Reason = reviewRestored, v.now(), "it is not among what could not be read any more"
			changes = append(changes, d.change())
		}
	}
	seen := map[string]bool{}
	for i := range gaps {
		g := &gaps[i]
		id := gapID(m.tag(), g)
		if m.Gaps[id] == 0 || seen[id] {
			continue
		}
		seen[id] = true
		d, err := loadOrNew[reviewEntry](ctx, v.store, inReviews, id)
		if err != nil {
			return nil, 0, err
		}
		if d.V.State == reviewAccepted {
			accepted += m.acceptGap(&d.V)
			if m.Gaps[id] <= d.V.Times {
				continue
			}
		}
		d.Machine = m.Name
		if d.V.State != reviewOpen {
			d.V = gapReview(m.Name, g, id)
			d.V.First = v.now()
		}
		d.V.Count, d.V.Last, d.Time = m.Gaps[id], v.now(), v.now()
		changes = append(changes, d.change())
	}
	return changes, accepted, nil
}

func gapReview(machine string, g *filewatch.Gap, id string) reviewEntry {
	what := filewatch.PrintablePath(g.What)
	if g.Volume != "" && g.Volume != g.What {
		what += ", volume " + filewatch.PrintablePath(g.Volume)
	}
	return reviewEntry{Review: remote.Review{ID: id, Kind: reviewGap, Machine: machine, Subject: what,
		Summary: "not read: " + what, Detail: filewatch.PrintablePath(g.Reason), State: reviewOpen}}
}

// acceptGap has the state tell of an accepted gap, and gives how many of the gaps it is
// for: all, or none where there are more than when it was accepted.
func (m *machine) acceptGap(r *reviewEntry) int {
	if n := m.Gaps[r.ID]; n == 0 || n > r.Times {
		return 0
	}
	m.Files.Accepted = append(m.Files.Accepted, remote.AcceptedGap{ID: r.ID, What: r.Subject, Reason: r.Detail, By: r.DecidedBy, At: r.DecidedAt, Why: r.Reason})
	return m.Gaps[r.ID]
}

// decideGap carries out a decision on a gap. One that was accepted can be taken back by
// rejecting it.
func (m *machine) decideGap(d *doc[reviewEntry], accept bool) {
	was := slices.IndexFunc(m.Files.Accepted, func(g remote.AcceptedGap) bool { return g.ID == d.V.ID })
	switch {
	case accept:
		d.V.Times = max(m.Gaps[d.V.ID], 1)
		m.Files.Unmeasured = max(0, m.Files.Unmeasured-m.acceptGap(&d.V))
		return
	case was >= 0:
		m.Files.Accepted = slices.Delete(m.Files.Accepted, was, was+1)
		m.Files.Unmeasured += m.Gaps[d.V.ID]
	}
	d.V.State, d.V.Rejected = reviewOpen, true
}

// acceptedWords say that parts of a machine are not measured by somebody's decision.
func acceptedWords(m *machine) (out []string) {
	for _, g := range m.Files.Accepted {
		out = append(out, fmt.Sprintf("not measured, as %s accepted on %s: %s (%s): %s", g.By, clock(g.At), g.What, g.Reason, g.Why))
	}
	return out
}
