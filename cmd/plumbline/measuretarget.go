package main

import (
	"context"
	"errors"
	"io"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/mem/dump"
	"github.com/plumbline-sec/plumbline/measure/mem/kcore"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// measureTarget is what can be measured.
type measureTarget interface {
	check.Machine
	Target() measure.Target
	Close() error
}

func openTarget(ctx context.Context, flags *measureFlags) (measureTarget, error) {
	if flags.dump != "" {
		d, err := dump.Open(flags.dump)
		return d, dumpError(err)
	}
	if flags.host {
		return kcore.Open()
	}
	return qemu.Open(ctx, flags.vm)
}

// dumpError tells a file that is no dump from one that cannot be read.
func dumpError(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return failHint(exitData, err, "the dump was cut short; copy it again")
	case errors.Is(err, dump.ErrFormat), errors.Is(err, dump.ErrNotSupported):
		return failHint(exitData, err, "--dump takes what virsh dump --memory-only or QEMU's dump-guest-memory without paging wrote")
	}
	return err
}
