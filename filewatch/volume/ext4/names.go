package ext4

import (
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/dirscan"
)

// nameReaders is how many read directories at once: nothing else can be done
// before all names are known.
const nameReaders = 2

// Names calls fn for every entry of every directory, by place on the disk. Readers
// take block groups in turn, so that they go over the disk together.
func (v *Volume) Names(ctx context.Context, fn func(filewatch.Name, error) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var taken atomic.Int64
	groups := func(yield func(int) bool) {
		for g := int(taken.Add(1)) - 1; g < len(v.groups) && yield(g); g = int(taken.Add(1)) - 1 {
		}
	}
	to := &nameTaker{fn: fn}
	var wg sync.WaitGroup
	for range min(nameReaders, len(v.groups)) {
		wg.Go(func() {
			b := nameBuffer{to: to}
			err := v.namesOf(ctx, groups, b.add)
			if err == nil {
				err = b.flush()
			}
			if err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// namesOf is Names for some of the groups.
func (v *Volume) namesOf(ctx context.Context, groups iter.Seq[int], fn func(filewatch.Name, error) error) error {
	s := v.newScratch()
	q := dirscan.Queue[inode]{Fn: fn, List: func(in *inode, where filewatch.Content, fn func(filewatch.Name) error) error {
		in.scratch = s
		return v.list(in, where, fn)
	}}
	all := v.newScratch()
	all.only = modeDir
	err := v.inodes(ctx, all, groups, func(in *inode, damage error) error {
		// Regions of inodes that cannot be read are reported by Objects.
		if in == nil || in.kind() != modeDir || in.links == 0 {
			return nil
		}
		where, err := v.dirContent(in)
		dir := *in
		dir.raw, dir.meta = nil, nil
		return q.Add(uint64(in.number), dir, where, errors.Join(damage, err))
	})
	if err != nil {
		return err
	}
	return q.Flush()
}

// nameTaker hands entries over, from one reader at a time, until fn fails.
type nameTaker struct {
	mu  sync.Mutex
	fn  func(filewatch.Name, error) error
	err error // fn's
}

func (t *nameTaker) take(names []damagedName) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := 0; i < len(names) && t.err == nil; i++ {
		t.err = t.fn(names[i].Name, names[i].damage)
	}
	return t.err
}

// nameBuffer gathers entries, so that readers seldom wait for each other.
type nameBuffer struct {
	to    *nameTaker
	names []damagedName
	text  []byte // of the names
}

type damagedName struct {
	filewatch.Name
	damage error
}

// bufferedText is how many bytes of names a reader gathers.
const bufferedText = 32 << 10

func (b *nameBuffer) add(n filewatch.Name, damage error) error {
	at := len(b.text)
	b.text = append(b.text, n.Name...)
	n.Name = b.text[at:len(b.text):len(b.text)]
	b.names = append(b.names, damagedName{n, damage})
	if len(b.text) < bufferedText && len(b.names) < bufferedText/8 {
		return nil
	}
	return b.flush()
}

func (b *nameBuffer) flush() error {
	err := b.to.take(b.names)
	b.names, b.text = b.names[:0], b.text[:0]
	return err
}

// dirContent is where a directory's entries are, none for an encrypted one.
func (v *Volume) dirContent(in *inode) (filewatch.Content, error) {
	var c filewatch.Content
	var damage error
	if in.flags&flagInlineData != 0 {
		_, inline, err := v.xattrs(in)
		if inline != nil {
			c.Inline = append(append([]byte(nil), in.iblock()...), inline...)
			return c, err
		}
		damage = errors.Join(errNotInline(in.number), err)
	}
	if in.flags&flagEncrypt != 0 {
		return c, damage
	}
	extents, err := v.extents(in)
	c.Extents = extents
	return c, errors.Join(damage, err)
}
