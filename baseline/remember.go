package baseline

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
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

// Keep is what a source wants to have kept.
type Keep struct {
	// Source is small and goes into the head, Memory is its bulk.
	Source any
	Memory []byte
	Taken  time.Time
}

// Remember stores a snapshot of a whole tree in dir, set against b; b nil means
// the baseline with the given digest that was written of this very snapshot.
func (s *Snapshot) Remember(dir string, b *Baseline, digest string, k *Keep) (*Last, error) {
	w, err := newLastWriter(dir, s.rules)
	if err != nil {
		return nil, err
	}
	defer w.abandon()
	l := w.last
	l.head.Baseline = digest
	if b != nil {
		l.head.Baseline = b.Header.Body.BLAKE3
	}
	if err := s.split(b, &l.diff, w.add); err != nil {
		return nil, err
	}
	l.head.Machine, l.head.Gaps, l.head.Full = s.Machine, s.Gaps, k.Taken
	l.head.Growing = l.diff.growing(s.growing)
	return l, w.finish(k)
}

// split sets the snapshot against a baseline, record by record as encoded.
func (s *Snapshot) split(b *Baseline, diff *differing, fn func(equal bool, encoded []byte) error) error {
	asked := s.rules.Asked()
	if b == nil {
		var budget textBudget // the baseline was written within it
		return s.sorter.each(func(encoded []byte) error {
			written, err := budget.apply(encoded)
			if err != nil {
				return err
			}
			equal := bytes.Equal(written, encoded) && matches(s.rules, encoded, asked)
			if !equal {
				diff.old = append(diff.old, bytes.Clone(written))
				diff.new = append(diff.new, bytes.Clone(encoded))
				err = diff.check(len(encoded) + len(written))
			}
			return errors.Join(err, fn(equal, encoded))
		})
	}
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
	err := s.sorter.each(func(encoded []byte) error {
		for len(old) > 0 && compareEncoded(old, encoded) < 0 {
			if err := missing(); err != nil {
				return err
			}
		}
		equal := bytes.Equal(old, encoded) && matches(s.rules, encoded, asked)
		if equal {
			return errors.Join(next(), fn(true, encoded))
		}
		diff.new = append(diff.new, bytes.Clone(encoded))
		return errors.Join(diff.check(len(encoded)), fn(false, encoded))
	})
	for err == nil && len(old) > 0 {
		err = missing()
	}
	return err
}

// growing keeps what is known of the growing files whose records differ.
func (d *differing) growing(known map[filewatch.ID]*prefix) []growing {
	var out []growing
	if len(known) == 0 {
		return nil
	}
	for _, encoded := range d.old {
		r, err := decodeEncoded(encoded)
		if err != nil {
			continue // the comparison will say so
		}
		if p := known[r.ID()]; p != nil {
			out = append(out, growing{r.ID(), p.size, p.want, p.kept})
		}
	}
	return out
}

// Remember stores the update in the directory of the state it follows from.
func (u *Update) Remember(k *Keep) (*Last, error) {
	w, err := newLastWriter(u.last.dir, u.snap.rules)
	if err != nil {
		return nil, err
	}
	defer w.abandon()
	diff, err := u.merge(w.add)
	if err != nil {
		return nil, err
	}
	l, was := w.last, &u.last.head
	l.diff = *diff
	l.head.Baseline, l.head.Full, l.head.Scans = was.Baseline, was.Full, was.Scans+1
	l.head.Machine, l.head.Gaps = u.snap.Machine, u.snap.Gaps
	l.head.Growing = l.diff.growing(u.snap.growing)
	if err := w.finish(k); err != nil {
		return nil, err
	}
	u.last.forget(l)
	return l, nil
}

// Write signs the update and writes it as a baseline, as [Snapshot.Write] does.
func (l *Last) Write(out io.Writer, rules *filewatch.Rules, e *Edition, key sign.Signer) (*Header, error) {
	header := &Header{Tool: e.Tool, Created: e.Created.UTC(), Lineage: e.Lineage, Version: e.Version,
		Machine: l.head.Machine, Gaps: l.head.Gaps, Rules: string(rules.Text()), RulesDigest: rulesDigest(rules)}
	if e.Name != "" {
		header.Machine.Name = e.Name
	}
	w, err := newWriter(out, header)
	if err != nil {
		return nil, err
	}
	add := limitText(w.add)
	if err := l.eachRecord(func(_ bool, encoded []byte) error { return add(encoded) }); err != nil {
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

// forget removes the files of l that now does not use.
func (l *Last) forget(now *Last) {
	for _, f := range []lastFile{l.head.Records, l.head.Diff, l.head.Memory} {
		if f.Name != now.head.Records.Name && f.Name != now.head.Diff.Name && f.Name != now.head.Memory.Name {
			os.Remove(filepath.Join(l.dir, filepath.Base(f.Name)))
		}
	}
}

// lastWriter writes a new state beside the old one.
type lastWriter struct {
	last    *Last
	file    *os.File
	out     *bufio.Writer
	digest  *blake3.Hasher
	written []string // files to remove unless finished
}

func newLastWriter(dir string, rules *filewatch.Rules) (*lastWriter, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("store the scan: %w", err)
	}
	w := &lastWriter{last: &Last{dir: dir}, digest: blake3.New()}
	w.last.head.Format, w.last.head.Rules = lastFormat, rulesDigest(rules)
	var err error
	if w.file, err = w.create("records-*"); err != nil {
		return nil, err
	}
	w.out = bufio.NewWriterSize(io.MultiWriter(w.file, w.digest), 256<<10)
	return w, nil
}

func (w *lastWriter) create(pattern string) (*os.File, error) {
	f, err := os.CreateTemp(w.last.dir, pattern)
	if err != nil {
		return nil, fmt.Errorf("store the scan: %w", err)
	}
	w.written = append(w.written, f.Name())
	return f, nil
}

// abandon removes what was written unless it was finished.
func (w *lastWriter) abandon() {
	w.file.Close()
	for _, name := range w.written {
		os.Remove(name)
	}
}

// add takes the next record.
func (w *lastWriter) add(equal bool, encoded []byte) error {
	h := &w.last.head
	h.Objects++
	flag := byte(0)
	if equal {
		flag = 1
	} else if r, err := decodeEncoded(encoded); err != nil {
		return err
	} else if r.Unread != "" {
		h.Again = append(h.Again, r.ID())
	}
	w.out.WriteByte(flag)
	_, err := w.out.Write(encoded)
	h.Records.Size += int64(1 + len(encoded))
	return err
}

func (w *lastWriter) finish(k *Keep) error {
	l := w.last
	if err := errors.Join(w.out.Flush(), w.file.Close()); err != nil {
		return fmt.Errorf("store the scan: %w", err)
	}
	l.head.Records.Name, l.head.Records.BLAKE3 = filepath.Base(w.file.Name()), hex.EncodeToString(w.digest.Sum(nil))
	var err error
	if l.head.Diff, err = w.put("differing-*", l.diff.append(nil)); err != nil {
		return err
	}
	if l.head.Memory, err = w.put("memory-*", k.Memory); err != nil {
		return err
	}
	if err := l.writeHead(k); err != nil {
		return err
	}
	w.written = nil
	return nil
}

func (w *lastWriter) put(pattern string, b []byte) (lastFile, error) {
	f, err := w.create(pattern)
	if err != nil {
		return lastFile{}, err
	}
	if _, err := f.Write(b); err != nil {
		f.Close()
		return lastFile{}, fmt.Errorf("store the scan: %w", err)
	}
	return lastFile{filepath.Base(f.Name()), int64(len(b)), hexSum(b)}, f.Close()
}

// writeHead puts the head in place: the state is this one from then on.
func (l *Last) writeHead(k *Keep) error {
	var err error
	l.head.Taken = k.Taken
	if l.head.Source, err = json.Marshal(k.Source); err != nil {
		return err
	}
	text, err := json.Marshal(&l.head)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(l.dir, ".last-*")
	if err != nil {
		return fmt.Errorf("store the scan: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s\n%s\n", text, hexSum(text))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(l.dir, lastHeadName))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("store the scan: %w", err)
	}
	return nil
}
