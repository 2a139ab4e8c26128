package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/baseline/aide"
)

func baselineImportCommand() *cobra.Command {
	var o aide.Options
	var version string
	cmd := &cobra.Command{
		Use:   "import AIDE_CONF",
		Short: "Turn AIDE's configuration into rules",
		Long: `Import reads an aide.conf (AIDE 0.18 or 0.19) with what it includes and prints
rules. What cannot be said in rules is named on standard error: programs that AIDE
would run, attributes that are not kept, types of file systems, variables that such
programs would define. The two leave other things out by the same line (!/path$):
--aide-version says whose configuration it is; without it lines are taken as 0.19
does, and those that 0.18 takes otherwise are named.`,
		Example: `  plumbline baseline import /etc/aide/aide.conf > rules.toml
  /etc/aide/aide.conf.d/10_aide_hostname > outputs/10_aide_hostname; plumbline baseline import --aide-outputs outputs /etc/aide/aide.conf > rules.toml
  plumbline baseline import --aide-version 0.18 --aide-root copy copy/etc/aide/aide.conf > rules.toml`,
		Args: arguments("AIDE_CONF"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("hostname") {
				o.Hostname, _ = os.Hostname() // "" matches no @@if hostname
			}
			switch version {
			case "":
			case "0.18":
				o.Release = aide.Release018
			case "0.19":
				o.Release = aide.Release019
			default:
				return fail(exitArgument, fmt.Errorf("--aide-version %q: there is 0.18 and 0.19", version))
			}
			c, err := aide.Import(args[0], &o)
			if err != nil {
				return fail(exitConfig, err)
			}
			for _, r := range c.Refused {
				fmt.Fprintf(cmd.ErrOrStderr(), "plumbline: not imported: %s\n", r)
			}
			if _, err := cmd.OutOrStdout().Write(c.TOML()); err != nil {
				return fail(exitIO, err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&o.Root, "aide-root", "", "`DIR` to put before the paths of included files")
	cmd.Flags().StringVar(&o.Outputs, "aide-outputs", "", "`DIR` with what the programs that AIDE would run have printed, by their names")
	cmd.Flags().StringToStringVar(&o.Defines, "define", nil, "define the macro `NAME=VALUE` first")
	cmd.Flags().StringVar(&version, "aide-version", "", "the configuration is for AIDE `VERSION`: 0.18 or 0.19")
	cmd.Flags().StringVar(&o.Hostname, "hostname", "", "`NAME` that @@if hostname is compared with, and @@{HOSTNAME}; default: this machine's")
	return cmd
}
