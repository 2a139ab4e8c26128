package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// outputFlag adds -o with the formats a command has; the first is the default.
// A format that the command does not have is an invalid argument.
func outputFlag(cmd *cobra.Command, formats ...string) *string {
	value := &formatValue{format: formats[0], formats: formats}
	cmd.Flags().VarP(value, "output", "o", "`FORMAT` of the result: "+strings.Join(formats, ", "))
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return &value.format
}

type formatValue struct {
	format  string
	formats []string
}

func (v *formatValue) String() string { return v.format }
func (v *formatValue) Type() string   { return "format" }

func (v *formatValue) Set(s string) error {
	if !slices.Contains(v.formats, s) {
		return fmt.Errorf("no such format; there is %s", strings.Join(v.formats, ", "))
	}
	v.format = s
	return nil
}

// results is standard output. It remembers that a write failed: whatever a command
// came to, its exit code must not stand for a report that nobody could read.
type results struct {
	w   io.Writer
	err error // of the first write that failed
}

func (r *results) Write(b []byte) (int, error) {
	n, err := r.w.Write(b)
	if err != nil && r.err == nil {
		r.err = err
	}
	return n, err
}

// told is what a command ended with, or that its results were not written, unless it
// ended with another error.
func (r *results) told(err error) error {
	var exit *exitError
	if r.err == nil || err != nil && !errors.Is(err, r.err) && !(errors.As(err, &exit) && exit.err == nil) {
		return err
	}
	return fail(exitIO, r.err)
}

// writeLines prints each of all as one line of JSON.
func writeLines[T any](w io.Writer, all []T) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, v := range all {
		if err := enc.Encode(v); err != nil {
			return fail(exitIO, err)
		}
	}
	return nil
}

// writeJSON prints v as people can read it and programs parse it.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fail(exitIO, err)
	}
	return nil
}
