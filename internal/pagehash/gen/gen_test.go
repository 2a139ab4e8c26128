package main

import (
	"bytes"
	"os"
	"testing"
)

// The committed assembly is what this program writes.
func TestCommitted(t *testing.T) {
	got, err := os.ReadFile("../pagehash_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, Assembly()) {
		t.Error("pagehash_amd64.s is not what the generator writes: go generate ./internal/pagehash")
	}
}
