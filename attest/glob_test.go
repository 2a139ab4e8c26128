package attest

import (
	"strings"
	"testing"
)

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		glob, path string
		want       bool
	}{
		{"/etc/passwd", "/etc/passwd", true},
		{"/etc/passwd", "/etc/passwd-", false},
		{"/etc/*", "/etc/passwd", true},
		{"/etc/*", "/etc/ssh/key", false},
		{"/etc/**", "/etc/ssh/key", true},
		{"/etc/*/key", "/etc/ssh/key", true},
		{"/etc/**/key", "/etc/a/b/key", true},
		{"/a/**/x*", "/a/x1/c/x2", true},
		{"/a/**/x*.so", "/a/x/x/xy.so", true},
		{"/a/**/x*.so", "/a/x/x/y.so", false},
		{"/???", "/abc", true},
		{"/?b", "//b", false},
		{"**", "", true},
		{"", "", true},
		{"", "a", false},
		{"*", "/", false},
	} {
		if got := matchGlob(c.glob, c.path); got != c.want {
			t.Errorf("%q against %q: %t", c.glob, c.path, got)
		}
	}
	// Would not end if each star multiplied the work.
	if matchGlob(strings.Repeat("**a", 200), strings.Repeat("a", 4096)+"b") {
		t.Error("a glob that ends in a matches a path that ends in b")
	}
}
