package main

import (
	"encoding/json"
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
