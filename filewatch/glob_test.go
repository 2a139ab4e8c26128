package filewatch

import (
	"regexp"
	"strings"
	"testing"
)

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"/etc/**", []string{"/etc/passwd", "/etc/ssh/sshd_config"}, []string{"/etc", "/etcx", "/usr/etc/x"}},
		{"/etc/*", []string{"/etc/passwd"}, []string{"/etc/ssh/sshd_config", "/etc"}},
		{"/etc", []string{"/etc"}, []string{"/etc/passwd"}},
		{"/etc{,/**}", []string{"/etc", "/etc/a/b"}, []string{"/etcx"}},
		{"**", []string{"/", "/a", "/a/b"}, nil},
		{"/**/id_rsa", []string{"/id_rsa", "/root/.ssh/id_rsa"}, []string{"/root/xid_rsa"}},
		{"**/*.so", []string{"/usr/lib/x.so", "/x.so"}, []string{"/usr/x.so.1"}},
		{"/usr/**/bin/*", []string{"/usr/bin/a", "/usr/local/bin/a"}, []string{"/usr/local/xbin/a", "/usr/bin/a/b"}},
		{"/lib/**.ko", []string{"/lib/a.ko", "/lib/m/a.ko"}, []string{"/lib/a.kox"}},
		{"/[a-c]?", []string{"/ax", "/cz"}, []string{"/dx", "/a/", "/a"}},
		{"/[!a]x", []string{"/bx"}, []string{"/ax", "//x"}},
		{`/\*`, []string{"/*"}, []string{"/a"}},
		{"/a*b*c", []string{"/abc", "/axbxbxc"}, []string{"/ab/c", "/abcd"}},
		{"/\xff*", []string{"/\xff\xfe"}, []string{"/a"}},
	} {
		globs, err := parseGlobs(c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		match := func(s string) bool {
			for i := range globs {
				if globs[i].match(s) {
					return true
				}
			}
			return false
		}
		for _, s := range c.yes {
			if !match(s) {
				t.Errorf("%q does not match %q", c.pattern, s)
			}
		}
		for _, s := range c.no {
			if match(s) {
				t.Errorf("%q matches %q", c.pattern, s)
			}
		}
	}
}

func TestGlobRefuses(t *testing.T) {
	for _, p := range []string{"etc/*", "/[a", `/a\`, "/{a", "/}", "/" + strings.Repeat("{a,b}", 20)} {
		if _, err := parseGlobs(p); err == nil {
			t.Errorf("%q was accepted", p)
		}
	}
}

// FuzzGlob compares the matcher with a regular expression of the same meaning.
func FuzzGlob(f *testing.F) {
	f.Add("/a/**/b*", "/a/x/y/bz")
	f.Add("/**/a/**/b", "/a/b/a/b")
	f.Add("/**a*/**b", "/xa/b")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if strings.ContainsAny(pattern, `[]\{},`) || !strings.HasPrefix(pattern, "/") || strings.Contains(pattern, "***") ||
			len(pattern) > 20 || len(name) > 30 {
			return
		}
		globs, err := parseGlobs(pattern)
		if err != nil {
			t.Fatal(err)
		}
		var re strings.Builder
		re.WriteString(`(?s)\A`)
		for i := 0; i < len(pattern); {
			switch p := pattern[i:]; {
			case strings.HasPrefix(p, "**/") && pattern[i-1] == '/':
				re.WriteString(`(.*/)?`)
				i += 3
			case p == "**" && !strings.ContainsAny(pattern[:i], "*?"):
				re.WriteString(`.+`)
				i += 2
			case strings.HasPrefix(p, "**"):
				re.WriteString(`.*`)
				i += 2
			case p[0] == '*':
				re.WriteString(`[^/]*`)
				i++
			case p[0] == '?':
				re.WriteString(`[^/]`)
				i++
			default:
				re.WriteString(regexp.QuoteMeta(p[:1]))
				i++
			}
		}
		re.WriteString(`\z`)
		expr, err := regexp.Compile(re.String())
		if err != nil {
			return // not UTF-8
		}
		for _, c := range name {
			if c >= 0x80 {
				return // "?" is a byte here and a rune there
			}
		}
		if want, got := expr.MatchString(name), globs[0].match(name); want != got {
			t.Fatalf("%q on %q: got %v, the regular expression says %v", pattern, name, got, want)
		}
	})
}
