package console

import (
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
)

// parsePages reads the embedded templates: each page with the layout and the
// parts. They are ours, so an error is a bug that the first test sees.
func parsePages() map[string]*template.Template {
	pages := make(map[string]*template.Template)
	for _, name := range []string{"login", "error", "fleet", "retired", "machine", "scan", "boot", "events", "review"} {
		t := template.New(name).Funcs(functions)
		pages[name] = template.Must(t.ParseFS(files, "templates/layout.html", "templates/parts.html", "templates/"+name+".html"))
	}
	return pages
}

var functions = template.FuncMap{
	"clean":    clean,
	"absolute": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"iso":      func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
	"ago":      func(t time.Time) string { return ago(time.Since(t)) },
	"count":    count,
	"thousand": thousand,
	"dict":     dict,
	"deltas":   deltas,
	"hex":      spaced,
	"outcome":  outcomeOf,
	"ms":       func(v float64) string { return fmt.Sprintf("%.1f ms", v) },
	"lower":    strings.ToLower,
	"verdict":  verdictKind,
	"timeOf":   func(v any) time.Time { t, _ := v.(time.Time); return t },
	"short":    func(s string) string { return s[:min(len(s), 16)] },
	"reversed": func(s []remote.ScanEntry) []remote.ScanEntry {
		out := slices.Clone(s)
		slices.Reverse(out)
		return out
	},
}

// clean makes text from a machine harmless to look at: control characters and
// those that change the direction of writing become visible.
func clean(v any) string {
	s := fmt.Sprint(v)
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t':
			b.WriteByte(' ')
		case r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff:
			fmt.Fprintf(&b, `\u{%x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// ago says how long ago, shortly; the script says it the same way.
func ago(d time.Duration) string {
	switch {
	case d < -time.Second:
		return "in " + span(-d)
	case d < time.Second:
		return "now"
	}
	return span(d) + " ago"
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// count is a number with its noun.
func count(n any, one, many string) string {
	text := thousand(n)
	if text == "1" {
		return "1 " + one
	}
	return text + " " + many
}

// thousand writes a number in groups of three, parted by thin spaces.
func thousand(n any) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "\u2009" + digits[i:]
	}
	return digits
}

// dict hands several values to a part: dict "Key" value ...
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("dict has a key without a value")
	}
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		m[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return m, nil
}

// delta is one attribute of a file that differs.
type delta struct {
	Name     string
	Old, New string
}

// deltas reads the attributes of a change as "baseline check" prints it.
func deltas(change json.RawMessage) []delta {
	var c struct {
		Attributes map[string]struct {
			Old any `json:"old"`
			New any `json:"new"`
		} `json:"attributes"`
	}
	if json.Unmarshal(change, &c) != nil {
		return nil
	}
	var out []delta
	for name, d := range c.Attributes {
		out = append(out, delta{name, text(d.Old), text(d.New)})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return "\u2013"
	case string:
		return v
	case float64:
		return fmt.Sprintf("%.0f", v)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return string(data)
}

// spaced parts long hexadecimal text into bytes, so that it can be compared by
// eye and wraps.
func spaced(s string) string {
	if len(s) < 4 || len(s)%2 != 0 || strings.Trim(s, "0123456789abcdef") != "" {
		return clean(s)
	}
	var b strings.Builder
	for i := 0; i < len(s); i += 2 {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s[i : i+2])
	}
	return b.String()
}

// outcomeOf is how a scan ended, in one word.
func outcomeOf(s remote.ScanEntry) string {
	if s.State == remote.ScanJudged {
		return s.Outcome
	}
	return string(s.State)
}

// verdictKind sorts the verdicts on a file into good, bad, and neither.
func verdictKind(v string) string {
	switch v {
	case remote.VerdictUnchanged:
		return remote.OutcomePass
	case remote.VerdictChanged, remote.VerdictAdded, remote.VerdictRemoved:
		return remote.OutcomeFail
	case remote.VerdictPending:
		return "waiting"
	}
	return "none"
}
