package baseline

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// Keep is what a source wants to have kept.
type Keep struct {
	// Source is small and goes into the head, Memory is its bulk; Files are those
	// in the state's directory that Memory needs, which the source wrote.
	Source any
	Memory []byte
	Files  []string
	Taken  time.Time
}

// Remember stores a snapshot of a whole tree in dir, set against b; b nil means
// the baseline with the given digest that was written of this very snapshot.
func (s *Snapshot) Remember(dir string, b *Baseline, digest string, k *Keep) (*Last, error) {
	w, err := newLastBaseWriter(dir)
	if err != nil {
		return nil, storeError(err)
	}
	l := &Last{dir: dir}
	l.head.Rules, l.head.Baseline = rulesDigest(s.rules), digest
	if b != nil {
		l.head.Baseline = b.Header.Body.BLAKE3
	}
	err = s.split(b, l, func(encoded []byte) error {
		l.head.Objects++
		return w.add(encoded)
	})
	if err != nil {
		w.abandon()
		return nil, err
	}
	if l.head.Base, err = w.finish(); err != nil {
		return nil, storeError(err)
	}
	l.head.Machine, l.head.Gaps, l.head.Full = s.Machine, s.Gaps, k.Taken
	l.head.Growing = l.diff.growing(s.growing)
	return l, l.store(newLastDelta().append(nil), k)
}

func storeError(err error) error { return fmt.Errorf("store the scan: %w", err) }

// split sets the snapshot against a baseline, record by record as encoded.
func (s *Snapshot) split(b *Baseline, l *Last, fn func(encoded []byte) error) error {
	if b != nil {
		return l.split(b, s.rules, s.sorter.each, fn)
	}
	asked := s.rules.Asked()
	var budget textBudget // the baseline was written within it
	return s.sorter.each(func(encoded []byte) error {
		written, err := budget.apply(encoded)
		if err != nil {
			return err
		}
		if equal := bytes.Equal(written, encoded) && matches(s.rules, encoded, asked); !equal {
			l.diff.old = append(l.diff.old, bytes.Clone(written))
			l.diff.new = append(l.diff.new, bytes.Clone(encoded))
			err = errors.Join(l.head.again(encoded), l.diff.check(len(encoded)+len(written)))
		}
		return errors.Join(err, fn(encoded))
	})
}

// split fills in what of the records that each gives differs from a baseline's.
func (l *Last) split(b *Baseline, rules *filewatch.Rules, each func(func(encoded []byte) error) error, fn func(encoded []byte) error) error {
	diff, asked := &l.diff, rules.Asked()
	base := b.blocks()
	defer base.close()
	var old []byte // with its length
	next := func() error {
		body, err := base.next()
		if old = old[:0]; body != nil {
			old = append(binary.AppendUvarint(old, uint64(len(body))), body...)
		}
		return err
	}
	missing := func() error {
		diff.old = append(diff.old, bytes.Clone(old))
		return errors.Join(diff.check(len(old)), next())
	}
	if err := next(); err != nil {
		return err
	}
	err := each(func(encoded []byte) error {
		for len(old) > 0 && compareEncoded(old, encoded) < 0 {
			if err := missing(); err != nil {
				return err
			}
		}
		equal := bytes.Equal(old, encoded) && matches(rules, encoded, asked)
		if equal {
			return errors.Join(next(), fn(encoded))
		}
		diff.new = append(diff.new, bytes.Clone(encoded))
		return errors.Join(l.head.again(encoded), diff.check(len(encoded)), fn(encoded))
	})
	for err == nil && len(old) > 0 {
		err = missing()
	}
	return err
}

// growing keeps what is known of the growing files whose records differ, and of those
// that were asked for.
func (d *differing) growing(known prefixes) []Log {
	out := known.asked()
	if len(known) == 0 {
		return nil
	}
	for _, encoded := range d.old {
		r, err := decodeEncoded(encoded)
		if err != nil {
			continue // the comparison will say so
		}
		if p := known.of(r); p != nil && !p.asked {
			out = append(out, Log{ID: r.ID(), Size: p.size, Want: p.want, Kept: p.kept, Path: []byte(r.Path()), In: p.in, Unsought: p.unsought})
		}
	}
	return out
}

// Remember stores the update in the directory of the state it follows from.
func (u *Update) Remember(k *Keep) (*Last, error) {
	l, was := &Last{dir: u.last.dir}, &u.last.head
	records, err := u.last.open()
	if err != nil {
		return nil, err
	}
	delta := newLastDelta()
	size, err := u.settle(l, func(encoded []byte) error {
		if len(u.void.whole) > 0 || len(delta.records) > maxTouched {
			return nil // it will be a new base
		}
		return delta.add(bytes.Clone(encoded))
	})
	if err != nil {
		return nil, err
	}
	l.head.Baseline, l.head.Rules, l.head.Full, l.head.Scans = was.Baseline, was.Rules, was.Full, was.Scans+1
	if len(u.void.whole) == 0 && u.grows(records, delta, size) {
		l.head.Base = was.Base
	} else if l.head.Base, err = u.rebase(); err != nil {
		return nil, storeError(err)
	} else {
		delta = newLastDelta()
	}
	return l, l.store(delta.append(nil), k)
}

// maxTouched and maxDelta bound what is kept beside a base.
const (
	maxTouched = 1 << 16
	maxDelta   = 16 << 20
)

// grows adds what still holds of the last state's delta to a new one, unless that
// becomes so large that a new base is cheaper to carry on.
func (u *Update) grows(records *lastRecords, delta *lastDelta, size int64) bool {
	was := records.delta
	if len(was.void)+len(u.base) > maxTouched || len(delta.records) > maxTouched {
		return false
	}
	fresh := delta.records
	delta.records = nil
	for _, encoded := range was.records {
		volume, inode, err := encodedID(encoded)
		if err != nil {
			return false
		}
		if !u.void.hasBytes(volume, inode) {
			delta.records = append(delta.records, encoded)
			size += int64(len(encoded))
		}
	}
	delta.records = append(delta.records, fresh...)
	slices.SortStableFunc(delta.records, compareEncoded)
	for k := range was.void {
		delta.void[k] = true
	}
	for _, k := range u.base {
		delta.void[k] = true
	}
	most := u.last.fold
	if most == 0 {
		most = min(max(1<<20, u.last.head.Base.Records.Size/8), maxDelta)
	}
	return size < most
}

// rebase writes all records.
func (u *Update) rebase() (base lastBase, err error) {
	w, err := newLastBaseWriter(u.last.dir)
	if err != nil {
		return base, err
	}
	if err := u.each(w.add); err != nil {
		w.abandon()
		return base, err
	}
	return w.finish()
}

// each gives every record of the state of now in order: what holds of the last
// one, and what was captured. The bytes are valid during the call.
func (u *Update) each(fn func(encoded []byte) error) error {
	records, err := u.last.open()
	if err != nil {
		return err
	}
	old := records.all()
	old.skip = u.void.hasBytes
	oldNext := func() ([]byte, error) {
		encoded, err := old.next()
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrLast, err)
		}
		return encoded, err
	}
	kept, err := oldNext()
	// behind takes the kept records before an encoded one, nil for the end.
	behind := func(encoded []byte) error {
		for err == nil && kept != nil && (encoded == nil || compareEncoded(kept, encoded) < 0) {
			if err = fn(kept); err == nil {
				kept, err = oldNext()
			}
		}
		return err
	}
	if err == nil {
		err = u.snap.sorter.each(func(encoded []byte) error {
			if err := behind(encoded); err != nil {
				return err
			}
			return fn(encoded)
		})
	}
	if err == nil {
		err = behind(nil)
	}
	return err
}

// Write signs the update and writes it as a baseline, as [Snapshot.Write] does.
func (l *Last) Write(out io.Writer, rules *filewatch.Rules, e *Edition, key sign.Signer) (*Header, error) {
	header := &Header{Tool: e.Tool, Created: e.Created.UTC(), Lineage: e.Lineage, Version: e.Version,
		Machine: l.head.Machine, Gaps: l.head.Gaps, Logs: slices.DeleteFunc(slices.Clone(l.head.Growing), func(l Log) bool { return !l.Asked }), Rules: string(rules.Text()), RulesDigest: rulesDigest(rules)}
	if e.Name != "" {
		header.Machine.Name = e.Name
	}
	w, err := newWriter(out, header)
	if err != nil {
		return nil, err
	}
	add := limitText(w.add)
	if err := l.eachRecord(add); err != nil {
		return nil, err
	}
	header.Unread = uint64(len(l.head.Again))
	return header, w.finish(key)
}

// Repeat stores that the state is what it was, with the source's new head.
func (l *Last) Repeat(k *Keep) error {
	l.head.Scans++
	return l.writeHead(k)
}

// Forget removes the state in dir, so that the next scan starts anew.
func Forget(dir string) error {
	err := os.Remove(filepath.Join(dir, lastHeadName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// store writes the state's files and then the head that names them.
func (l *Last) store(delta []byte, k *Keep) (err error) {
	if l.head.Delta, err = l.put("delta", delta); err != nil {
		return storeError(err)
	}
	if l.head.Diff, err = l.put("differing", l.diff.append(nil)); err != nil {
		return storeError(err)
	}
	if l.head.Memory, err = l.put("memory", k.Memory); err != nil {
		return storeError(err)
	}
	l.head.Files = k.Files
	if err := l.writeHead(k); err != nil {
		return err
	}
	return l.tidy()
}

func (l *Last) put(prefix string, b []byte) (lastFile, error) {
	f, err := os.CreateTemp(l.dir, prefix+"-*")
	if err != nil {
		return lastFile{}, err
	}
	_, err = f.Write(b)
	return lastFile{filepath.Base(f.Name()), int64(len(b)), hexSum(b)}, errors.Join(err, f.Close())
}

// lastPrefixes are what the names of a state's files begin with.
var lastPrefixes = []string{".last-", "records-", "ids-", "delta-", "differing-", "memory-", "volume-"}

// tidy removes what the head does not name: the files of the state before, and
// those of scans that came to no end.
func (l *Last) tidy() error {
	h := &l.head
	keep := append([]string{lastHeadName, h.Base.Records.Name, h.Base.IDs.Name, h.Delta.Name, h.Diff.Name, h.Memory.Name}, h.Files...)
	files, err := os.ReadDir(l.dir)
	if err != nil {
		return storeError(err)
	}
	for _, f := range files {
		ours := slices.ContainsFunc(lastPrefixes, func(p string) bool { return strings.HasPrefix(f.Name(), p) })
		if ours && f.Type().IsRegular() && !slices.Contains(keep, f.Name()) {
			os.Remove(filepath.Join(l.dir, f.Name()))
		}
	}
	return nil
}

// writeHead puts the head in place: the state is this one from then on.
func (l *Last) writeHead(k *Keep) (err error) {
	l.head.Format, l.head.Taken = lastFormat, k.Taken
	if l.head.Source, err = json.Marshal(k.Source); err != nil {
		return err
	}
	return l.putHead()
}

func (l *Last) putHead() error {
	text, err := json.Marshal(&l.head)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(l.dir, ".last-*")
	if err != nil {
		return storeError(err)
	}
	_, err = fmt.Fprintf(f, "%s\n%s\n", text, hexSum(text))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(l.dir, lastHeadName))
	}
	if err != nil {
		os.Remove(f.Name())
		return storeError(err)
	}
	return nil
}
