package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/kcore"
)

// measureFlags are the flags of "measure".
type measureFlags struct {
	vm, dump       string
	host           bool
	kernel         string
	modules        string
	reference      string
	writeReference string
	observations   string
	compare        string
	output         *string
	progress       string
	checks         []string
}

func measureCommand() *cobra.Command {
	var flags measureFlags
	cmd := &cobra.Command{
		Use:   "measure (--vm QMP_SOCKET | --dump FILE | --host)",
		Short: "Measure a kernel's memory from outside and judge it",
		Long: `Measure reads the memory and registers of a target from outside, once, and
judges what it finds. The target stands still twice, for a millisecond or two: while
small tables are read, and while QEMU writes the state of its devices, which is
where the registers of system calls are. It needs no agent and no symbols.

With --kernel, the kernel's file, every changed byte of its text and read-only
data is explained; with --modules, a lib/modules/VERSION directory, that of its
modules too. Without them those checks are not measured, and the exit code says
so.

A target that runs Xen is recognized and measured by the xen.* checks in place of
the others; --kernel then takes Xen's file, such as /boot/xen-4.17-amd64.gz. Its
domains' kernels are not measured, dom0's included.

A dump is measured as it lies: its registers lack EFER, the debug registers and
those of system calls, so that linux.registers and linux.msrs are not measured.
Without registers (LiME, raw, makedumpfile) the kernel is found by its own word
for where it is, and linux.gdt is not measured either.

With --host the machine measures itself, through /proc/kcore: its kernel's own
word. Nothing stands still, and what needs control registers is not measured;
the registers of system calls need the msr module. Its value lies in comparing:
--write-observations on the machine, then --compare on its host shows where the
machine does not show its memory as it is.

A reference (--write-reference after a scan on which every check passes) stands
in for --kernel on machines with the same kernel and CPU model.

Exit codes: 0 every check passed, 1 a check failed, 40 a check was not measured,
15 an argument is wrong, 18 the target cannot be read, 24 a dump, a reference or a
file of observations is damaged.`,
		Example: `  plumbline measure --vm /run/vm/qmp.sock --kernel /boot/vmlinuz-6.1.0-56-amd64 \
      --modules /lib/modules/6.1.0-56-amd64
  plumbline measure --vm /run/vm/qmp.sock -o json | jq .outcome
  plumbline measure --host --write-observations inside.json
  plumbline measure --vm /run/vm/qmp.sock --compare inside.json
  plumbline measure --vm /run/xen/qmp.sock --kernel /boot/xen-4.17-amd64.gz
  plumbline measure --dump vm.elf --kernel /boot/vmlinuz-6.1.0-56-amd64`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			drawn, err := newProgress(cmd.ErrOrStderr(), flags.progress, since("measuring"))
			if err != nil {
				return err
			}
			report, err := runMeasure(cmd.Context(), &flags)
			drawn.stop()
			if report != nil {
				if err := printMeasure(cmd.OutOrStdout(), report, *flags.output); err != nil {
					return fail(exitIO, err)
				}
			}
			if err != nil {
				return measureError(err)
			}
			return verdict(outcomeCode(report.Outcome))
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.vm, "vm", "", "QEMU's QMP `SOCKET`")
	f.StringVar(&flags.dump, "dump", "", "memory dump `FILE`")
	f.BoolVar(&flags.host, "host", false, "this machine")
	f.StringVar(&flags.kernel, "kernel", "", "vmlinuz, vmlinux or Xen `FILE` the target should run")
	f.StringVar(&flags.modules, "modules", "", "lib/modules/VERSION `DIR` with the modules it should have loaded")
	f.StringVar(&flags.reference, "reference", "", "compare with the reference `FILE`")
	f.StringVar(&flags.writeReference, "write-reference", "", "write a reference `FILE` if every check passes")
	f.StringVar(&flags.observations, "write-observations", "", "write what was observed to `FILE`")
	f.StringVar(&flags.compare, "compare", "", "compare with `FILE`, which --host --write-observations wrote on the machine itself")
	f.StringSliceVar(&flags.checks, "check", nil, "run only these `CHECKS` (default all)")
	cmd.MarkFlagsOneRequired("vm", "dump", "host")
	cmd.MarkFlagsMutuallyExclusive("vm", "dump", "host")
	cmd.RegisterFlagCompletionFunc("check", cobra.FixedCompletions(check.Names(), cobra.ShellCompDirectiveNoFileComp))
	flags.output = outputFlag(cmd, "text", "json", "ndjson")
	progressFlag(cmd, &flags.progress)
	return cmd
}

// runMeasure scans and judges. A report comes with an error when it is whole and
// only what was to be made of it failed.
func runMeasure(ctx context.Context, flags *measureFlags) (*measure.Report, error) {
	for _, name := range flags.checks {
		if !slices.Contains(check.Names(), name) {
			return nil, failHint(exitArgument, fmt.Errorf("unknown check %q", name), "checks are "+strings.Join(check.Names(), ", "))
		}
	}
	if err := flags.checkViews(); err != nil {
		return nil, err
	}
	refs, err := measureReferences(flags)
	if err != nil {
		return nil, err
	}
	target, err := openTarget(ctx, flags)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	result, err := check.Scan(ctx, target, &check.Options{Target: target.Target(), Checks: flags.checks})
	if err != nil {
		return nil, err
	}
	if err := refs.fits(result.Observations); err != nil {
		return nil, err
	}
	if flags.observations != "" {
		if err := writeObservations(flags.observations, result.Observations); err != nil {
			return nil, err
		}
	}
	refs.Pages = result.Pages
	refs.Checks = flags.checks
	report, err := check.Judge(result.Observations, &refs.References)
	if err == nil && flags.compare != "" {
		err = compareWith(flags.compare, result.Observations, report)
	}
	if err != nil {
		return nil, err
	}
	if flags.writeReference != "" {
		err = writeReference(flags.writeReference, report, result.Observations, &refs.References)
	}
	return report, err
}

// monitorHint is for a monitor that somebody else holds.
const monitorHint = "another program holds this QMP socket; give QEMU a second -qmp socket"

// measureError gives an error its exit code and hint.
func measureError(err error) error {
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		return err
	case errors.Is(err, context.Canceled):
		return fail(exitIO, errInterrupted)
	case errors.Is(err, mem.ErrNotShared):
		return failHint(exitIO, err, "run as root or as QEMU's user, or start the VM with -object memory-backend-file,share=on")
	case errors.Is(err, qmp.ErrBusy):
		return failHint(exitIO, err, monitorHint)
	case errors.Is(err, kernel.ErrOtherBuild):
		return failHint(exitArgument, err, "give the image and modules that the target booted")
	case errors.Is(err, kcore.ErrNoKcore):
		return failHint(exitIO, err, "it needs a kernel with CONFIG_PROC_KCORE and a mounted /proc")
	case errors.Is(err, fs.ErrPermission):
		return failHint(exitIO, err, "reading the memory of a machine or of another process needs root, or the process's user")
	}
	return fail(exitIO, err)
}

func printMeasure(w io.Writer, r *measure.Report, format string) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	case "ndjson":
		return printChecks(w, r)
	}
	return r.WriteText(w)
}

// printChecks prints one check a line, then the report without its checks.
func printChecks(w io.Writer, r *measure.Report) error {
	enc := json.NewEncoder(w)
	for _, c := range r.Checks {
		if err := enc.Encode(c); err != nil {
			return err
		}
	}
	last := struct {
		*measure.Report
		Checks *struct{} `json:"checks,omitempty"`
	}{Report: r}
	return enc.Encode(last)
}
