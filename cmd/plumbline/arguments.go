package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// arguments takes exactly one argument for each name, in the words of the usage
// line, and says which one is missing or too many.
func arguments(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}
