package verifier

import (
	"context"
	"fmt"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// filesOf is what a machine's files are judged by: its rules, and its baseline
// if it has one.
type filesOf struct {
	rules *filewatch.Rules
	base  *openedBaseline
}

// filesOf reads the rules and the baseline of a machine. The rules are those
// configured here, else those that the baseline was made with.
func (v *Verifier) filesOf(ctx context.Context, m *machine) (*filesOf, error) {
	f := &filesOf{rules: v.rulesOf(m.Name)}
	if m.Files.Baseline == "" {
		return f, nil
	}
	var err error
	if f.base, err = v.openBaseline(ctx, m.Name, m.Files.Baseline); err != nil {
		return nil, err
	}
	if f.rules == nil {
		f.rules, err = f.base.file.Header.ParseRules()
	}
	return f, err
}

// openBaseline reads a baseline of ours and indexes it.
func (v *Verifier) openBaseline(ctx context.Context, machine, digest string) (*openedBaseline, error) {
	v.signer.mu.Lock()
	defer v.signer.mu.Unlock()
	if b := v.signer.opened[machine]; b != nil && b.digest == digest {
		return b, nil
	}
	d, err := remote.ParseDigest(digest)
	if err != nil {
		return nil, err
	}
	data, err := v.store.Body(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("baseline of %s: %w", machine, err)
	}
	file, err := baseline.OpenBytes(data, &baseline.OpenOptions{Trusted: []sign.PublicKey{v.signer.key.Public()}})
	if err != nil {
		return nil, fmt.Errorf("baseline of %s: %w", machine, err)
	}
	index, err := file.Index()
	if err != nil {
		return nil, fmt.Errorf("baseline of %s: %w", machine, err)
	}
	b := &openedBaseline{digest: digest, file: file, index: index}
	v.signer.opened[machine] = b
	return b, nil
}

// ruleOf is the strictest of the rules for every name of an event's object: where
// it was, where it is now, and those it had when the baseline was taken. A name in
// a place that is ignored hides nothing from the place where it is protected. o
// is nil when nothing is known of the object; others are names that it is known to have.
func (f *filesOf) ruleOf(event *filewatch.Event, o *filewatch.Object, others ...string) (filewatch.Rule, error) {
	names := append([]string{event.Path}, others...)
	if event.NewPath != "" {
		names = append(names, event.NewPath)
	}
	if f.base != nil && o != nil && o.Inode != 0 {
		r, err := f.base.index.ID(o.ID())
		if err != nil {
			return filewatch.Rule{}, err
		}
		if r != nil {
			names = append(names, r.Names...)
		}
	}
	rule := f.rules.MatchNames(names, o)
	if f.base == nil || !diskPath(event) {
		return rule, nil
	}
	// Whatever has a name of the baseline is held to what the baseline has there: the event
	// by which that went may say no more than that this one tells.
	for _, name := range []string{event.Path, event.NewPath} {
		if name == "" {
			continue
		}
		r, err := f.at(name, nil)
		if err != nil {
			return filewatch.Rule{}, err
		}
		if r != nil {
			if held := f.rules.MatchNames(r.Names, &r.Object); held.Level > rule.Level {
				rule = held
			}
		}
	}
	return rule, nil
}

// wanted is the record that an object is held to: the one at its path; else,
// when it was moved, the one of the same identity; else the one at the path
// that the event moved it away from.
func (f *filesOf) wanted(path string, event *filewatch.Event, found *baseline.Record) (*baseline.Record, error) {
	r, err := f.at(path, found)
	if r != nil || err != nil {
		return r, err
	}
	if found != nil && found.Inode != 0 {
		if r, err = f.base.index.ID(found.ID()); r != nil || err != nil {
			return r, err
		}
	}
	if event != nil && event.NewPath != "" && event.Path != path {
		return f.at(event.Path, found)
	}
	return nil, nil
}

// at is the record at a path, on the volume of the object found there if one
// was found.
func (f *filesOf) at(path string, found *baseline.Record) (*baseline.Record, error) {
	records, err := f.base.index.Path(path)
	for _, r := range records {
		if found == nil || found.Volume == "" || found.Volume == r.Volume {
			return r, err
		}
	}
	return nil, err
}
