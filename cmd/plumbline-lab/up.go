package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

func upCommand(dir *string) *cobra.Command {
	var o lab.Options
	var memory string
	var noBMC, noPlugin bool
	command := &cobra.Command{
		Use:   "up",
		Short: "Boot a machine and print how to reach it, as one JSON object",
		Long: `Boot a machine and print how to reach it, as one JSON object.

The first run builds the machine's image from Debian packages; it is kept in
$PLUMBLINE_CACHE, or the user's cache directory, and built again when its
recipe changes.`,
		Example: `  plumbline-lab up --dir /tmp/m1 | jq -r .qmp
  plumbline-lab up --dir /tmp/m2 --kernel trixie --memory 4G --smp 4
  plumbline-lab up --dir /tmp/m3 --xen 4.17`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			var err error
			if o.Memory, err = parseSize(memory); err != nil {
				return argumentError{err}
			}
			if !slices.Contains(lab.KernelNames(), o.Kernel) {
				return argumentError{fmt.Errorf("unknown kernel %q, want one of %s", o.Kernel, strings.Join(lab.KernelNames(), ", "))}
			}
			if o.Xen != "" && !slices.Contains(lab.XenVersions(), o.Xen) {
				return argumentError{fmt.Errorf("unknown version of Xen %q, want one of %s", o.Xen, strings.Join(lab.XenVersions(), ", "))}
			}
			o.Dir, o.Log = *dir, progress{}
			if !noPlugin && o.Xen == "" {
				o.Plugin = trapPlugin()
			}
			if !noBMC && o.Xen == "" {
				o.BMC = bmcArguments
			}
			m, err := lab.Start(command.Context(), o)
			if err != nil {
				return err
			}
			return printJSON(command.OutOrStdout(), m)
		},
	}
	flags := command.Flags()
	flags.StringVar(&o.Kernel, "kernel", lab.DefaultKernel, "`KERNEL`: "+strings.Join(lab.KernelNames(), ", "))
	flags.StringVar(&o.Xen, "xen", "", "boot this `VERSION` of Xen, the kernel as its first domain's: "+strings.Join(lab.XenVersions(), ", "))
	flags.StringVar(&o.CPU, "cpu", "", "CPU `MODEL` under TCG (default "+lab.DefaultCPU+", with Xen "+lab.DefaultXenCPU+")")
	flags.StringVar(&o.UKI, "uki", "", "signed kernel `IMAGE`: default, other (another command line)")
	flags.StringVar(&o.Append, "append", "", "boot from QEMU's hand instead of UEFI, with `WORDS` added to the kernel's command line")
	flags.StringVar(&memory, "memory", "1G", "RAM of `SIZE`, with suffix M or G")
	flags.IntVar(&o.CPUs, "smp", 2, "virtual CPUs")
	flags.BoolVar(&o.PrivateRAM, "private-ram", false, "keep RAM private to QEMU instead of in a shared file")
	flags.StringVar(&o.Files, "files", "", "`DIR` that the guest finds read-only in /opt/plumbline")
	flags.BoolVar(&noBMC, "no-bmc", false, "start no BMC; leave its socket to an agent")
	flags.BoolVar(&noPlugin, "no-plugin", false, "do not load the trap plugin")
	return command
}

// trapPlugin is the QEMU plugin beside this program, if it was built.
func trapPlugin() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	plugin := filepath.Join(filepath.Dir(self), "plumbline-trap.so")
	if _, err := os.Stat(plugin); err != nil {
		return ""
	}
	return plugin
}

// parseSize reads a size in bytes with a suffix M or G.
func parseSize(text string) (int64, error) {
	number, shift := text, 0
	switch {
	case strings.HasSuffix(text, "M"):
		number, shift = text[:len(text)-1], 20
	case strings.HasSuffix(text, "G"):
		number, shift = text[:len(text)-1], 30
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("size %q: want a number with M or G", text)
	}
	return n << shift, nil
}

func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
