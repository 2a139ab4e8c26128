//go:build !linux

package tpm

import (
	"errors"

	"github.com/google/go-tpm/tpm2/transport"
)

// Quoting is for the machines that are measured, which run Linux; appraisal
// needs no TPM and works everywhere.
func openSocket(string) (transport.TPMCloser, error) { return nil, errors.ErrUnsupported }

func openDevice(string) (transport.TPMCloser, error) { return nil, errors.ErrUnsupported }
