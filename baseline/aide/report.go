package aide

import (
	"bufio"
	"cmp"
	"encoding/base64"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// Report is one run in AIDE's words.
type Report struct {
	Action Action
	// Release is the AIDE in whose words it is; default: [Release018].
	Release Release
	Start   time.Time
	End     time.Time
	// Old and New are the states; Old is nil for [Init].
	Old, New iter.Seq2[*baseline.Record, error]
	// Rules are those the states were taken with, nil for everything.
	Rules *filewatch.Rules
	// Kept says that a growing file still begins with its old content; nil when
	// nobody looked.
	Kept func(old, new *baseline.Record) bool
	// Excused says that a change of this path does not count for the exit code.
	Excused func(path string) bool
	// Databases are the baselines, with the SHA-256 of their files.
	Databases []Database
	// RootPrefix is where the tree is mounted, "" for none.
	RootPrefix string
	// Zone is what times are shown in; default: the local one.
	Zone *time.Location
}

// Action is what was run.
type Action int

// The actions: aide --check, --init and --compare.
const (
	Check Action = iota
	Init
	Compare
)

// Database is a file in place of AIDE's database.
type Database struct {
	Path   string
	SHA256 [32]byte
}

// difference is an entry that one side lacks or that differs.
type difference struct {
	path     string
	old, new *line
	changed  attrs
	level    filewatch.Level
}

type report struct {
	*Report
	o       *ReportOptions
	out     *bufio.Writer
	zone    *time.Location
	release Release
	total   int
	found   []difference
}

// Write prints the report and gives AIDE's exit code: 1 for added, 2 for
// removed and 4 for changed entries.
func (run *Report) Write(w io.Writer, o *ReportOptions) (int, error) {
	c, err := run.Collect(o)
	if err != nil {
		return 0, err
	}
	return c.Write(w)
}

// Collected is a report whose states were read: Old, New, Rules and Kept are not
// needed any more, the rest may still be set.
type Collected struct{ report *report }

// Write is [Report.Write].
func (c *Collected) Write(w io.Writer) (int, error) {
	c.report.out = bufio.NewWriter(w)
	c.report.print()
	return c.report.mask(), c.report.out.Flush()
}

// Collect reads the states.
func (run *Report) Collect(o *ReportOptions) (*Collected, error) {
	if o == nil {
		o = &ReportOptions{}
	}
	r := &report{Report: run, o: o.withDefaults(), zone: cmp.Or(run.Zone, time.Local), release: cmp.Or(run.Release, Release018)}
	old := run.Old
	if old == nil {
		old = func(func(*baseline.Record, error) bool) {}
	}
	if err := baseline.ByName(old, run.New, r.visit); err != nil {
		return nil, err
	}
	slices.SortStableFunc(r.found, func(a, b difference) int { return compareTree(a.path, b.path) })
	return &Collected{r}, nil
}

// visit keeps what AIDE would have to say of one name.
func (r *report) visit(path string, old, new *baseline.Record) error {
	d := difference{path: path}
	d.old = r.line(&d, old)
	d.new = r.line(&d, new)
	if d.new != nil {
		r.total++
	}
	switch {
	case d.old != nil && d.new != nil:
		d.changed = differ(d.old, d.new, r.Kept != nil && r.Kept(old, new))
		if d.changed == 0 && d.old.attrs == d.new.attrs {
			return nil
		}
	case d.old == nil && d.new == nil, r.Action == Init && !r.o.detailedInit:
		return nil
	}
	r.found = append(r.found, d)
	return nil
}

func (r *report) line(d *difference, record *baseline.Record) *line {
	if record == nil {
		return nil
	}
	rule := r.Rules.Match(d.path, &record.Object)
	if rule.Level == filewatch.Ignore {
		return nil
	}
	d.level = max(d.level, rule.Level)
	return newLine(record, rule.Check)
}

// compareTree is the order of AIDE's tree: a directory comes before what is in
// it, and that before the directory's next sibling.
func compareTree(a, b string) int {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		default:
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

// kinds of differences, as AIDE counts them.
type kind int

const (
	added kind = 1 << iota
	removed
	changed
	silent kind = 0 // only that an attribute came or went
)

func (r *report) kind(d *difference) kind {
	switch {
	case d.old == nil:
		return added
	case d.new == nil:
		return removed
	case r.visible(d) != 0:
		return changed
	}
	return silent
}

// visible are the changed attributes that the options do not hide.
func (r *report) visible(d *difference) attrs {
	found := d.changed &^ r.o.ignoreChanged
	if found&attrE2fs != 0 && (d.old.Flags^d.new.Flags)&^r.o.ignoreE2fs == 0 {
		found &^= attrE2fs
	}
	return found
}

func (r *report) count(k kind) int {
	n := 0
	for i := range r.found {
		if r.kind(&r.found[i]) == k {
			n++
		}
	}
	return n
}

func (r *report) mask() int {
	mask := 0
	if r.Action == Init {
		return 0
	}
	for i := range r.found {
		d := &r.found[i]
		if d.level >= filewatch.Verify && (r.Excused == nil || !r.Excused(d.path)) {
			mask |= int(r.kind(d))
		}
	}
	return mask
}

func (r *report) printf(format string, args ...any) { fmt.Fprintf(r.out, format, args...) }

func (r *report) headline(text string) {
	const rule = "---------------------------------------------------"
	r.printf("\n\n%s\n%s:\n%s\n", rule, text, rule)
}

// databases prints the attributes of the baselines' files.
func (r *report) databases() {
	r.headline("The attributes of the (uncompressed) database(s)")
	for _, db := range r.Databases {
		r.printf("\n%s\n", escape(db.Path))
		r.pair("SHA256", []string{base64.StdEncoding.EncodeToString(db.SHA256[:])}, nil)
	}
}

// escape writes control characters as \ooo, as AIDE does since its answer to
// CVE-2025-54389.
func escape(s string) string {
	if strings.IndexFunc(s, func(c rune) bool { return c < 0x20 || c == 0x7f }) < 0 {
		return s
	}
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < 0x20 || c == 0x7f {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
