package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

// key is the secret of progress files, nil without --resume. It is apart from them:
// --state may name a place where others write.
func (f *sinceFlags) key() (*baseline.ProgressKey, error) {
	if !f.resume {
		return nil, nil
	}
	key, err := baseline.LoadOrCreateProgressKey(filepath.Join(filepath.Dir(defaultKey()), "progress.key"))
	if err != nil {
		return nil, fail(exitConfig, err)
	}
	return &key, nil
}

// sayOn says on stderr what there is to say about going on.
func sayOn(stderr io.Writer) func(string) {
	return func(text string) { fmt.Fprintf(stderr, "plumbline: %s\n", printable(text)) }
}

// printResumed says what was taken over.
func printResumed(w io.Writer, r *vm.Resumed) {
	if r != nil {
		fmt.Fprintf(w, "resumed: begun %s, interrupted %s: %d contents (%d bytes) that were read before were not read again\n",
			r.Since.Format(time.RFC3339), counted(r.Times, "time"), r.Objects, r.Bytes)
	}
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// scanError gives an error of a scan its exit code and advice.
func scanError(err error) error {
	if errors.Is(err, vm.ErrInterrupted) {
		return failHint(exitIO, err, "the same command goes on from there")
	}
	return sourceError(err)
}

// resumed is what the scan took over.
func (s *source) resumed() *vm.Resumed {
	if s.tracked == nil {
		return nil
	}
	return s.tracked.Resumed()
}
