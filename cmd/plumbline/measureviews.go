package main

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
)

// writeObservations writes the file of --write-observations.
func writeObservations(path string, obs *measure.Observations) error {
	b, err := obs.Encode()
	if err != nil {
		return err
	}
	return writeWhole(path, b)
}

// compareWith adds to a report how the machine's own view of itself, the file of
// --compare, differs from what was seen from outside.
func compareWith(path string, outside *measure.Observations, report *measure.Report) error {
	b, err := bin.ReadFile(path, maxObservations)
	if err != nil {
		return fail(exitIO, err)
	}
	inside, err := measure.DecodeObservations(b)
	if err != nil {
		return failHint(exitData, fmt.Errorf("%s: %w", path, err), "--compare takes what --write-observations wrote on the machine itself")
	}
	report.Checks = append(report.Checks, check.CompareViews(inside, outside))
	report.Decide()
	return nil
}

// checkViews refuses flags that do not go together.
func (f *measureFlags) checkViews() error {
	if f.compare != "" && f.host {
		return failHint(exitArgument, errors.New("--compare needs a view from outside"), "measure with --vm, and compare with what --host wrote on that machine")
	}
	return nil
}
