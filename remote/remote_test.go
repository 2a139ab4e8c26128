package remote

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"vm1":                    true,
		"db-01.example_org":      true,
		"":                       false,
		".hidden":                false,
		"-rf":                    false,
		"a/b":                    false,
		"a b":                    false,
		"a\x00":                  false,
		"\u00e9t\u00e9":          false,
		strings.Repeat("a", 253): true,
		strings.Repeat("a", 254): false,
	} {
		err := CheckName(name)
		if (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v, want ok %t", name, err, ok)
		}
		if err != nil && !errors.Is(err, ErrName) {
			t.Errorf("CheckName(%q) = %v, want ErrName", name, err)
		}
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add(DigestOf([]byte("x")).String())
	f.Add("")
	f.Add(strings.Repeat("A", 64))
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDigest(s)
		if err != nil {
			if d != (Digest{}) || !errors.Is(err, ErrDigest) {
				t.Errorf("ParseDigest(%q) = %v, %v: both a value and an error", s, d, err)
			}
			return
		}
		if d.String() != s {
			t.Errorf("ParseDigest(%q).String() = %q", s, d)
		}
	})
}
