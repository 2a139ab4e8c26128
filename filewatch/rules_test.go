package filewatch

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const exampleRules = `
[[rule]]
path  = ["/proc/**", "/tmp/**"]
level = "ignore"

[[rule]]
name  = "logs"
path  = "/var/log/**"
type  = "file"
level = "verify"
check = ["growing", "owner", "mode"]

[[rule]]
path  = "/etc/shadow*"
level = "protect"
nodiff = true

[[rule]]
regex = '^/srv/.*\.bin$'
size  = [">=1M", "<1G"]
owner = "1000:1000"
level = "record"
check = ["sha256"]

[[rule]]
path  = "**"
level = "verify"
check = ["content", "mode", "owner", "links", "times", "xattrs"]
`

func TestRulesFirstMatchWins(t *testing.T) {
	rules, err := ParseRules([]byte(exampleRules))
	if err != nil {
		t.Fatal(err)
	}
	file := func(size int64, id uint32) *Object { return &Object{Type: TypeFile, Size: size, UID: id, GID: id} }
	for _, c := range []struct {
		path  string
		o     *Object
		level Level
		rule  string
	}{
		{"/tmp/x", file(1, 0), Ignore, "rule 1"},
		{"/var/log/syslog", file(1, 0), Verify, "logs"},
		{"/var/log/apt", &Object{Type: TypeDir}, Verify, "rule 5"},
		{"/etc/shadow", file(1, 0), Protect, "rule 3"},
		{"/srv/a.bin", file(1<<20, 1000), Record, "rule 4"},
		{"/srv/a.bin", file(1<<20, 0), Verify, "rule 5"},
		{"/srv/a.bin", file(1<<30, 1000), Verify, "rule 5"},
		{"/srv/a.bin", nil, Record, "rule 4"},
	} {
		if got := rules.Match(c.path, c.o); got.Level != c.level || got.Name != c.rule {
			t.Errorf("%s %+v: got %s from %q, want %s from %q", c.path, c.o, got.Level, got.Name, c.level, c.rule)
		}
	}
	if !rules.Match("/etc/shadow", nil).Sealed {
		t.Error("nodiff is lost")
	}
	if !rules.MatchNames([]string{"/var/log/x", "/etc/shadow"}, file(1, 0)).Sealed {
		t.Error("nodiff is lost by another name")
	}
	growing := rules.Match("/var/log/syslog", file(1, 0)).Check
	if want := AttrType | AttrGrowing | AttrUID | AttrGID | AttrMode; growing != want {
		t.Errorf("growing: got %s, want %s", growing, want)
	}
}

func TestRulesWithoutFileTakeEverything(t *testing.T) {
	var rules *Rules
	if got := rules.Match("/any", nil); got.Level != Verify || got.Check != AllAttributes {
		t.Fatalf("got %+v", got)
	}
}

// An object cannot hide from the place where it is protected behind a second
// name in a place that is ignored.
func TestStrictestNameDecides(t *testing.T) {
	rules, err := ParseRules([]byte(exampleRules))
	if err != nil {
		t.Fatal(err)
	}
	if got := rules.MatchNames([]string{"/tmp/x", "/usr/bin/x"}, &Object{Type: TypeFile}); got.Level != Verify {
		t.Fatalf("got %s", got.Level)
	}
}

func TestUnknownObjectIsNotIgnored(t *testing.T) {
	rules, err := ParseRules([]byte("[[rule]]\npath=\"/x/**\"\ntype=\"socket\"\nlevel=\"ignore\"\n[[rule]]\npath=\"**\"\nlevel=\"verify\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := rules.Match("/x/y", nil); got.Level != Verify {
		t.Fatalf("got %s", got.Level)
	}
}

func TestRulesRefused(t *testing.T) {
	for name, text := range map[string]string{
		"empty":         "",
		"unknown key":   "[[rule]]\npath=\"/x\"\nlevel=\"verify\"\npaht=\"/y\"",
		"unknown table": "[rules]\n",
		"no level":      "[[rule]]\npath=\"/x\"",
		"bad level":     "[[rule]]\npath=\"/x\"\nlevel=\"high\"",
		"bad attribute": "[[rule]]\npath=\"/x\"\nlevel=\"verify\"\ncheck=[\"md5\"]",
		"empty check":   "[[rule]]\npath=\"/x\"\nlevel=\"verify\"\ncheck=[]",
		"both":          "[[rule]]\npath=\"/x\"\nregex=\"x\"\nlevel=\"verify\"",
		"both diffs":    "[[rule]]\npath=\"/x\"\nlevel=\"verify\"\ndiff=true\nnodiff=true",
		"diff of mode":  "[[rule]]\npath=\"/x\"\nlevel=\"verify\"\ncheck=[\"mode\"]\ndiff=true",
		"bad regex":     "[[rule]]\nregex=\"(\"\nlevel=\"verify\"",
		"relative":      "[[rule]]\npath=\"etc\"\nlevel=\"verify\"",
		"bad type":      "[[rule]]\ntype=\"directory\"\nlevel=\"verify\"",
		"bad owner":     "[[rule]]\nowner=\"alice\"\nlevel=\"verify\"",
		"bad size":      "[[rule]]\nsize=\"big\"\nlevel=\"verify\"",
		"wrong type":    "[[rule]]\npath={a=1}\nlevel=\"verify\"",
		"not toml":      "[[rule",
	} {
		if r, err := ParseRules([]byte(text)); !errors.Is(err, ErrRules) || r != nil {
			t.Errorf("%s: got %v, %v", name, r, err)
		}
	}
}

func FuzzParseRules(f *testing.F) {
	f.Add([]byte(exampleRules))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRules(text)
		if (r == nil) == (err == nil) {
			t.Fatalf("value %v and error %v", r, err)
		}
		if r != nil {
			r.Match("/etc/passwd", nil)
		}
	})
}

func TestParseAttributes(t *testing.T) {
	got, err := ParseAttributes([]string{"content", "immutable"})
	if err != nil || !got.Has(AllAttributes|AttrImmutable) {
		t.Fatalf("got %s, %v", got, err)
	}
	if diff := cmp.Diff("content,owner,type", (AttrType | AttrSize | AttrContent | AttrTarget | AttrRdev | AttrUID | AttrGID).String()); diff != "" {
		t.Error(diff)
	}
}

func TestAnchoredPrefix(t *testing.T) {
	for expr, want := range map[string]string{
		"^/etc/x": "/etc/x", "^(?:/etc/x)": "/etc/x", "/etc": "", "^/a|/b": "", "^/etc/x*": "/etc/", "^/etc/(a|b)": "/etc/",
		"^/etc\\.d/[ab]": "/etc.d/", "(?i)^/etc": "", "^(/etc)?": "", "^": "", "^/a{2}b": "/",
	} {
		if got := anchoredPrefix(expr); got != want {
			t.Errorf("%s: got %q, want %q", expr, got, want)
		}
	}
}

// A name with a newline must not escape the rule for its directory.
func TestNewlineInANameDoesNotEscapeARule(t *testing.T) {
	for _, selector := range []string{`regex = "^/etc/.*$"`, `path = "/etc/**"`, `path = "/etc/*/*"`, `path = "/etc/cron.d/a?b"`, `path = "/etc/cron.d/a[!x]b"`} {
		r, err := ParseRules([]byte("[[rule]]\n" + selector + "\nlevel = \"protect\"\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Match("/etc/cron.d/a\nb", nil).Level; got != Protect {
			t.Errorf("%s: level %v", selector, got)
		}
		if got := r.Match("/var/a\n/etc/b", nil).Level; got != Ignore {
			t.Errorf("%s: another directory has level %v", selector, got)
		}
	}
}
