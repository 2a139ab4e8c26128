// Package tpm collects attestation evidence from a TPM 2.0: its endorsement
// key and certificate, an attestation key, quotes and PCR values.
//
// It judges nothing; that is package attest's part. It needs read and write
// access to /dev/tpmrm0 (or to the socket of a software TPM) and no other
// privilege, except that the kernel lets only root read its logs.
package tpm
