package aide

import (
	"strings"
)

// print prints what AIDE prints, section by section.
func (r *report) print() {
	nAdded, nRemoved, nChanged := r.count(added), r.count(removed), r.count(changed)
	any := nAdded+nRemoved+nChanged > 0
	if r.o.quiet && !any {
		return
	}
	if r.o.level >= levelListEntries {
		r.attributesThatDiffer()
	}
	if r.o.level >= levelSummary {
		r.printf("Start timestamp: %s (AIDE %s)\n", r.time(r.Start), r.release)
	}
	r.printf("%s\n", r.outline(any))
	if r.o.level >= levelSummary {
		if r.Action == Init {
			r.printf("New AIDE database written to %s\n", escape(r.Databases[0].Path))
		}
		r.configOptions()
	}
	if r.o.level >= levelListEntries {
		r.reportOptions()
	}
	if r.o.level >= levelSummary {
		r.summary(any && r.Action != Init, nAdded, nRemoved, nChanged)
	}
	if r.o.level >= levelListEntries {
		r.entries(nAdded, nRemoved, nChanged)
	}
	if nChanged > 0 && r.o.level >= levelChangedAttributes || nAdded+nRemoved > 0 && r.o.level >= levelAddedRemovedEntries {
		r.details()
	}
	if r.o.level >= levelDatabaseAttributes && len(r.Databases) > 0 {
		r.databases()
	}
	if r.o.level >= levelSummary {
		seconds := r.End.Unix() - r.Start.Unix()
		r.printf("\n\nEnd timestamp: %s (run time: %dm %ds)\n", r.time(r.End), seconds/60, seconds%60)
	}
}

func (r *report) outline(any bool) string {
	against := "database and filesystem"
	if r.Action == Compare {
		against = "the two databases"
	}
	switch {
	case r.Action == Init:
		return "AIDE successfully initialized database."
	case any:
		return "AIDE found differences between " + against + "!!"
	}
	return "AIDE found NO differences between " + against + ". Looks okay!!"
}

// configOptions are the settings that are not AIDE's defaults.
func (r *report) configOptions() {
	var settings []string
	if r.Action != Compare && r.RootPrefix != "" {
		settings = append(settings, "Root prefix: "+escape(r.RootPrefix))
	}
	if r.o.level != levelChangedAttributes {
		settings = append(settings, "Report level: "+levelNames[r.o.level])
	}
	if len(settings) > 0 {
		r.printf("%s\n", strings.Join(settings, " | "))
	}
}

// attributesThatDiffer names entries that have an attribute on one side only.
func (r *report) attributesThatDiffer() {
	for i := range r.found {
		d := &r.found[i]
		if d.old == nil || d.new == nil {
			continue
		}
		was, now := d.old.attrs&^r.o.ignoreRemoved, d.new.attrs&^r.o.ignoreAdded
		if (was^now)&(d.old.attrs^d.new.attrs) != 0 {
			r.printf("Entry %s in databases has different attributes: %s\n", escape(d.path), sum(was, now))
		}
	}
}

func (r *report) reportOptions() {
	for _, o := range []struct {
		words string
		set   attrs
		shown bool
	}{
		{"Ignored added attributes", r.o.ignoreAdded, true}, {"Ignored removed attributes", r.o.ignoreRemoved, true},
		{"Ignored changed attributes", r.o.ignoreChanged, true},
		{"Forced attributes", r.o.force, r.o.level >= levelChangedAttributes},
	} {
		if o.set != 0 && o.shown {
			r.printf("%s: %s\n", o.words, sum(0, o.set))
		}
	}
	if r.o.ignoreE2fs != 0 {
		r.printf("Ignored e2fs attributes: %s\n", strings.Trim(strings.ReplaceAll(e2fsLetters(r.o.ignoreE2fs, 0), "-", ""), ":"))
	}
}

func (r *report) summary(differs bool, nAdded, nRemoved, nChanged int) {
	if !differs {
		r.printf("\nNumber of entries:\t%d", r.total)
		return
	}
	r.printf("\nSummary:\n  Total number of entries:\t%d\n  Added entries:\t\t%d\n  Removed entries:\t\t%d\n  Changed entries:\t\t%d",
		r.total, nAdded, nRemoved, nChanged)
}

// entries lists what was added, removed and changed: a section each, or one for
// all.
func (r *report) entries(nAdded, nRemoved, nChanged int) {
	sections := []struct {
		kind kind
		n    int
		word string
	}{{added, nAdded, "Added"}, {removed, nRemoved, "Removed"}, {changed, nChanged, "Changed"}}
	if !r.o.ungrouped {
		for _, s := range sections {
			if s.n > 0 {
				r.headline(s.word + " entries")
				r.list(s.kind)
			}
		}
		return
	}
	var words []string
	for _, s := range sections {
		if s.n > 0 {
			words = append(words, s.word)
		}
	}
	if n := len(words); n > 0 {
		title := words[n-1]
		if n > 1 {
			title = strings.Join(words[:n-1], ", ") + " and " + strings.ToLower(words[n-1])
			title = title[:1] + strings.ToLower(title[1:])
		}
		r.headline(title + " entries")
		r.list(added | removed | changed)
	}
}

func (r *report) list(kinds kind) {
	for i := range r.found {
		d := &r.found[i]
		k := r.kind(d)
		switch {
		case k&kinds == 0:
		case r.o.plainList:
			r.printf("\n%s: %s", map[kind]string{added: "added", removed: "removed", changed: "changed"}[k], escape(d.path))
		default:
			r.printf("\n%s: %s", r.letters(d), escape(d.path))
		}
	}
}

// letters are the summary of one entry, a column for each attribute.
func (r *report) letters(d *difference) string {
	if d.old == nil || d.new == nil {
		only, sign := d.new, "+"
		if only == nil {
			only, sign = d.old, "-"
		}
		return string(typeNames[only.Type].letter) + strings.Repeat(sign, len(r.release.columns())-1)
	}
	out := []byte{typeNames[d.new.Type].letter}
	gone, come, both := d.old.attrs&^d.new.attrs, d.new.attrs&^d.old.attrs, d.old.attrs&d.new.attrs
	for _, c := range r.release.columns()[1:] {
		letter, same := c.letter, byte('.')
		if c.attrs == attrSize {
			same = '='
			if d.changed&^r.o.ignoreRemoved&attrSize != 0 && d.old.Size > d.new.Size {
				letter = '<'
			}
		}
		switch {
		case c.attrs&d.changed&(r.o.force|^r.o.ignoreChanged) != 0:
		case c.attrs&gone&(r.o.force|^r.o.ignoreRemoved) != 0:
			letter = '-'
		case c.attrs&come&(r.o.force|^r.o.ignoreAdded) != 0:
			letter = '+'
		case c.attrs&(gone&r.o.ignoreRemoved|come&r.o.ignoreAdded|both&r.o.ignoreChanged) != 0:
			letter = ':'
		case c.attrs&both != 0:
			letter = same
		default:
			letter = ' '
		}
		out = append(out, letter)
	}
	return string(out)
}

// details prints old and new values side by side.
func (r *report) details() {
	r.headline("Detailed information about changes")
	for i := range r.found {
		d := &r.found[i]
		switch k := r.kind(d); {
		case k == changed:
			r.attributes(d, r.shown(d))
		case r.o.level < levelAddedRemovedEntries:
		case k == added:
			r.attributes(d, d.new.attrs&^r.o.ignoreAdded)
		case k == removed:
			r.attributes(d, d.old.attrs&^r.o.ignoreRemoved)
		}
	}
}

// shown are the attributes of a changed entry that details are printed of.
func (r *report) shown(d *difference) attrs {
	set := r.visible(d)
	if r.o.level >= levelAddedRemovedAttributes {
		set |= d.new.attrs&^d.old.attrs&^r.o.ignoreAdded | d.old.attrs&^d.new.attrs&^r.o.ignoreRemoved
	}
	if set != 0 {
		set |= r.o.force
	}
	return set
}

func (r *report) attributes(d *difference, set attrs) {
	if set == 0 {
		return
	}
	newest := d.new
	if newest == nil {
		newest = d.old
	}
	r.printf("\n%s: %s\n", typeNames[newest.Type].name, escape(d.path))
	for _, c := range r.release.columns() {
		for _, n := range c.named {
			if n.attr&set != 0 {
				r.pair(n.name, r.values(d.old, n.attr), r.values(d.new, n.attr))
			}
		}
	}
}

// Widths of a line of 80: a name of 10 and two halves.
const (
	nameWidth = 10
	halfWidth = (80 - (4 + nameWidth)) / 2
)

// pair prints old and new values, cut where they do not fit. AIDE begins
// another line where a value is one byte longer than what it prints of it, and
// so leaves out a byte of a value of 65 (and 98, ...): so does this.
func (r *report) pair(name string, old, new []string) {
	const part = halfWidth - 1
	for i := range max(len(old), len(new)) {
		var was, now string
		if i < len(old) {
			was = escape(old[i])
		}
		if i < len(new) {
			now = escape(new[i])
		}
		for k := 0; len(was) >= halfWidth*k || len(now) >= halfWidth*k; k++ {
			label, colon := "", ' '
			if i+k == 0 {
				label, colon = name, ':'
			}
			left, right := piece(was, k*part, part), piece(now, k*part, part)
			switch {
			case len(old) == 0:
				r.printf(" %-*s%c %*s  %s\n", nameWidth, label, colon, halfWidth, "", right)
			case len(new) == 0:
				r.printf(" %-*s%c %s\n", nameWidth, label, colon, left)
			default:
				r.printf(" %-*s%c %s%s| %s\n", nameWidth, label, colon, left, strings.Repeat(" ", halfWidth-len(left)), right)
			}
		}
	}
}

// piece is a part of s in bytes.
func piece(s string, from, size int) string {
	if from >= len(s) {
		return ""
	}
	return s[from:min(len(s), from+size)]
}
