package console

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/remote"
)

func TestPagesParse(t *testing.T) {
	if n := len(parsePages()); n != 9 {
		t.Errorf("%d pages", n)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain /etc/motd":     "plain /etc/motd",
		"\x1b[2J\x07":         `\u{1b}[2J\u{7}`,
		"a\u202egpj.exe":      `a\u{202e}gpj.exe`,
		"zero\u200bwidth":     `zero\u{200b}width`,
		"two\nlines":          "two lines",
		"caf\u00e9 \u65e5":    "caf\u00e9 \u65e5",
		"<b>":                 "<b>", // html/template escapes it
		"\u0085next\ufeffbom": `\u{85}next\u{feff}bom`,
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "now", 5 * time.Second: "5 s ago", 90 * time.Second: "1 min ago", 26 * time.Hour: "26 h ago",
		72 * time.Hour: "3 days ago", -10 * time.Minute: "in 10 min",
	} {
		if got := ago(d); got != want {
			t.Errorf("ago(%s) = %q, want %q", d, got, want)
		}
	}
}

func TestDeltas(t *testing.T) {
	got := deltas(json.RawMessage(`{"attributes":{"size":{"old":3,"new":4},"mode":{"old":"0644","new":null}}}`))
	want := []delta{{"mode", "0644", "\u2013"}, {"size", "3", "4"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := deltas(json.RawMessage("{")); got != nil {
		t.Errorf("broken JSON gives %v", got)
	}
}

func TestLocalPath(t *testing.T) {
	for in, want := range map[string]string{
		"/machines/vm1?x=1": "/machines/vm1?x=1", "": "/", "https://evil/": "/", "//evil/": "/", `/\evil`: "/", "javascript:x": "/", "x": "/",
	} {
		if got := localPath(in); got != want {
			t.Errorf("localPath(%q) = %q, want %q", in, got, want)
		}
	}
}

// Nothing in a page is inline, which the policy would forbid.
func TestTemplatesHaveNothingInline(t *testing.T) {
	pages, err := files.ReadDir("templates")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		text, err := files.ReadFile("templates/" + page.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, inline := range []string{" style=", "<style", " onclick=", " onload=", "<script>", "javascript:", "http://", "https://"} {
			if strings.Contains(string(text), inline) {
				t.Errorf("%s has %q", page.Name(), inline)
			}
		}
	}
}

// An event that nobody saw is shown with the time since when it may have been done, and
// why it is not known who did it.
func TestEventOfADiskHasItsWindow(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 1, 0, time.UTC)
	seen := remote.FileEvent{ID: "a", Time: at, Op: "write", Path: "/a", Actor: "unknown: the disk <does> not say", Verdict: remote.VerdictChanged}
	found := seen
	found.Since = at.Add(-time.Second)
	for _, c := range []struct {
		event  remote.FileEvent
		window bool
	}{{seen, false}, {found, true}} {
		var b strings.Builder
		if err := parsePages()["events"].ExecuteTemplate(&b, "fileevents", map[string]any{"Events": []remote.FileEvent{c.event}, "Machines": false}); err != nil {
			t.Fatal(err)
		}
		if page := b.String(); strings.Contains(page, "done after") != c.window || strings.Contains(page, "2026-03-01 12:00:00 UTC") != c.window ||
			!strings.Contains(page, "unknown: the disk &lt;does&gt; not say") {
			t.Errorf("window %v:\n%s", c.window, page)
		}
	}
}

// What people accepted as not measured is not shown as compared.
func TestAcceptedGapsAreTold(t *testing.T) {
	m := remote.Machine{Name: "vm1", Files: remote.Files{Baseline: "d", Watched: true}}
	for _, gaps := range []int{0, 1} {
		m.Files.Accepted = make([]remote.AcceptedGap, gaps)
		for page, data := range map[string]any{
			"fleet":   map[string]any{"States": nil, "Counts": nil, "Machines": []remote.Machine{m}},
			"machine": map[string]any{"M": &remote.MachineDetail{Machine: m}},
		} {
			var b strings.Builder
			err := parsePages()[page].ExecuteTemplate(&b, "content", &view{Data: data, Session: &Session{}})
			if err != nil {
				t.Fatal(err)
			}
			if text := b.String(); !strings.Contains(text, "as baseline") || strings.Contains(text, "as baseline but for 1 accepted gap<") != (gaps == 1) {
				t.Errorf("%s, %d gaps:\n%s", page, gaps, text)
			}
		}
	}
}
