package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
)

// maxObservations bounds references and observations in files, in bytes.
const maxObservations = 256 << 20

// readReference reads the file of --reference.
func readReference(path string) (*check.Reference, error) {
	b, err := bin.ReadFile(path, maxObservations)
	if err != nil {
		return nil, fail(exitIO, err)
	}
	r, err := check.DecodeReference(b)
	if err != nil {
		return nil, failHint(exitData, fmt.Errorf("%s: %w", path, err), "--reference takes a file that --write-reference wrote")
	}
	return r, nil
}

// writeReference writes the file of --write-reference after a scan that passed.
func writeReference(path string, report *measure.Report, obs *measure.Observations, refs *check.References) error {
	if report.Outcome != measure.Pass {
		return failHint(outcomeCode(report.Outcome), fmt.Errorf("the scan came to %q: no reference is written", report.Outcome),
			"a reference is made of a machine on which every check passes")
	}
	r, err := check.NewReference(obs, refs)
	if err != nil {
		return failHint(exitData, fmt.Errorf("no reference is written: %w", err), "stop tracing and probing, then measure again")
	}
	b, err := r.Encode()
	if err != nil {
		return err
	}
	return writeWhole(path, b)
}

// writeWhole writes a file for all to read: all of it or nothing. What is there
// and no regular file, such as /dev/stdout, is written to and not replaced.
func writeWhole(path string, b []byte) error {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return fail(exitIO, err)
		}
		return nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".plumbline-*")
	if err != nil {
		return fail(exitIO, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fail(exitIO, err)
	}
	return nil
}
