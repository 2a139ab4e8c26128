package baseline

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// ErrLast is wrapped by whatever keeps the state of the last scan from being used.
// Nothing of it may be taken over then.
var ErrLast = errors.New("the state of the last scan cannot be used")

// Last is the state that the last scan of a machine left in a directory: every
// record, which of them differ from the baseline's, and what the source keeps.
// It says only what was seen; what it is worth against the baseline is judged anew
// each time.
//
// It is as trusted as the ledger beside it: digests in its head find damage, and
// nothing keeps someone who may write the directory from forging it. It need not
// be durable: what a crash leaves of it is missing, older than the source says, or
// damaged. The first two are found at once, damage of records when they are read.
type Last struct {
	head    lastHead
	dir     string
	diff    differing
	records *lastRecords // nil until they are asked for
	// fold is how many bytes of records may lie over the base; default: see
	// Update.grows.
	fold int64
}

const lastFormat = 3

// lastHead is the file "last.json", which names the others.
type lastHead struct {
	Format int `json:"format"`
	// Baseline is the digest of the records that were compared with, Rules that
	// of the rules.
	Baseline string            `json:"baseline"`
	Rules    string            `json:"rules"`
	Machine  filewatch.Machine `json:"machine"`
	// Taken is when the state was seen, Full when everything was last read; Scans
	// counts the scans since.
	Taken time.Time `json:"taken"`
	Full  time.Time `json:"full"`
	Scans int       `json:"scans"`
	// Source is the source's own.
	Source  json.RawMessage `json:"source"`
	Gaps    []filewatch.Gap `json:"gaps,omitempty"`
	Objects uint64          `json:"objects"`
	// Again are the objects that could not be read whole.
	Again   []filewatch.ID `json:"again,omitempty"`
	Growing []Log          `json:"growing,omitempty"`
	Base    lastBase       `json:"base"`
	Delta   lastFile       `json:"delta"`
	Diff    lastFile       `json:"diff"`
	Memory  lastFile       `json:"memory"`
	// Files are those that Memory needs.
	Files []string `json:"files,omitempty"`
}

// lastFile is a file of the state.
type lastFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	BLAKE3 string `json:"blake3"`
}

const lastHeadName = "last.json"

// OpenLast reads the head of the state in dir, and the records that differ from
// the baseline's. The error wraps [ErrLast] and says why it cannot be used with b
// and rules.
func OpenLast(dir string, b *Header, rules *filewatch.Rules) (*Last, error) {
	fail := func(format string, args ...any) (*Last, error) {
		return nil, fmt.Errorf("%w: %w", ErrLast, fmt.Errorf(format, args...))
	}
	text, err := os.ReadFile(filepath.Join(dir, lastHeadName))
	if errors.Is(err, os.ErrNotExist) {
		return fail("there is none in %s", dir)
	}
	if err != nil {
		return fail("%w", err)
	}
	l := &Last{dir: dir}
	body, sum, ok := bytes.Cut(text, []byte("\n"))
	if !ok || string(sum) != hexSum(body)+"\n" {
		return fail("it is damaged: %s", lastHeadName)
	}
	if err := json.Unmarshal(body, &l.head); err != nil {
		return fail("it is damaged: %w", err)
	}
	switch {
	case l.head.Format != lastFormat:
		return fail("it has format %d, this program writes %d", l.head.Format, lastFormat)
	case l.head.Baseline != b.Body.BLAKE3:
		return fail("it was compared with another version of the baseline")
	case l.head.Rules != rulesDigest(rules):
		return fail("it was made with other rules")
	}
	packed, err := l.read(l.head.Diff)
	if err == nil {
		err = l.diff.parse(packed)
	}
	if err != nil {
		return fail("%w", err)
	}
	return l, nil
}

func hexSum(b []byte) string {
	sum := blake3.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// read reads a file of the state and verifies it.
func (l *Last) read(f lastFile) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(l.dir, filepath.Base(f.Name)))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != f.Size || hexSum(b) != f.BLAKE3 {
		return nil, fmt.Errorf("%s: %w", f.Name, ErrDamaged)
	}
	return b, nil
}

// Memory is what the source kept, whole.
func (l *Last) Memory() ([]byte, error) {
	b, err := l.read(l.head.Memory)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLast, err)
	}
	return b, nil
}

// Source is what the source kept in the head.
func (l *Last) Source() json.RawMessage { return l.head.Source }

// Again are the objects to look at in any case.
func (l *Last) Again() []filewatch.ID { return l.head.Again }

// Taken is when the state was seen, full when everything was last read, scans how
// many scans there were since.
func (l *Last) Taken() (taken, full time.Time, scans int) {
	return l.head.Taken, l.head.Full, l.head.Scans
}

// Verify reads the records and says whether they are whole.
func (l *Last) Verify() error {
	return l.eachRecord(func([]byte) error { return nil })
}

// Report compares the state with the baseline it was made with, as it is.
func (l *Last) Report(b *Header, rules *filewatch.Rules) (*Report, error) {
	c := newComparer(rules)
	c.volumes = l.head.Machine.Volumes
	c.places(b.Machine, l.head.Machine)
	c.gaps(l.head.Gaps, "")
	c.gaps(without(b.Gaps, l.head.Gaps), "when the baseline was made: ")
	c.know(l.prefixes())
	if err := c.run(&listed{l.diff.old}, each(l.diff.new)); err != nil {
		return nil, err
	}
	return &Report{Machine: l.head.Machine, Baseline: *b, Changes: c.changes, Objects: l.head.Objects}, nil
}

// prefixes are what is known of the growing files that differ from the baseline.
func (l *Last) prefixes() prefixes { return prefixesOf(l.head.Growing) }

// open opens the records.
func (l *Last) open() (*lastRecords, error) {
	if l.records != nil {
		return l.records, nil
	}
	packed, err := l.read(l.head.Delta)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLast, err)
	}
	r, err := openLastRecords(l.dir, &l.head.Base, packed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLast, err)
	}
	l.records = r
	return r, nil
}

// eachRecord gives every record in order. The bytes are valid during the call.
func (l *Last) eachRecord(fn func(encoded []byte) error) error {
	r, err := l.open()
	if err != nil {
		return err
	}
	for c := r.all(); ; {
		encoded, err := c.next()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrLast, err)
		}
		if encoded == nil {
			return nil
		}
		if err := fn(encoded); err != nil {
			return err
		}
	}
}

// LastDir is the directory, under one for all of them, of the state of a source
// that is compared with the baseline in a file.
func LastDir(root, file, source string) string {
	return filepath.Join(root, strings.TrimLeft(filepath.Base(file), ".")+"-"+hexSum([]byte(file + "\x00" + source))[:16])
}

// Machine is whose files the state is of.
func (l *Last) Machine() filewatch.Machine { return l.head.Machine }
