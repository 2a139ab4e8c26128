package aide

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrOption: no such report option, or no such value of it.
var ErrOption = errors.New("report option")

// ReportOptions are aide.conf's options about reports. The zero value has
// AIDE's defaults.
type ReportOptions struct {
	level                                     int // 0: levelChangedAttributes
	ungrouped, plainList, base16, quiet       bool
	detailedInit                              bool
	ignoreAdded, ignoreRemoved, ignoreChanged attrs
	force                                     attrs
	ignoreE2fs                                uint32
}

// The levels of a report, from the least to the most.
const (
	levelMinimal = iota + 1
	levelSummary
	levelDatabaseAttributes
	levelListEntries
	levelChangedAttributes
	levelAddedRemovedAttributes
	levelAddedRemovedEntries
)

var levelNames = []string{"", "minimal", "summary", "database_attributes", "list_entries", "changed_attributes",
	"added_removed_attributes", "added_removed_entries"}

func (o *ReportOptions) withDefaults() *ReportOptions {
	c := *o
	if c.level == 0 {
		c.level = levelChangedAttributes
	}
	return &c
}

// Set takes one option as aide.conf writes it: "report_level=summary".
func (o *ReportOptions) Set(text string) error {
	name, value, _ := strings.Cut(text, "=")
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	var err error
	switch name {
	case "report_level":
		if o.level = slices.Index(levelNames, value); o.level < levelMinimal {
			o.level, err = 0, errors.New("want one of "+strings.Join(levelNames[1:], ", "))
		}
	case "report_grouped":
		var grouped bool
		grouped, err = yes(value)
		o.ungrouped = !grouped
	case "report_summarize_changes":
		var letters bool
		letters, err = yes(value)
		o.plainList = !letters
	case "report_base16":
		o.base16, err = yes(value)
	case "report_quiet":
		o.quiet, err = yes(value)
	case "report_detailed_init":
		o.detailedInit, err = yes(value)
	case "report_ignore_added_attrs":
		o.ignoreAdded, err = parseAttrs(value)
	case "report_ignore_removed_attrs":
		o.ignoreRemoved, err = parseAttrs(value)
	case "report_ignore_changed_attrs":
		o.ignoreChanged, err = parseAttrs(value)
	case "report_force_attrs":
		o.force, err = parseAttrs(value)
	case "report_ignore_e2fsattrs":
		o.ignoreE2fs, err = parseE2fs(value)
	default:
		return fmt.Errorf("%w %q is not known", ErrOption, name)
	}
	if err != nil {
		return fmt.Errorf("%w %s: %q: %w", ErrOption, name, value, err)
	}
	return nil
}

func yes(value string) (bool, error) {
	switch value {
	case "yes", "true":
		return true, nil
	case "no", "false":
		return false, nil
	}
	return false, errors.New("want yes or no")
}

// parseAttrs reads "l+p+sha256".
func parseAttrs(text string) (attrs, error) {
	var set attrs
	for word := range strings.SplitSeq(text, "+") {
		i := slices.Index(attrNames, word)
		if i < 0 {
			return 0, fmt.Errorf("no attribute %q; there is %s", word, strings.Join(attrNames, ", "))
		}
		set |= 1 << i
	}
	return set, nil
}

func parseE2fs(text string) (uint32, error) {
	var set uint32
next:
	for _, letter := range []byte(text) {
		for _, f := range e2fsFlags {
			if f.letter == letter {
				set |= f.bit
				continue next
			}
		}
		return 0, fmt.Errorf("no flag %q", letter)
	}
	return set, nil
}
