package check

import (
	"errors"
	"testing"
)

// An account that changes while it is read is read again; one that is broken for
// good is no list without an entry.
func TestMadeCodeAttempts(t *testing.T) {
	broken := errors.New("list does not link back")
	for name, tt := range map[string]struct {
		failures int
		err      error
	}{"whole": {0, nil}, "changed once": {1, nil}, "broken": {moduleAttempts, broken}} {
		read := 0
		out, err := attempts(func() ([]madeFact, error) {
			if read++; read <= tt.failures {
				return nil, broken
			}
			return []madeFact{{"bpf", 0x1000}}, nil
		})
		if !errors.Is(err, tt.err) || (len(out) == 1) != (tt.err == nil) || read > moduleAttempts {
			t.Errorf("%s: %v %v, read %d times", name, out, err, read)
		}
	}
}
