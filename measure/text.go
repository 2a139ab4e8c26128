package measure

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// WriteText writes the report for people to read. Names and values come from
// the target: control characters in them are escaped, so that a report cannot
// act on the terminal it is shown on.
func (r *Report) WriteText(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: %s\n", r.Target, strings.ToUpper(string(r.Outcome)))
	if k := r.Kernel; k.BuildID != "" {
		what := "kernel"
		if k.Kind == Xen {
			what = "Xen"
		}
		fmt.Fprintf(&b, "%s %s, build-id %s\n", what, k.Release, k.BuildID)
		fmt.Fprintf(&b, "text at %s (moved by %s), %d-level page tables, %d CPUs\n", k.TextBase, k.Slide, k.Levels, k.CPUs)
		if k.Described {
			b.WriteString("the source has no registers: the kernel was found by its own word for where it is\n")
		}
	}
	fmt.Fprintf(&b, "paused for %.1f ms of %.0f ms", r.PauseMS, r.ElapsedMS)
	if r.TotalPauseMS > r.PauseMS {
		fmt.Fprintf(&b, ", %.1f ms in all pauses", r.TotalPauseMS)
	}
	b.WriteString("\n\n")
	width := 0
	for _, c := range r.Checks {
		width = max(width, len(c.Name))
	}
	for _, c := range r.Checks {
		c.writeText(&b, width)
	}
	fmt.Fprintf(&b, "\n%s\n", r.summary())
	_, err := w.Write(escapeControls(b.Bytes()))
	return err
}

// String names the target as people know it.
func (t Target) String() string {
	for _, name := range []string{t.Name, t.Path, t.UUID} {
		if name != "" {
			return strings.TrimSpace(t.Kind + " " + name)
		}
	}
	return t.Kind
}

func (r *Report) summary() string {
	failed, missed := len(r.Failed()), len(r.Unmeasured())
	parts := []string{fmt.Sprintf("%d of %d checks passed", len(r.having(Pass)), len(r.Checks))}
	if failed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", failed))
	}
	if missed > 0 {
		parts = append(parts, fmt.Sprintf("%d not measured: that is not a pass", missed))
	}
	return strings.Join(parts, ", ")
}

// What WriteText shows of one check; the JSON form has all of it.
const (
	maxShown = 20 // findings, and notes
	maxValue = 96 // characters of an observed or expected value
)

func shorten(value string) string {
	if len(value) <= maxValue {
		return value
	}
	return fmt.Sprintf("%s... (%d characters)", value[:maxValue], len(value))
}

func (c *Check) writeText(b *bytes.Buffer, width int) {
	mark := map[Outcome]string{Pass: "pass", Fail: "FAIL", NotMeasured: "not measured"}[c.Outcome]
	fmt.Fprintf(b, "  %-12s  %-*s  %s\n", mark, width, c.Name, c.Coverage)
	if c.Reason != "" {
		fmt.Fprintf(b, "  %-12s  %s\n", "", c.Reason)
	}
	for i, f := range c.Findings {
		if i == maxShown {
			fmt.Fprintf(b, "  %-12s  and %d more findings\n", "", len(c.Findings)-i)
			break
		}
		f.writeText(b)
	}
	for i, n := range c.Notes {
		if i == maxShown {
			fmt.Fprintf(b, "  %-12s  and %d more notes\n", "", len(c.Notes)-i)
			break
		}
		fmt.Fprintf(b, "  %-12s  note: %s\n", "", strings.TrimSpace(n.place()+" "+n.Explanation))
	}
}

// String says how much was looked at, in words; nothing if nothing was.
func (c Coverage) String() string {
	var parts []string
	switch {
	case c.Objects > 0 && c.Total > c.Objects:
		parts = append(parts, fmt.Sprintf("%d of %d objects", c.Objects, c.Total))
	case c.Objects > 0:
		parts = append(parts, fmt.Sprintf("%d objects", c.Objects))
	}
	switch {
	case c.Bytes >= 1<<20:
		parts = append(parts, fmt.Sprintf("%.1f MiB", float64(c.Bytes)/(1<<20)))
	case c.Bytes >= 1<<10:
		parts = append(parts, fmt.Sprintf("%.1f KiB", float64(c.Bytes)/(1<<10)))
	case c.Bytes > 0:
		parts = append(parts, fmt.Sprintf("%d bytes", c.Bytes))
	}
	return strings.Join(parts, ", ")
}

func (f *Finding) writeText(b *bytes.Buffer) {
	const indent = "                "
	fmt.Fprintf(b, "%s%s\n", indent, strings.TrimSpace(f.place()+": "+f.Explanation))
	if f.Observed != "" {
		fmt.Fprintf(b, "%s  observed  %s\n", indent, shorten(f.Observed))
	}
	if f.Expected != "" {
		fmt.Fprintf(b, "%s  expected  %s\n", indent, shorten(f.Expected))
	}
}

// place says where a finding is: symbol and address.
func (f *Finding) place() string {
	switch {
	case f.Symbol != "" && f.Address != "":
		return f.Symbol + " at " + f.Address
	case f.Symbol != "":
		return f.Symbol
	}
	return f.Address
}

// escapeControls replaces control characters other than newline, and bytes
// that are not UTF-8, by \xNN or \u{N}.
func escapeControls(b []byte) []byte {
	var out bytes.Buffer
	for len(b) > 0 {
		r, size := rune(b[0]), 1
		if r >= 0x80 {
			r, size = utf8.DecodeRune(b)
		}
		switch {
		case r == unicode.ReplacementChar && size == 1:
			fmt.Fprintf(&out, `\x%02x`, b[0])
		case r != '\n' && !unicode.IsPrint(r):
			fmt.Fprintf(&out, `\u{%x}`, r)
		default:
			out.Write(b[:size])
		}
		b = b[size:]
	}
	return out.Bytes()
}
