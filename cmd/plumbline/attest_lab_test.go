//go:build lab

package main

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/attest/tpm"
	"github.com/plumbline-sec/plumbline/internal/lab"
)

var update = flag.Bool("update", false, "write attest/testdata/lab anew from the machine of the test")

const labNonce = "00112233445566778899aabbccddeeff"

// bootWithPlumbline boots a machine that finds this program in /opt/plumbline.
func bootWithPlumbline(t *testing.T, uki string) *lab.Machine {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "plumbline"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return lab.StartT(t, lab.Options{Files: dir, UKI: uki})
}

// quoteInside has the machine make evidence.
func quoteInside(t *testing.T, m *lab.Machine) *attest.Evidence {
	t.Helper()
	out := m.ShellT(t, "/opt/plumbline/plumbline attest quote --ak-state /tmp/ak.json --nonce "+labNonce)
	ev, err := attest.DecodeEvidence([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// filePolicy asks for Secure Boot and the image of that file: made from what was
// built, not from what the machine says.
func filePolicy(t *testing.T, uki string) *attest.Policy {
	t.Helper()
	digests, err := imageDigests(uki)
	if err != nil {
		t.Fatal(err)
	}
	policy := &attest.Policy{Name: "lab", SecureBoot: attest.SecureBootPolicy{Required: true}, IMA: attest.IMAPolicy{Required: true}}
	for _, d := range digests {
		policy.Boot = append(policy.Boot, attest.AllowedImage{Name: d.Name, Digest: d.Digest})
	}
	return policy
}

func judge(t *testing.T, ev *attest.Evidence, policy *attest.Policy) *attest.Result {
	t.Helper()
	nonce, err := hex.DecodeString(labNonce)
	if err != nil {
		t.Fatal(err)
	}
	result, err := attest.Verify(ev, policy, attest.VerifyOptions{Nonce: nonce, AK: ev.AK})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// TestAttestInTheLab attests a real machine: the policy is made from the image
// file, the evidence by the machine's TPM.
func TestAttestInTheLab(t *testing.T) {
	m := bootWithPlumbline(t, "")
	ev := quoteInside(t, m)
	result := judge(t, ev, filePolicy(t, m.UKI))
	if result.Outcome != attest.Pass {
		t.Errorf("outcome %s: %+v", result.Outcome, result.Checks)
	}
	if *update {
		data, err := ev.Encode()
		if err != nil {
			t.Fatal(err)
		}
		writeTestdata(t, "evidence.json", data)
		writeTestdata(t, "ima.ascii", []byte(m.ShellT(t, "cat /sys/kernel/security/ima/ascii_runtime_measurements")))
	}
	t.Run("values agree with tpm2_pcrread", func(t *testing.T) { comparePCRs(t, m, ev) })
	t.Run("quote verifies with tpm2_checkquote", func(t *testing.T) { checkQuote(t, ev) })
	t.Run("quotes while IMA measures", func(t *testing.T) { quoteUnderLoad(t, m) })
	t.Run("endorsed by the lab's CA", func(t *testing.T) { enrolHost(t, m) })
	t.Run("locked down, its memory is not measured", func(t *testing.T) { lockedDown(t, m) })
}

func writeTestdata(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("../../attest/testdata/lab", name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// comparePCRs reads the PCRs with a tool that no one here wrote; PCR 10 has
// moved on, since IMA measured that tool.
func comparePCRs(t *testing.T, m *lab.Machine, ev *attest.Evidence) {
	out := m.ShellT(t, "tpm2_pcrread sha256:0,1,2,3,4,5,6,7,8,9,11,12,13,14,15")
	peer := make(map[string]string)
	for line := range strings.Lines(out) {
		pcr, value, _ := strings.Cut(line, ":")
		peer[strings.TrimSpace(pcr)] = strings.ToLower(strings.TrimSpace(value))
	}
	for pcr, value := range ev.Banks[0].PCRs {
		if got := peer[strconv.Itoa(pcr)]; pcr != 10 && got != "0x"+value.String() {
			t.Errorf("PCR %d: %s here, %s there", pcr, value, got)
		}
	}
}

// checkQuote has tpm2_checkquote verify signature and nonce, and refuse another
// nonce.
func checkQuote(t *testing.T, ev *attest.Evidence) {
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := attest.CheckAK(ev.AK)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public := file("ak.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	message, signature := file("quote", ev.Quote), file("signature", ev.Signature)
	run := func(nonce string) ([]byte, error) {
		return exec.Command("tpm2_checkquote", "-u", public, "-m", message, "-s", signature, "-g", "sha256", "-q", nonce).CombinedOutput()
	}
	if out, err := run(labNonce); err != nil {
		t.Errorf("tpm2_checkquote: %v\n%s", err, out)
	}
	if _, err := run(strings.Replace(labNonce, "00", "ff", 1)); err == nil {
		t.Error("tpm2_checkquote takes any nonce: the comparison compares nothing")
	}
}

// quoteUnderLoad quotes while new files are run all the time, so that PCR 10
// changes between quote and reading.
func quoteUnderLoad(t *testing.T, m *lab.Machine) {
	m.ShellT(t, `(for i in $(seq 1 300); do cp /bin/true /tmp/load$i; echo $i >> /tmp/load$i; chmod +x /tmp/load$i; /tmp/load$i; done) >/dev/null 2>&1 &`)
	policy := filePolicy(t, m.UKI)
	for range 3 {
		if r := judge(t, quoteInside(t, m), policy); r.Outcome != attest.Pass {
			t.Errorf("outcome %s: %+v", r.Outcome, r.Checks)
		}
	}
}

// enrolHost enrols with the measuring host's TPM, whose certificate comes from
// the lab's CA.
func enrolHost(t *testing.T, m *lab.Machine) {
	dev, err := tpm.Open(m.HostTPM)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	ak, err := dev.CreateAK()
	if err != nil {
		t.Fatal(err)
	}
	id, err := dev.Identity(ak)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(m.TPMCA)
	if err != nil {
		t.Fatal(err)
	}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(data)
	if _, err := attest.VerifyEK(id, nil, authorities); err != nil {
		t.Error(err)
	}
	challenge, want, err := attest.NewChallenge(id)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := dev.Activate(ak, challenge); err != nil || !bytes.Equal(got, want) {
		t.Errorf("activation: %x, %v, want %x", got, err, want)
	}
}

// TestAnotherImageFailsInTheLab boots another image, signed by the same key: Secure
// Boot lets it pass, the policy does not, and the finding names file and event.
func TestAnotherImageFailsInTheLab(t *testing.T) {
	m := bootWithPlumbline(t, "other")
	ev := quoteInside(t, m)
	good, err := filepath.Glob(filepath.Join(filepath.Dir(m.UKI), "uki-default.efi"))
	if err != nil || len(good) != 1 {
		t.Fatalf("the default image beside %s: %v, %v", m.UKI, good, err)
	}
	result := judge(t, ev, filePolicy(t, good[0]))
	var boot attest.Check
	for _, c := range result.Checks {
		if c.Name == attest.CheckBoot {
			boot = c
		} else if c.Outcome != attest.Pass {
			t.Errorf("check %s: %s, and only the image is another: %+v", c.Name, c.Outcome, c.Findings)
		}
	}
	if boot.Outcome != attest.Fail || len(boot.Findings) == 0 {
		t.Fatalf("check boot: %+v", boot)
	}
	f := boot.Findings[0]
	if f.Event == nil || f.PCR == nil || *f.PCR != 4 || f.File != `\EFI\BOOT\BOOTX64.EFI` {
		t.Errorf("finding: %+v", f)
	}
	digests, err := imageDigests(m.UKI)
	if err != nil {
		t.Fatal(err)
	}
	if f.Observed != digests[0].Digest.String() {
		t.Errorf("observed %s, the file's digest is %s", f.Observed, digests[0].Digest)
	}
}
