package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

func statusCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Print the machine as up did, and whether it runs (exit code 1 if not)",
		Example: `  plumbline-lab status --dir /tmp/m1`,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			m, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			status := struct {
				Running bool `json:"running"`
				*lab.Machine
			}{m.Running(), m}
			if err := printJSON(command.OutOrStdout(), status); err != nil {
				return err
			}
			if !status.Running {
				return exitCode(exitFailed)
			}
			return nil
		},
	}
}

func hvmCommand(dir *string) *cobra.Command {
	var o lab.HVM
	command := &cobra.Command{
		Use:   "hvm",
		Short: "Make a hardware-assisted domain in a machine that boots Xen",
		Long: `Make a hardware-assisted domain with some memory, and with --run let it compute and
leave for Xen in turns; print its number. The machine's files must have the program
that makes it.`,
		Example: `  CGO_ENABLED=0 go build -o /tmp/files/ ./internal/lab/hvmdomain
  plumbline-lab up --dir /tmp/x1 --xen 4.17 --files /tmp/files
  plumbline-lab hvm --dir /tmp/x1 --cpus 2 --run`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			m, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			domain, err := m.MakeHVM(command.Context(), o)
			if err == nil {
				fmt.Fprintln(command.OutOrStdout(), domain)
			}
			return err
		},
	}
	command.Flags().IntVar(&o.CPUs, "cpus", 1, "CPUs of the domain")
	command.Flags().BoolVar(&o.Run, "run", false, "let it run")
	return command
}

func downCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		Short:   "End the machine and all that up started for it; its logs stay",
		Example: `  plumbline-lab down --dir /tmp/m1`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			m, err := lab.Open(*dir)
			if errors.Is(err, lab.ErrNoMachine) {
				return nil // down twice is down
			}
			if err != nil {
				return err
			}
			return m.Close()
		},
	}
}

func execCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "exec -- COMMAND [ARGUMENT]...",
		Short: "Run a command inside as root and pass on its output and exit code",
		Example: `  plumbline-lab exec --dir /tmp/m1 -- uname -r
  plumbline-lab exec --dir /tmp/m1 -- sh -c 'echo 1 > /sys/kernel/tracing/events/enable'`,
		Args: func(command *cobra.Command, args []string) error {
			return wrapArgument(cobra.MinimumNArgs(1)(command, args))
		},
		RunE: func(command *cobra.Command, args []string) error {
			m, err := lab.Open(*dir)
			if err != nil {
				return err
			}
			result, err := m.Exec(command.Context(), args...)
			if err != nil {
				return err
			}
			command.OutOrStdout().Write(result.Stdout)
			command.ErrOrStderr().Write(result.Stderr)
			switch {
			case result.Signal != 0:
				return exitCode(128 + result.Signal) // as a shell would
			case result.ExitCode != 0:
				return exitCode(result.ExitCode)
			}
			return nil
		},
	}
}

func wrapArgument(err error) error {
	if err == nil {
		return nil
	}
	return argumentError{err}
}
