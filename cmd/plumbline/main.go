// Command plumbline tells from outside whether a machine that runs virtual
// machines, and the machines it runs, are still what they should be.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	return report(os.Stderr, root.ExecuteContext(ctx))
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "plumbline",
		Short:         "Check a hypervisor, its guests and their files from outside",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fail(exitArgument, err)
	})
	root.AddCommand(
		agentCommand(),
		attestCommand(),
		baselineCommand(),
		eventsCommand(),
		hostsCommand(),
		manCommand(),
		measureCommand(),
		reviewCommand(),
		scanCommand(),
		verifierCommand(),
		watchCommand(),
	)
	return root
}
