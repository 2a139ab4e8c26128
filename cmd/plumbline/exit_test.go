package main

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// Errors tell of files and machines whose names and words are somebody else's.
func TestErrorsDoNotActUponTheTerminal(t *testing.T) {
	hostile := errors.Join(fmt.Errorf("read /mnt/\x1b]0;title\x07\u009b31m: damaged"), errors.New("é, 日本 and \\x1b stay"))
	var out bytes.Buffer
	if code := report(&out, "plumbline", failHint(exitData, hostile, "look")); code != exitData {
		t.Errorf("exit code %d", code)
	}
	want := `plumbline: read /mnt/\x1b]0;title\x07\xc2\x9b31m: damaged
é, 日本 and \x1b stay
hint: look
`
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}
