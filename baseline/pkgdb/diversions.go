package pkgdb

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// Diversions say where dpkg puts files of packages instead of where the packages
// have them (dpkg-divert(1)). They are no part of packages: scripts make them, and
// a machine keeps them in one file.
//
// Whoever may write that file says so that a change of one file is right because it
// is what a package has as another: /bin/true in place of a watchdog. So it
// explains nothing on the word of the machine that is checked.
type Diversions struct{ all []diversion }

type diversion struct {
	from, to string
	by       string // the package whose own file stays, ":" for none
}

// Word is on whose word files are diverted.
type Word string

// The words: a file that the operator names, the list of the machine that is the
// very one of the signed baseline, and the list of the machine as it is, which
// explains nothing.
const (
	OperatorsWord Word = "the operator's word"
	BaselinesWord Word = "the word of the baseline, whose list of diversions it is"
	GuestsWord    Word = "the guest's own word"
)

// ErrDiversions: a file that is no list of diversions.
var ErrDiversions = errors.New("not a list of diversions")

// dpkgDiversions is where dpkg keeps the list.
const dpkgDiversions = "/var/lib/dpkg/diversions"

// Debian's packages have some dozens on one machine.
const (
	maxDiversionsText = 1 << 20
	maxDiversions     = 1 << 12
)

// OpenDiversions reads a file as dpkg keeps it in /var/lib/dpkg/diversions.
func OpenDiversions(path string) (*Diversions, error) {
	text, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("read diversions: %w", err)
	}
	d, err := ParseDiversions(text)
	if err != nil {
		return nil, fmt.Errorf("read diversions: %s: %w", path, err)
	}
	return d, nil
}

// ParseDiversions reads such a file: three lines for each, the path in packages,
// where it is put, and the package that it is for or ":" (lib/dpkg/db-fsys-divert.c,
// dpkg 1.21.22).
func ParseDiversions(text []byte) (*Diversions, error) {
	d := &Diversions{}
	if len(text) == 0 {
		return d, nil
	}
	text, ended := bytes.CutSuffix(text, []byte("\n"))
	lines := strings.Split(string(text), "\n")
	if !ended || len(lines)%3 != 0 || len(lines) > 3*maxDiversions {
		return nil, fmt.Errorf("%d lines: %w", len(lines), ErrDiversions)
	}
	for l := range slices.Chunk(lines, 3) {
		if !path.IsAbs(l[0]) || !path.IsAbs(l[1]) || l[2] == "" {
			return nil, fmt.Errorf("%q: %w", l, ErrDiversions)
		}
		d.all = append(d.all, diversion{merged(l[0]), merged(l[1]), l[2]})
	}
	return d, nil
}

// diversionsIn says that one of the records, of a signed baseline, is the list's file with
// this content.
func diversionsIn(text []byte, records iter.Seq2[*baseline.Record, error]) (bool, error) {
	b3, sha := blake3.Sum256(text), sha256.Sum256(text)
	for r, err := range records {
		if err != nil {
			return false, err
		}
		if slices.Contains(r.Names, dpkgDiversions) {
			same, known := r.SameContent(b3, sha)
			return same && known, nil
		}
	}
	return false, nil
}

// KeptDiversions is the list that a signed baseline with the given records keeps the
// text of, because a rule asks for it (diff = true), and nil where it has none. A scan
// that does not read the machine's list can go by it on [BaselinesWord].
func KeptDiversions(records iter.Seq2[*baseline.Record, error]) (*Diversions, error) {
	for r, err := range records {
		if err != nil {
			return nil, err
		}
		if !slices.Contains(r.Names, dpkgDiversions) {
			continue
		}
		if r.Type == filewatch.TypeFile && r.Text.State == baseline.TextKept {
			if d, err := ParseDiversions(r.Text.Content); err == nil {
				return d, nil
			}
		}
		break
	}
	return nil, nil
}

// diverted are diversions on somebody's word.
type diverted struct {
	diversion
	word Word
}

// Divert has files of packages explain what is where they are diverted to, or be
// named as a hint for [GuestsWord].
func (p *Packages) Divert(d *Diversions, on Word) {
	if p.diverted == nil {
		p.diverted = map[string][]diverted{}
	}
	for _, one := range d.all {
		p.diverted[one.to] = append(p.diverted[one.to], diverted{one, on})
	}
}

// divertedHere is the package whose diverted file is the change's new state. A word
// that counts comes before one that does not.
func (p *Packages) divertedHere(c *baseline.Change) (o *owned, on *diverted) {
	for _, name := range c.New.Names {
		here := p.diverted[merged(name)]
		for i := range here {
			d := &here[i]
			if on != nil && (d.word == GuestsWord || on.word != GuestsWord) {
				continue
			}
			if found := p.exactly(d.from, c); found != nil && found.pkg != d.by {
				o, on = found, d
			}
		}
	}
	return o, on
}
