// Package sortedtest makes files for tests.
package sortedtest

import (
	"bytes"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// Of is a file in memory with the given entries.
func Of(tb testing.TB, entries [][]byte) *sorted.File {
	tb.Helper()
	var out bytes.Buffer
	w := sorted.NewWriter(&out)
	for _, e := range entries {
		if _, err := w.Add(e); err != nil {
			tb.Fatal(err)
		}
	}
	ref, err := w.Finish()
	if err != nil {
		tb.Fatal(err)
	}
	file, err := sorted.Open(bytes.NewReader(out.Bytes()), ref)
	if err != nil {
		tb.Fatal(err)
	}
	return file
}
