// Package tpmtest runs software TPMs (swtpm) for tests, each with an
// endorsement key certificate from a CA of its own.
package tpmtest

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// Emulator is a running swtpm.
type Emulator struct {
	Path  string // unix data socket, for tpm.Open
	Roots *x509.CertPool
	// Intermediates of the CA, which swtpm's certificates need.
	Intermediates *x509.CertPool
	// RootFile and IntermediateFile are the CA's certificates in PEM.
	RootFile, IntermediateFile string

	control string
}

// Start makes a TPM with a sha256 bank and an RSA endorsement key certificate,
// and runs it, started up, until the test ends. A machine without swtpm
// fails the test.
func Start(t testing.TB) *Emulator {
	t.Helper()
	// t.TempDir has the test's name in it and can exceed the 107 bytes a unix
	// socket's path may have.
	dir, err := os.MkdirTemp("", "plumbline-tpm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := &Emulator{
		Path:             filepath.Join(dir, "data"),
		RootFile:         filepath.Join(dir, "ca", "swtpm-localca-rootca-cert.pem"),
		IntermediateFile: filepath.Join(dir, "ca", "issuercert.pem"),
		control:          filepath.Join(dir, "ctrl"),
	}
	manufacture(t, dir)
	e.Roots = readPool(t, e.RootFile)
	e.Intermediates = readPool(t, e.IntermediateFile)
	e.run(t, dir)
	return e
}

// manufacture runs swtpm_setup with a private CA, so that tests neither need
// root nor share a serial-number file.
func manufacture(t testing.TB, dir string) {
	t.Helper()
	ca, state := filepath.Join(dir, "ca"), filepath.Join(dir, "state")
	for _, d := range []string{ca, state} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	localca := filepath.Join(dir, "localca.conf")
	write(t, localca, fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/serial\n", ca))
	setup := filepath.Join(dir, "setup.conf")
	write(t, filepath.Join(dir, "options"), "--platform-manufacturer Plumbline\n--platform-version 1\n--platform-model test\n")
	write(t, setup, fmt.Sprintf("create_certs_tool = swtpm_localca\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n", localca, filepath.Join(dir, "options")))
	out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", state, "--config", setup,
		"--create-ek-cert", "--lock-nvram", "--overwrite", "--pcr-banks", "sha256").CombinedOutput()
	if err != nil {
		t.Fatalf("swtpm_setup (packages swtpm, swtpm-tools): %v\n%s", err, out)
	}
}

func (e *Emulator) run(t testing.TB, dir string) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+filepath.Join(dir, "state"),
		"--server", "type=unixio,path="+e.Path, "--ctrl", "type=unixio,path="+e.control,
		"--flags", "not-need-init,startup-clear")
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("swtpm: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("swtpm ended: %v\n%s", err, stderr.Bytes())
		default:
		}
		// The socket's name is there a moment before someone listens on it.
		if conn, err := net.Dial("unix", e.Path); err == nil {
			conn.Close()
			return
		}
	}
	t.Fatalf("swtpm made no socket: %s", stderr.Bytes())
}

// Reset is a reboot of the machine that holds the TPM: PCRs start anew and the
// reset count rises.
func (e *Emulator) Reset(t testing.TB) {
	t.Helper()
	conn, err := net.Dial("unix", e.control)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// CMD_INIT, flags 0 (swtpm_ioctls(3)); the answer is a result code.
	const cmdInit = 2
	if err := binary.Write(conn, binary.BigEndian, []uint32{cmdInit, 0}); err != nil {
		t.Fatal(err)
	}
	var result [4]byte
	if _, err := io.ReadFull(conn, result[:]); err != nil || result != [4]byte{} {
		t.Fatalf("swtpm CMD_INIT: result %x, %v", result, err)
	}
	if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(e.open(t)); err != nil {
		t.Fatalf("TPM2_Startup: %v", err)
	}
}

// open returns a connection per command: nothing to close.
func (e *Emulator) open(t testing.TB) transport.TPM {
	t.Helper()
	conn, err := linuxudstpm.Open(e.Path)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func readPool(t testing.TB, path string) *x509.CertPool {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if block, _ := pem.Decode(data); block == nil || !pool.AppendCertsFromPEM(data) {
		t.Fatalf("%s holds no certificate", path)
	}
	return pool
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
