package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
)

// Errors tell of files and machines whose names and words are somebody else's.
func TestErrorsDoNotActUponTheTerminal(t *testing.T) {
	hostile := errors.Join(fmt.Errorf("read /mnt/\x1b]0;title\x07\u009b31m: damaged"), errors.New("é, 日本 and \\x1b stay"))
	var out bytes.Buffer
	if code := report(&out, "plumbline", failHint(exitData, hostile, "look\x1b[2J")); code != exitData {
		t.Errorf("exit code %d", code)
	}
	want := `plumbline: read /mnt/\x1b]0;title\x07\xc2\x9b31m: damaged
é, 日本 and \x1b stay
hint: look\x1b[2J
`
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

// A signal is no fault of the target or the verifier.
func TestInterruptIsCalledOne(t *testing.T) {
	ended := fmt.Errorf("read: %w", context.Canceled)
	for _, err := range []error{measureError(ended), askError(ended)} {
		var out bytes.Buffer
		if code := report(&out, "plumbline", err); code != exitIO || out.String() != "plumbline: interrupted\n" {
			t.Errorf("%d, %q", code, out.String())
		}
	}
}
