package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// The story's files. Nothing in it is special to a demonstration: these are the
// configurations an operator writes.

func (s *story) insideDir() string   { return filepath.Join(s.tools.dir, "inside") }
func (s *story) hostDir() string     { return filepath.Join(s.tools.dir, "host") }
func (s *story) verifierDir() string { return filepath.Join(s.tools.dir, "verifier") }

const verifierConfig = `listen = "127.0.0.1:0"
names  = ["10.0.2.2"]   # what the machine calls this host
state  = "state"

[enrolment]
approval = ["ca"]
ca = [%[1]q]
intermediates = [%[1]q]

[[host]]
name = "host1"

[[host]]
name = "vm1"
measured_by = "host1"
policy = "vm-policy.toml"
kernels = [%[2]q]
modules = [%[3]q]
rules = "rules.toml"
scan_every = "10m"
scan_timeout = "10m"
bmc = { address = %[4]q, username = "verifier", password_file = "bmc-password" }
`

// policyHead goes before the digests that "plumbline attest digest" prints.
const policyHead = `name = "lab machine"

[secure_boot]
required = true

`

const rules = `# Programs and configuration must be what the baseline says.
[[rule]]
path  = "/usr/{bin,sbin,lib}/**"
level = "verify"
check = ["content", "mode", "owner", "links", "xattrs"]

[[rule]]
path  = "/etc/**"
level = "verify"
check = ["content", "mode", "owner", "links"]

# Everything else is noted, or left alone where it changes all the time.
[[rule]]
path  = "/{var,run,tmp,root,opt,dev,proc,sys}/**"
level = "ignore"

[[rule]]
path  = "/**"
level = "record"
`

const hostConfig = `name  = "host1"
state = "state"

[verifier]
address = %[1]q
ca      = %[2]q

[tpm]               # this host's TPM is the lab's: it has no log of this boot
path = %[3]q
event_log = "-"
ima_log = "-"
user_log = "-"

[[target]]
name = "vm1"
qmp  = %[4]q

[target.bmc]
socket = %[5]q
listen = %[6]q

[[target.bmc.user]]
name = "verifier"
password_file = "../verifier/bmc-password"
privilege = "operator"

[target.watch]
enabled = true
rules = "../verifier/rules.toml"
`

const guestConfig = `name  = "vm1"
role  = "guest"
state = "/var/lib/plumbline"

[verifier]
address = %[1]q
fingerprint = %[2]q
`

// loopbackAddress chooses a loopback address of this machine at random: a BMC has
// a fixed port, 623, and other machines of the lab may be up.
func loopbackAddress() (string, error) {
	for range 16 {
		address := fmt.Sprintf("127.%d.%d.%d:623", 1+rand.N(250), rand.N(250), 1+rand.N(250))
		conn, err := net.ListenPacket("udp", address)
		if err == nil {
			return address, conn.Close()
		}
	}
	return "", fmt.Errorf("no loopback address with a free port 623")
}

func writeFiles(dir string, files map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// verifierReady is the line that "plumbline verifier" prints when it serves.
type verifierReady struct {
	Address      string `json:"address"`
	CA           string `json:"ca"`
	Fingerprint  string `json:"fingerprint"`
	Console      string `json:"console"`
	PasswordFile string `json:"password_file"`
}

// startVerifier writes the verifier's configuration, with reference values taken
// from the packages and files the machine was built from, and starts it.
func (s *story) startVerifier(ctx context.Context) error {
	s.say("start the verifier: reference kernel, allowed boot image, file rules")
	bmc, err := loopbackAddress()
	if err != nil {
		return err
	}
	s.bmc = bmc
	allowed := filepath.Join(filepath.Dir(s.machine.UKI), "uki-default.efi")
	boot, err := s.tools.must(ctx, "plumbline", "attest", "digest", allowed)
	if err != nil {
		return err
	}
	err = writeFiles(s.verifierDir(), map[string]string{
		"verifier.toml":  fmt.Sprintf(verifierConfig, s.machine.TPMCA, s.machine.Vmlinuz, s.machine.Modules, bmc),
		"vm-policy.toml": policyHead + string(boot),
		"rules.toml":     rules,
		"bmc-password":   "demo-bmc-password\n",
	})
	if err != nil {
		return err
	}
	d, err := s.tools.start(ctx, "plumbline", "verifier", "--config", filepath.Join(s.verifierDir(), "verifier.toml"))
	if err != nil {
		return err
	}
	s.daemons = append(s.daemons, d)
	if err := json.Unmarshal(d.ready, &s.verifier); err != nil {
		return fmt.Errorf("verifier's first line: %w", err)
	}
	s.console = s.verifier.Console
	if password, err := os.ReadFile(s.verifier.PasswordFile); err == nil {
		s.password = strings.TrimSpace(string(password))
	}
	s.tools.env = append(s.tools.env, "PLUMBLINE_STATE="+filepath.Join(s.verifierDir(), "state"))
	s.detail("console at %s", s.console)
	return nil
}

// startAgents starts the host's agent here and the machine's own inside it.
func (s *story) startAgents(ctx context.Context) error {
	s.say("start the host's agent (it is the machine's BMC), and one inside that attests its boot")
	err := writeFiles(s.hostDir(), map[string]string{
		"agent.toml": fmt.Sprintf(hostConfig, s.verifier.Address, s.verifier.CA, s.machine.HostTPM,
			s.machine.QMP, s.machine.BMCSocket, s.bmc),
	})
	if err != nil {
		return err
	}
	d, err := s.tools.start(ctx, "plumbline", "agent", "--config", filepath.Join(s.hostDir(), "agent.toml"))
	if err != nil {
		return err
	}
	s.daemons = append(s.daemons, d)

	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.verifier.Address, "https://"))
	if err != nil {
		return err
	}
	config := fmt.Sprintf(guestConfig, "https://10.0.2.2:"+port, s.verifier.Fingerprint)
	script := fmt.Sprintf(`cat > /run/plumbline.toml <<'END'
%sEND
setsid /opt/plumbline/plumbline agent --config /run/plumbline.toml >/run/plumbline.log 2>&1 </dev/null &`, config)
	_, err = s.tools.must(ctx, "plumbline-lab", "exec", "--dir", s.machineDir(), "--", "sh", "-c", script)
	return err
}
