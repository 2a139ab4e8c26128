package verifier

import (
	"context"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// noteUpload remembers the bodies that an agent sends and no scan of its own asked
// for, so that forgetOld finds them: captures of files, pages that come too late,
// and whatever else it likes to send.
func (v *Verifier) noteUpload(ctx context.Context, agent string, bodies map[remote.Digest][]byte) error {
	waiting, err := v.openScans(ctx, remote.ScanWaiting)
	if err != nil {
		return err
	}
	asked := make(map[remote.Digest]bool)
	for _, s := range waiting {
		if s.V.MeasuredBy != agent {
			continue
		}
		for _, d := range s.V.Need {
			asked[d] = true // holdPages has it
		}
	}
	var others []remote.Digest
	for d := range bodies {
		if !asked[d] {
			others = append(others, d)
		}
	}
	if len(others) == 0 {
		return nil
	}
	return v.store.Apply(ctx, nil, create(inUploads, newID(), agent, v.now(), others))
}

// forgetUploads drops such bodies that came before a time, but for those that
// something of ours names: the same bytes may be both.
func (v *Verifier) forgetUploads(ctx context.Context, before time.Time) error {
	uploads, err := list[[]remote.Digest](ctx, v.store, store.Query{Collection: inUploads, Until: before})
	if err != nil || len(uploads) == 0 {
		return err
	}
	named, err := v.namedBodies(ctx)
	if err != nil {
		return err
	}
	for _, upload := range uploads {
		var drop []remote.Digest
		for _, d := range upload.V {
			if !named[d] {
				drop = append(drop, d)
			}
		}
		if err := v.store.DeleteBodies(ctx, drop); err != nil {
			return err
		}
		if err := v.store.Apply(ctx, nil, remove(inUploads, upload.Key)); err != nil {
			return err
		}
	}
	return nil
}

// namedBodies are the bodies of what machines' states rest on, of scans that are
// not over, and the manifests that are waited for.
func (v *Verifier) namedBodies(ctx context.Context) (map[remote.Digest]bool, error) {
	named := make(map[remote.Digest]bool)
	machines, err := v.everyMachine(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		if d, err := remote.ParseDigest(m.V.Files.Baseline); err == nil {
			named[d] = true
		}
		if s, err := load[scanEntry](ctx, v.store, inScans, m.V.Scan.ID); err == nil {
			named[s.V.Body] = true
		} else if !isNotFound(err) {
			return nil, err
		}
		if a, err := load[remote.Appraisal](ctx, v.store, inAppraisals, m.V.Boot.ID); err == nil {
			named[a.V.Evidence] = true
		} else if !isNotFound(err) {
			return nil, err
		}
	}
	waiting, err := v.openScans(ctx, remote.ScanWaiting)
	if err != nil {
		return nil, err
	}
	for _, s := range waiting {
		named[s.V.Body] = true
		for _, d := range s.V.Need {
			named[d] = true
		}
	}
	manifests, err := list[waitingManifest](ctx, v.store, store.Query{Collection: inManifests})
	if err != nil {
		return nil, err
	}
	for _, m := range manifests {
		for _, d := range manifestsOf([]remote.Record{m.V.Record.Record}) {
			named[d] = true
		}
	}
	return named, nil
}
