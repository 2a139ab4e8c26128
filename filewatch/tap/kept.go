package tap

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// errKept: what is kept in files is not what was written there.
var errKept = errors.New("what is kept of the last look is damaged")

// kept is the states of all objects at the last look: most in a sorted file, those
// that were looked at since in memory over it.
type kept struct {
	dir  sorted.Dir
	base *sorted.File // nil before the first look
	name string       // of its file
	find *sorted.Cursor
	over map[string][]byte // by key; nil for an object that is gone
	held int               // bytes of over
	most int               // objects in over; default: see update
	room int               // for bytes in over; 0 means maxOver
}

// maxOver bounds what is held in memory of states, in bytes; a state has up to several
// MiB of a guest's choice.
const maxOver = 64 << 20

// errFull: no more is held in memory.
var errFull = errors.New("what is held of states is full")

// put holds a state in memory, nil for an object that is gone.
func (k *kept) put(key, body []byte) error {
	room := k.room
	if room == 0 {
		room = maxOver
	}
	was, had := k.over[string(key)]
	held := k.held + len(body) - len(was)
	if !had {
		held += len(key)
	}
	if held > room {
		return errFull
	}
	k.over[string(key)], k.held = bytes.Clone(body), held
	return nil
}

// forget drops everything: it is damaged. What was found anew is a first look.
func (k *kept) forget() {
	k.base, k.name, k.find, k.over, k.held = nil, "", nil, map[string][]byte{}, 0
}

// entries are sorted by their keys: each is a key and an encoded state.
type entries = iter.Seq2[[]byte, error]

// state gives the encoded state of an object, nil for none. It is valid until the
// next call.
func (k *kept) state(key []byte) ([]byte, error) {
	if body, ok := k.over[string(key)]; ok {
		return body, nil
	}
	if k.base == nil {
		return nil, nil
	}
	e, err := k.find.Seek(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKept, err)
	}
	if !bytes.HasPrefix(e, key) {
		return nil, nil
	}
	return e[len(key):], nil
}

// beginning gives the entries whose keys begin so. They are valid until the next one.
func (k *kept) beginning(prefix []byte) entries {
	return func(yield func([]byte, error) bool) {
		var over []string
		for key := range k.over {
			if strings.HasPrefix(key, string(prefix)) {
				over = append(over, key)
			}
		}
		slices.Sort(over)
		var scratch []byte
		before := func(key []byte) bool { // gives what lies over the base before a key, nil for the end
			for len(over) > 0 && (key == nil || over[0] < string(key)) {
				first := over[0]
				over = over[1:]
				body := k.over[first]
				if body == nil {
					continue
				}
				scratch = append(append(scratch[:0], first...), body...)
				if !yield(scratch, nil) {
					return false
				}
			}
			return true
		}
		if k.base != nil {
			c := k.base.Again().All()
			for e, err := c.Seek(prefix); ; e, err = c.Peek() {
				key, _ := split(e)
				if err == nil && e != nil && key == nil {
					err = errKept
				}
				if err != nil {
					yield(nil, fmt.Errorf("%w: %w", errKept, err))
					return
				}
				if e == nil || !bytes.HasPrefix(e, prefix) {
					break
				}
				if !before(key) {
					return
				}
				if _, ok := k.over[string(key)]; !ok && !yield(e, nil) {
					return
				}
				c.Next()
			}
		}
		before(nil)
	}
}

// void is what of a volume does not hold any more.
type void struct {
	prefix []byte   // of the keys of its objects
	whole  bool     // all of it
	inodes []uint64 // else these, sorted
}

// of gives the entries of objects that do not hold any more; the volumes are sorted.
func (k *kept) of(volumes []void) entries {
	return func(yield func([]byte, error) bool) {
		var entry []byte
		for _, v := range volumes {
			if v.whole {
				for e, err := range k.beginning(v.prefix) {
					if !yield(e, err) {
						return
					}
				}
				continue
			}
			for _, inode := range v.inodes {
				entry = appendInode(append(entry[:0], v.prefix...), inode)
				body, err := k.state(entry)
				if err == nil && body == nil {
					continue
				}
				if !yield(append(entry, body...), err) || err != nil {
					return
				}
			}
		}
	}
}

// update takes what a look found for what does not hold any more. found gives the
// entries in order, and does so again.
func (k *kept) update(volumes []void, found func(func(entry []byte) error) error) error {
	touched := 0
	whole := k.base == nil
	for _, v := range volumes {
		whole = whole || v.whole
		touched += len(v.inodes)
	}
	most := k.most
	if most == 0 {
		most = 1 << 15
	}
	if whole || len(k.over)+touched > most {
		return k.rebase(volumes, found)
	}
	err := k.lay(volumes, found)
	if errors.Is(err, errFull) {
		// What was put already is what rebase finds, too.
		return k.rebase(volumes, found)
	}
	return err
}

// lay puts what was found over the base.
func (k *kept) lay(volumes []void, found func(func(entry []byte) error) error) error {
	for _, v := range volumes {
		for _, inode := range v.inodes {
			if err := k.put(appendInode(bytes.Clone(v.prefix), inode), nil); err != nil {
				return err
			}
		}
	}
	return found(func(entry []byte) error { return k.put(split(entry)) })
}

// rebase writes everything into a new file.
func (k *kept) rebase(volumes []void, found func(func(entry []byte) error) error) error {
	f, err := k.dir.Create("states")
	if err != nil {
		return err
	}
	gone := map[string]bool{}
	for _, v := range volumes {
		for _, inode := range v.inodes {
			gone[string(appendInode(bytes.Clone(v.prefix), inode))] = true
		}
	}
	add := func(entry []byte) error {
		_, err := f.Add(entry)
		return err
	}
	holds := func(key []byte) bool {
		return !gone[string(key)] && !slices.ContainsFunc(volumes, func(v void) bool { return v.whole && bytes.HasPrefix(key, v.prefix) })
	}
	err = merge(k.beginning(nil), found, func(key, old, new []byte) error {
		switch {
		case new != nil:
			return add(new)
		case holds(key):
			return add(old)
		}
		return nil
	})
	if err != nil {
		f.Abandon()
		return err
	}
	ref, err := f.Close()
	if err != nil {
		return err
	}
	base, err := k.dir.Open(ref)
	if err != nil {
		return fmt.Errorf("%w: %w", errKept, err)
	}
	was := k.name
	k.base, k.name, k.find, k.over, k.held = base, ref.Name, base.All(), map[string][]byte{}, 0
	if was != "" {
		return os.Remove(filepath.Join(string(k.dir), was))
	}
	return nil
}

// merge joins two series of entries by their keys. The bytes are valid during the
// call; either entry is nil where the key has none.
func merge(old entries, found func(func(entry []byte) error) error, fn func(key, old, new []byte) error) error {
	next, stop := iter.Pull2(old)
	defer stop()
	was, err, _ := next()
	if err != nil {
		return err
	}
	behind := func(key []byte) error { // takes the old ones before a key, nil for the end
		for was != nil {
			k, _ := split(was)
			if key != nil && bytes.Compare(k, key) >= 0 {
				return nil
			}
			if err := fn(k, was, nil); err != nil {
				return err
			}
			if was, err, _ = next(); err != nil {
				return err
			}
		}
		return nil
	}
	err = found(func(entry []byte) error {
		key, _ := split(entry)
		if err := behind(key); err != nil {
			return err
		}
		if was == nil || !bytes.HasPrefix(was, key) {
			return fn(key, nil, entry)
		}
		if err := fn(key, was, entry); err != nil {
			return err
		}
		was, err, _ = next()
		return err
	})
	if err != nil {
		return err
	}
	return behind(nil)
}

// tidy removes the files of the directory that are neither needed by the memory of
// the guest nor the states.
func (k *kept) tidy(needed []string) error {
	files, err := os.ReadDir(string(k.dir))
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Name() != k.name && !slices.Contains(needed, f.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(string(k.dir), f.Name())))
		}
	}
	return err
}

// volumes are those of which states are kept, by the prefix of their keys.
func (k *kept) volumes() (map[string]string, error) {
	all := map[string]string{}
	add := func(key, body []byte) error {
		if all[string(key[:prefixLen])] != "" {
			return nil
		}
		s, err := parseState(key, body)
		if err == nil {
			all[string(key[:prefixLen])] = s.Volume
		}
		return err
	}
	for key, body := range k.over {
		if body == nil {
			continue
		}
		if err := add([]byte(key), body); err != nil {
			return nil, err
		}
	}
	if k.base == nil {
		return all, nil
	}
	c := k.base.Again().All()
	for e, err := c.Peek(); e != nil || err != nil; {
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errKept, err)
		}
		key, body := split(e)
		if key == nil {
			return nil, errKept
		}
		if err := add(key, body); err != nil {
			return nil, err
		}
		last := appendInode(bytes.Clone(key[:prefixLen]), 1<<64-1)
		if e, err = c.Seek(last); bytes.HasPrefix(e, last) {
			c.Next()
			e, err = c.Peek()
		}
	}
	return all, nil
}
