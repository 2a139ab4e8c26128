package filewatch

import "testing"

func TestEscapePath(t *testing.T) {
	for raw, want := range map[string]string{
		"/usr/bin/env":  "/usr/bin/env",
		"/a\\b":         `/a\x5cb`,
		"/\xff\xfe":     `/\xff\xfe`,
		`/\xff`:         `/\x5cxff`,
		"/ü\n":          "/ü\n",
		"/\xef\xbf\xbd": "/\xef\xbf\xbd", // U+FFFD itself is valid UTF-8
	} {
		if got := EscapePath(raw); got != want {
			t.Errorf("%q: got %q, want %q", raw, got, want)
		}
	}
	if got, want := PrintablePath("/a\x1b[31m\u202e"), `/a\x1b[31m\xe2\x80\xae`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzEscapePath(f *testing.F) {
	f.Add("/a\\b\xff")
	f.Fuzz(func(t *testing.T, raw string) {
		for _, text := range []string{EscapePath(raw), PrintablePath(raw)} {
			if back, err := UnescapePath(text); err != nil || back != raw {
				t.Fatalf("%q became %q and then %q, %v", raw, text, back, err)
			}
		}
	})
}
