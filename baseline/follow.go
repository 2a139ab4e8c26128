package baseline

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Follower is a [Source] that was opened with what an earlier scan of it left
// behind and knows which of its objects differ since.
type Follower interface {
	Source
	// Touched is what of the earlier scan no longer holds.
	Touched() *filewatch.Touched
	// ScanTouched is Scan for what of Touched there is now. want is also told
	// whether the content certainly is what it was at the earlier scan, and both
	// where it is, as [PlacedSource] tells.
	ScanTouched(ctx context.Context, want func(o *filewatch.Object, names []string, same bool, at filewatch.Where) bool, visit PlacedVisitFunc) ([]filewatch.Gap, error)
}

// Update is the state of a tree as it follows from an earlier one: what a
// [Snapshot] of the whole tree would hold.
type Update struct {
	last  *Last
	snap  *Snapshot // of the touched objects
	void  *void
	had   uint64      // void objects that had a record
	base  []objectKey // those of them whose record is in the last state's base
	gone  [][]byte    // void records that equal the baseline's
	known map[filewatch.ID]*Record
}

// CaptureSince reads what differs since last was stored. o must hold the rules
// that last was made with. p, if not nil, is used as by [CaptureResumed]. The caller
// closes the update.
func CaptureSince(ctx context.Context, src Follower, last *Last, p *Progress, o *CaptureOptions) (*Update, error) {
	u := &Update{last: last, void: newVoid(src.Touched()), known: map[filewatch.ID]*Record{}}
	options := *o
	if err := u.recall(&options); err != nil {
		return nil, err
	}
	c := newCapture(&options)
	c.progress = p
	var reused sync.Map
	c.reuse = func(id filewatch.ID) *Record {
		if r, ok := reused.Load(id); ok {
			return r.(*Record)
		}
		return c.takeEarlier(id)
	}
	// What is void and not seen again has lost its old content.
	for id, p := range options.growing {
		void := u.void.has(id.Volume, id.Inode)
		for ; p != nil; p = p.also {
			if void {
				p.was, p.kept = p.kept, false
			}
			p.wasIn = p.in
			p.in = slices.DeleteFunc(slices.Clone(p.in), func(id filewatch.ID) bool { return u.void.has(id.Volume, id.Inode) })
			p.before = len(p.in)
		}
	}
	want := func(obj *filewatch.Object, names []string, same bool, at filewatch.Where) bool {
		rule := o.Rules.MatchNames(names, obj)
		if contentAttributes&rule.Check == 0 {
			return false
		}
		old := u.known[obj.ID()]
		if !same || old == nil || !old.holds(obj, &rule) {
			return !c.hasEarlier(obj, names, &rule, at)
		}
		if u.isNewRotation(&options, obj, names) {
			return true
		}
		reused.Store(obj.ID(), old)
		for p := options.growing[obj.ID()]; p != nil; p = p.also {
			p.kept = p.was
		}
		return false
	}
	snap, err := c.run(ctx, src, func(visit VisitFunc) ([]filewatch.Gap, error) {
		return c.keeping(visit, func(visit PlacedVisitFunc) ([]filewatch.Gap, error) { return src.ScanTouched(ctx, want, visit) })
	})
	if err != nil {
		return nil, err
	}
	if err := u.looked(&options); err != nil {
		snap.Close()
		return nil, err
	}
	u.snap = snap
	return u, nil
}

// looked is an error where an old content is no longer in its file and was not found
// elsewhere, and a file came before that may have it and was not looked into: the scan
// that saw it come saw the old content in its place as well, as between a copy and a
// truncation.
func (u *Update) looked(o *CaptureOptions) error {
	lost := map[*movedLog]bool{}
	for log := range o.moved.each() {
		if slices.ContainsFunc(log.wanted, func(w wantedLog) bool { return w.was && !w.kept && len(w.in) == 0 }) {
			lost[log] = true
		}
	}
	if len(lost) == 0 {
		return nil
	}
	for _, encoded := range u.last.diff.new {
		r, err := decodeEncoded(encoded)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrLast, err)
		}
		log, _ := o.logOf(&r.Object, r.Names)
		if log != nil && (lost[log] || lost[log.elsewhere]) && o.growing[r.ID()] == nil && !u.void.has(r.Volume, r.Inode) {
			return fmt.Errorf("%w: what a log had may be in %s, which came before", ErrLast, filewatch.EscapePath(r.Path()))
		}
	}
	return nil
}

// isNewRotation says that an object, whose content is that of the last capture, must be
// looked into again all the same: the baseline does not have it, its name says that a
// log was rotated there, and no old content was found in it. That one is gone from where
// it was may be seen only now.
func (u *Update) isNewRotation(o *CaptureOptions, obj *filewatch.Object, names []string) bool {
	log, _ := o.logOf(obj, names)
	return log != nil && o.growing[obj.ID()] == nil && !log.held(obj.ID())
}

// holds says that the record has the digests and the text that a rule asks for of
// an object whose content is the record's.
func (r *Record) holds(o *filewatch.Object, rule *filewatch.Rule) bool {
	check := rule.Check
	if rule.Diff && !rule.Sealed && (r.Text.State == TextNone || r.Text.State == TextNoRoom) {
		return false
	}
	return r.Type == filewatch.TypeFile && o.Type == filewatch.TypeFile && r.Size == o.Size && r.Unread == "" &&
		(check&blake3Attributes == 0 || r.BLAKE3 != Digest{}) && (!check.Has(filewatch.AttrSHA256) || r.SHA256 != Digest{})
}

// recall keeps the last state's records that no longer hold, and prepares what
// growing files are compared with.
func (u *Update) recall(o *CaptureOptions) error {
	o.growing, o.moved = u.last.prefixes(), newMovedLogs()
	for i := range u.last.head.Growing {
		o.followLog(&u.last.head.Growing[i])
	}
	records, err := u.last.open()
	if err != nil {
		return err
	}
	differs := u.last.diff.news()
	take := func(encoded []byte) error { return u.take(o, encoded, differs[string(encoded)]) }
	if len(u.void.whole) > 0 {
		return u.last.eachRecord(func(encoded []byte) error {
			volume, inode, err := encodedID(encoded)
			if err != nil || !u.void.hasBytes(volume, inode) {
				return err
			}
			return take(encoded)
		})
	}
	find := records.lookup()
	for _, k := range u.void.sorted(records.volumes) {
		encoded, base, err := find.find(k)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrLast, err)
		}
		if base {
			u.base = append(u.base, k)
		}
		if encoded == nil {
			continue
		}
		if err := take(encoded); err != nil {
			return err
		}
	}
	return nil
}

// take takes a record that no longer holds.
func (u *Update) take(o *CaptureOptions, encoded []byte, differs bool) error {
	u.had++
	r, err := decodeEncoded(encoded)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLast, err)
	}
	if !u.void.whole[r.Volume] {
		u.known[r.ID()] = r
	}
	if differs {
		return nil
	}
	u.gone = append(u.gone, bytes.Clone(encoded))
	if o.grows(r) {
		p := o.follow(r)
		p.kept = !u.void.whole[r.Volume] // it is the baseline's own content
	}
	return nil
}

// grows says that the rules call a file of the baseline one that may only grow, and
// that its content is known.
func (o *CaptureOptions) grows(r *Record) bool {
	return r.Type == filewatch.TypeFile && r.BLAKE3 != (Digest{}) && o.Rules.MatchNames(r.Names, &r.Object).Check.Has(filewatch.AttrGrowing)
}

// Close frees temporary files.
func (u *Update) Close() { u.snap.Close() }

// Touched is how many objects were looked at.
func (u *Update) Touched() uint64 { return u.snap.Objects }

// Reused is what was taken over from interrupted captures.
func (u *Update) Reused() Reused { return u.snap.Reused }

// Bytes is how much content was read.
func (u *Update) Bytes() int64 { return u.snap.Bytes }

// Report compares the update with the baseline that the last state was set
// against.
func (u *Update) Report(b *Header) (*Report, error) {
	l := &Last{}
	if _, err := u.settle(l, func([]byte) error { return nil }); err != nil {
		return nil, err
	}
	report, err := l.Report(b, u.snap.rules)
	if err == nil {
		report.Bytes = u.snap.Bytes
	}
	return report, err
}

// void is the set of objects of which nothing holds.
type void struct {
	whole  map[string]bool
	inodes map[string]map[uint64]bool
}

func newVoid(t *filewatch.Touched) *void {
	v := &void{whole: map[string]bool{}, inodes: map[string]map[uint64]bool{}}
	for _, w := range t.Whole {
		v.whole[w.Volume] = true
	}
	for volume, list := range t.Inodes {
		if len(list) == 0 {
			continue
		}
		set := make(map[uint64]bool, len(list))
		for _, n := range list {
			set[n] = true
		}
		v.inodes[volume] = set
	}
	return v
}

func (v *void) has(volume string, inode uint64) bool {
	return v.whole[volume] || v.inodes[volume][inode]
}

// hasBytes is has without making a string.
func (v *void) hasBytes(volume []byte, inode uint64) bool {
	return v.whole[string(volume)] || v.inodes[string(volume)][inode]
}

// sorted are the objects by the number of their volume, then by inode.
func (v *void) sorted(volumes map[string]uint16) (out []objectKey) {
	for volume, inodes := range v.inodes {
		for inode := range inodes {
			out = append(out, objectKey{volume, inode})
		}
	}
	slices.SortFunc(out, func(a, b objectKey) int {
		return cmp.Or(cmp.Compare(volumes[a.volume], volumes[b.volume]), compareKeys(a, b))
	})
	return out
}

func compareKeys(a, b objectKey) int {
	return cmp.Or(cmp.Compare(a.volume, b.volume), cmp.Compare(a.inode, b.inode))
}

// settle fills in what of the state of now differs from the baseline, and its head
// but for what names it. fn gets the captured records in order; their bytes are
// valid during the call. size is how many bytes they have.
func (u *Update) settle(l *Last, fn func(encoded []byte) error) (size int64, err error) {
	base := map[string]bool{} // records of the baseline that may have a partner
	for _, list := range [][][]byte{u.gone, u.last.diff.old} {
		for _, encoded := range list {
			base[string(encoded)] = true
		}
	}
	was, now := &u.last.head, &l.head
	now.Machine, now.Gaps, now.Objects = u.snap.Machine, u.snap.Gaps, was.Objects-u.had
	for _, id := range was.Again {
		if !u.void.has(id.Volume, id.Inode) {
			now.Again = append(now.Again, id)
		}
	}
	diff := &l.diff
	differ := func(encoded []byte) error {
		diff.new = append(diff.new, encoded)
		return diff.check(len(encoded))
	}
	for _, encoded := range u.last.diff.new {
		volume, inode, err := encodedID(encoded)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrLast, err)
		}
		if u.void.hasBytes(volume, inode) {
			continue
		}
		if err := differ(encoded); err != nil {
			return 0, err
		}
	}
	asked := u.snap.rules.Asked()
	err = u.snap.sorter.each(func(encoded []byte) error {
		now.Objects++
		size += int64(len(encoded))
		if base[string(encoded)] && matches(u.snap.rules, encoded, asked) {
			delete(base, string(encoded))
			return fn(encoded)
		}
		if err := now.again(encoded); err != nil {
			return err
		}
		if err := differ(bytes.Clone(encoded)); err != nil {
			return err
		}
		return fn(encoded)
	})
	for encoded := range base {
		diff.old = append(diff.old, []byte(encoded))
	}
	slices.SortFunc(diff.old, compareEncoded)
	slices.SortStableFunc(diff.new, compareEncoded)
	now.Growing = diff.growing(u.snap.growing)
	return size, err
}

// again notes an object that was not read whole.
func (h *lastHead) again(encoded []byte) error {
	r, err := decodeEncoded(encoded)
	if err == nil && r.Unread != "" {
		h.Again = append(h.Again, r.ID())
	}
	return err
}

// decodeEncoded decodes a record with its length before it.
func decodeEncoded(encoded []byte) (*Record, error) {
	b, err := body(encoded)
	if err != nil {
		return nil, err
	}
	return decodeRecord(b)
}
