package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// tpmAuthority makes the certificate authority that signs the EK certificates
// of all lab TPMs of this cache, and returns its directory. ca.pem there holds
// root and intermediate.
func tpmAuthority(ctx context.Context, cache string) (string, error) {
	return cached(ctx, cache, "tpm-ca", func(dir string) error {
		// swtpm_localca makes its authority with the first certificate: make
		// one for a TPM that is thrown away.
		scratch, err := os.MkdirTemp("", "plumbline-tpm-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(scratch)
		if err := makeTPM(ctx, dir, scratch); err != nil {
			return err
		}
		root, err := os.ReadFile(filepath.Join(dir, "swtpm-localca-rootca-cert.pem"))
		if err != nil {
			return err
		}
		issuer, err := os.ReadFile(filepath.Join(dir, "issuercert.pem"))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "ca.pem"), append(root, issuer...), 0o644)
	})
}

// makeTPM manufactures a TPM in state: seeds, EK certificate and platform
// certificate, signed by the authority.
func makeTPM(ctx context.Context, authority, state string) error {
	localca := filepath.Join(state, "localca.conf")
	options := filepath.Join(state, "localca.options")
	setup := filepath.Join(state, "setup.conf")
	texts := map[string]string{
		localca: fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", authority),
		options: "--platform-manufacturer Plumbline\n--platform-version 1\n--platform-model Lab\n",
		setup:   fmt.Sprintf("create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\nactive_pcr_banks = sha256\n", localca, options),
	}
	for path, text := range texts {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	// The authority counts serial numbers in a file: one TPM at a time.
	unlock, err := lockFile(ctx, filepath.Clean(authority)+".serial.lock")
	if err != nil {
		return err
	}
	defer unlock()
	return run(ctx, "", "swtpm_setup", "--tpm2", "--tpmstate", state, "--config", setup,
		"--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--overwrite", "--pcr-banks", "sha256")
}

// startTPM runs a TPM for a VM: QEMU drives it through the control socket, and
// it ends when QEMU does.
func startTPM(ctx context.Context, state, control, log string) (Process, error) {
	p, err := startProcess("swtpm", log, "swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+state, "--ctrl", "type=unixio,path="+control, "--terminate")
	return p, errors.Join(err, waitFor(ctx, p, control))
}

// startHostTPM runs the TPM of the measuring host: it is on already, as after
// a host's boot, and takes TPM commands on the data socket.
func startHostTPM(ctx context.Context, state, control, data, log string) (Process, error) {
	p, err := startProcess("host-swtpm", log, "swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+state, "--ctrl", "type=unixio,path="+control,
		"--server", "type=unixio,path="+data, "--flags", "not-need-init,startup-clear")
	return p, errors.Join(err, waitFor(ctx, p, data))
}

// waitFor waits until a process listens on a Unix socket. It does not connect:
// swtpm takes the end of a connection for the end of its work.
func waitFor(ctx context.Context, p Process, path string) error {
	for {
		listening, err := listens(path)
		if listening || err != nil {
			return err
		}
		if !p.alive() {
			return fmt.Errorf("%s ended before it listened on %s", p.Name, path)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: wait for %s: %w", p.Name, path, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// listens looks the socket up in /proc/net/unix (proc(5)): "address: refcount
// protocol flags type state inode path", flags in hexadecimal. The file's
// existence would not do, for it is there from bind, before listen.
func listens(path string) (bool, error) {
	const acceptsConnections = "00010000" // __SO_ACCEPTCON, include/linux/net.h
	data, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 8 && fields[7] == path && fields[3] == acceptsConnections {
			return true, nil
		}
	}
	return false, nil
}
