package pkgdb

import (
	"bytes"
	"context"
	"hash/maphash"
	"io"
	"iter"
	"path"
	"strings"
	"sync"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// Owners is what the guest's own dpkg database says of whose files are whose. It
// is a hint and nothing else: whoever changed a file may have changed it too.
type Owners struct {
	mu   sync.Mutex
	seed maphash.Seed
	// diversions is the text of its list of them.
	diversions []byte
	packages   []string
	of         map[uint64]uint32 // hash of a path to its package
}

// Bounds on the database: of one list, and of all paths.
const (
	maxList   = 8 << 20
	maxOwners = 4 << 20
)

// dpkgInfo is where dpkg has a list of each package's files (deb-old(5) calls it
// the info directory): one path a line in PACKAGE.list or PACKAGE:ARCH.list.
const dpkgInfo = "/var/lib/dpkg/info/"

// Watch gives src with the lists read while they pass by. It is to be used where
// src would be.
func (o *Owners) Watch(src baseline.Source) baseline.Source {
	o.seed, o.of = maphash.MakeSeed(), map[uint64]uint32{}
	return watched{src, o}
}

type watched struct {
	baseline.Source
	owners *Owners
}

// Scan implements [baseline.Source].
func (w watched) Scan(ctx context.Context, want baseline.WantFunc, visit baseline.VisitFunc) ([]filewatch.Gap, error) {
	return w.Source.Scan(ctx, func(o *filewatch.Object, names []string) bool {
		return want(o, names) || isList(o, names)
	}, func(o *filewatch.Object, names []string, content io.Reader, damage error) error {
		if content == nil || !isList(o, names) {
			return visit(o, names, content, damage)
		}
		if !want(o, names) {
			if text, err := io.ReadAll(io.LimitReader(content, maxList)); err == nil {
				w.owners.add(names[0], text)
			}
			return visit(o, names, nil, damage)
		}
		var text bytes.Buffer
		err := visit(o, names, io.TeeReader(content, &text), damage)
		w.owners.add(names[0], text.Bytes())
		return err
	})
}

func isList(o *filewatch.Object, names []string) bool {
	if len(names) == 0 || o.Type != filewatch.TypeFile {
		return false
	}
	return strings.HasPrefix(names[0], dpkgInfo) && path.Ext(names[0]) == ".list" && o.Size <= maxList ||
		names[0] == dpkgDiversions && o.Size <= maxDiversionsText
}

// add takes one package's list, or that of diversions.
func (o *Owners) add(name string, text []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if name == dpkgDiversions {
		o.diversions = bytes.Clone(text)
		return
	}
	number := uint32(len(o.packages))
	o.packages = append(o.packages, strings.TrimSuffix(path.Base(name), ".list"))
	for line := range bytes.Lines(text) {
		if len(o.of) >= maxOwners {
			return
		}
		o.of[maphash.String(o.seed, merged(string(bytes.TrimSuffix(line, []byte("\n")))))] = number
	}
}

// Divert has packages know the guest's diversions: as the word of the baseline with
// the given records where they are those of its time, else as the guest's own. What
// cannot be read is left out: it is a hint.
func (o *Owners) Divert(p *Packages, records iter.Seq2[*baseline.Record, error]) error {
	d, err := ParseDiversions(o.diversions)
	if err != nil || len(d.all) == 0 {
		return nil
	}
	same, err := diversionsIn(o.diversions, records)
	if err != nil {
		return err
	}
	if same {
		p.Divert(d, BaselinesWord)
	} else {
		p.Divert(d, GuestsWord)
	}
	return nil
}

// Hint adds to changes that nothing explains whose files the guest says they are.
func (o *Owners) Hint(changes []*baseline.Change) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range changes {
		number, ok := o.of[maphash.String(o.seed, merged(c.Path))]
		if ok && c.Explained == "" && c.Kind != baseline.Unmeasured {
			c.Explanation += "; hint, on the guest's own word: a file of package " + o.packages[number]
		}
	}
}
