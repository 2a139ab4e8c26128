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
	out := &results{w: os.Stdout}
	root.SetOut(out)
	cmd, err := root.ExecuteContextC(ctx)
	return report(os.Stderr, cmd.CommandPath(), out.told(err))
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:     "plumbline",
		Short:   "Check a hypervisor, its guests and their files from outside",
		Version: version(),
		Example: `  plumbline measure --vm /run/vm/qmp.sock --kernel /boot/vmlinuz-6.1.0-56-amd64
  plumbline baseline create --disk vm.img -f vm.baseline
  plumbline attest explain evidence.json`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return failHint(exitArgument, err, helpHint(cmd.CommandPath()))
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
	completeCompletion(root)
	return root
}

// completions are how each shell takes its script, as examples of --help.
var completions = map[string]string{
	"completion": "plumbline completion bash > /etc/bash_completion.d/plumbline",
	"bash":       "plumbline completion bash > /etc/bash_completion.d/plumbline",
	"fish":       "plumbline completion fish > ~/.config/fish/completions/plumbline.fish",
	"powershell": "plumbline completion powershell | Out-String | Invoke-Expression",
	"zsh":        "plumbline completion zsh > /usr/local/share/zsh/site-functions/_plumbline",
}

// completeCompletion gives cobra's own command what all others have: examples, and
// an error for a shell that it does not know, where it would print its help.
func completeCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	cmd, _, err := root.Find([]string{"completion"})
	if err != nil {
		return
	}
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	for _, c := range append(cmd.Commands(), cmd) {
		c.Example = "  " + completions[c.Name()]
	}
}
