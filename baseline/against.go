package baseline

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Against sets the state against b, the next version of the baseline that it was
// compared with, and stores it so: the next scan builds on it. It fails, and leaves
// the state as it is, where more than the state knows would have to be known: a
// file that may only grow has another record in b than before, and the state does
// not have that one.
func (l *Last) Against(b *Baseline, rules *filewatch.Rules) error {
	if l.head.Rules != rulesDigest(rules) {
		return fmt.Errorf("%w: it was made with other rules", ErrLast)
	}
	now := &Last{head: l.head, dir: l.dir, records: l.records}
	now.head.Baseline, now.head.Again = b.Header.Body.BLAKE3, nil
	err := now.split(b, rules, l.eachRecord, func([]byte) error { return nil })
	if err != nil {
		return err
	}
	if now.head.Growing, err = l.stillGrowing(&now.diff, rules); err != nil {
		return err
	}
	if now.head.Diff, err = now.put("differing", now.diff.append(nil)); err != nil {
		return storeError(err)
	}
	if err := now.putHead(); err != nil {
		return err
	}
	*l = *now
	return l.tidy()
}

// stillGrowing is what is known of the growing files that differ from another
// baseline, or that rules keep from being called equal unseen.
func (l *Last) stillGrowing(diff *differing, rules *filewatch.Rules) (out []Log, err error) {
	was := l.diff.olds()
	known := l.prefixes()
	here := diff.news()
	o := &CaptureOptions{Rules: rules}
	for _, encoded := range diff.old {
		r, err := decodeEncoded(encoded)
		if err != nil {
			return nil, err
		}
		g := Log{ID: r.ID(), Size: r.Size, Want: r.BLAKE3, Path: []byte(r.Path())}
		switch p := known.of(r); {
		case was[string(encoded)] && p != nil:
			g.Kept, g.In, g.Unsought = p.kept, p.in, p.unsought
		case was[string(encoded)], !o.grows(r):
			continue
		case here[string(encoded)]: // it is the baseline's own content
			g.Kept = true
		default:
			return nil, fmt.Errorf("%w: %s has grown since", ErrLast, filewatch.EscapePath(r.Path()))
		}
		out = append(out, g)
	}
	return out, nil
}
