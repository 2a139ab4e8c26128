package main

import (
	"fmt"
	"regexp"
	"strings"

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

// oneOrMore takes any number of what name says, and not none.
func oneOrMore(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%s is missing", name)
		}
		return nil
	}
}

// atMostOne takes an argument that may be left out.
func atMostOne(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("unexpected argument %q", args[1])
	}
	return nil
}

// cobra's words for flags that are missing or do not go together, as of v1.10.
var (
	flagsRequired = regexp.MustCompile(`^required flag\(s\) (".*") not set$`)
	flagsNoneOf   = regexp.MustCompile(`^at least one of the flags in the group \[(.*)\] is required$`)
	flagsTogether = regexp.MustCompile(`^if any flags in the group \[.*\] are set none of the others can be; \[(.*)\] were all set$`)
)

// plainly says what cobra says of flags as one would type them.
func plainly(message string) string {
	dashed := func(names, between string) string {
		return "--" + strings.Join(strings.Fields(names), between+"--")
	}
	if m := flagsRequired.FindStringSubmatch(message); m != nil {
		return dashed(strings.NewReplacer(`"`, "", ",", "").Replace(m[1]), " and ") + " is missing"
	}
	if m := flagsNoneOf.FindStringSubmatch(message); m != nil {
		return "one of " + dashed(m[1], ", ") + " is missing"
	}
	if m := flagsTogether.FindStringSubmatch(message); m != nil {
		return dashed(m[1], " and ") + " do not go together"
	}
	return message
}
