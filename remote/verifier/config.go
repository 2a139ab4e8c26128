package verifier

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/remote"
)

// ErrConfig is returned for a configuration that cannot be used.
var ErrConfig = errors.New("configuration")

// Config is the verifier's configuration file, TOML. The zero value with a
// State is complete: one machine, loopback, an operator approves enrolments.
// Relative paths are relative to the file's directory.
type Config struct {
	Listen    string          `toml:"listen"` // default 127.0.0.1:8443
	Names     []string        `toml:"names"`  // extra DNS names and addresses in the server's certificate
	State     string          `toml:"state"`  // directory; the command has a default
	Keep      Duration        `toml:"keep"`   // what is older is forgotten (forgetOld); default: nothing
	Enrolment EnrolmentConfig `toml:"enrolment"`
	Groups    []Group         `toml:"group"`
	Hosts     []Host          `toml:"host"`
	Alerts    []AlertConfig   `toml:"alert"`
}

// Approval is a way to accept a TPM.
type Approval string

// Ways to accept a TPM, each recorded with the enrolment.
const (
	ApproveCA       Approval = "ca"       // the EK's certificate chains to a configured authority
	ApproveDigest   Approval = "digest"   // the EK's digest is listed
	ApproveOperator Approval = "operator" // a person says so
)

// EnrolmentConfig says whose TPMs are accepted. The ways in Approval are tried
// in the order ca, digest, operator.
type EnrolmentConfig struct {
	Approval      []Approval  `toml:"approval"`      // default: those of ca and digest that are configured, and operator
	CA            []string    `toml:"ca"`            // PEM files with TPM makers' root certificates
	Intermediates []string    `toml:"intermediates"` // PEM files
	Digests       []EKListing `toml:"ek"`
}

// EKListing is one TPM known beforehand.
type EKListing struct {
	Digest string `toml:"digest"` // SHA-256 of the EK's TPMT_PUBLIC, hexadecimal
	Label  string `toml:"label"`  // for people, such as the asset number
}

// Reference is what a machine should be and how often to look. A host's own
// values win over its group's, and those over the group "default".
type Reference struct {
	Policy  string   `toml:"policy"`  // attestation policy, TOML file
	Kernels []string `toml:"kernels"` // reference kernels (vmlinuz files)
	Modules []string `toml:"modules"` // lib/modules/VERSION trees
	Rules   string   `toml:"rules"`   // file rules, TOML file
	// Packages are .deb and .rpm files, directories and repositories whose files
	// explain changes; only those signed by a key of Keyrings (OpenPGP) count.
	Packages []string `toml:"packages"`
	Keyrings []string `toml:"keyrings"`
	// Diversions is a file in the form of dpkg's /var/lib/dpkg/diversions: files of
	// Packages may be where it puts them, on the word of whoever keeps it here.
	Diversions string `toml:"diversions"`

	AttestEvery Duration `toml:"attest_every"` // default 10m
	ScanEvery   Duration `toml:"scan_every"`   // default 15m; needs a BMC
	ScanJitter  Duration `toml:"scan_jitter"`  // default a quarter of ScanEvery, added at random
	ScanTimeout Duration `toml:"scan_timeout"` // default 2m
	// MeasuringHost = "trusted" makes a scan count only while the boot of the
	// host that took it is trusted; the default "enrolled" asks only for its
	// enrolled TPM, and shows the rest.
	MeasuringHost string `toml:"measuring_host"`
}

// Group holds values for several hosts.
type Group struct {
	Name string `toml:"name"`
	Reference
}

// Host is one machine: a host, or a target that a host measures.
type Host struct {
	Name       string `toml:"name"`
	Group      string `toml:"group"`
	MeasuredBy string `toml:"measured_by"` // the host whose agent measures this target from outside
	BMC        *BMC   `toml:"bmc"`
	Reference
}

// BMC says how to reach a machine's baseboard management controller.
type BMC struct {
	Address      string `toml:"address"` // HOST or HOST:PORT, UDP, default port 623
	Username     string `toml:"username"`
	Password     string `toml:"password"`
	PasswordFile string `toml:"password_file"` // first line
	// Record asks for scans by a record in the BMC's event log, as a bare-metal
	// host's agent reads it, instead of the command of an agent that is the BMC.
	Record bool `toml:"record"`
}

// AlertConfig is one place to tell. Kind is "webhook" or "syslog".
type AlertConfig struct {
	Kind       string `toml:"kind"`
	URL        string `toml:"url"`         // webhook: https://...; syslog: udp://HOST:514, tcp://HOST:601
	SecretFile string `toml:"secret_file"` // webhook: key of the HMAC
	Severity   string `toml:"severity"`    // lowest told: notice, warning, alert; default warning
}

// Duration is a time.Duration written as "90s" or "15m".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err == nil && parsed < 0 {
		err = fmt.Errorf("negative duration %s", parsed)
	}
	*d = Duration(parsed)
	return err
}

func (d Duration) or(otherwise time.Duration) time.Duration {
	if d > 0 {
		return time.Duration(d)
	}
	return otherwise
}

// maxConfig bounds the configuration and each text that it names, in bytes.
const maxConfig = 16 << 20

// LoadConfig reads a configuration file. An unknown key is an error. Errors wrap
// ErrConfig.
func LoadConfig(path string) (*Config, error) {
	data, err := bin.ReadFile(path, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return ParseConfig(data, filepath.Dir(path))
}

// ParseConfig reads a configuration whose relative paths begin at dir. Errors
// wrap ErrConfig.
func ParseConfig(data []byte, dir string) (*Config, error) {
	var c Config
	meta, err := toml.Decode(string(data), &c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("%w: unknown key %q", ErrConfig, unknown[0])
	}
	c.resolve(dir)
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return &c, nil
}

// resolve makes every path absolute or relative to the working directory.
func (c *Config) resolve(dir string) {
	one := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	all := func(list []string) {
		for i := range list {
			one(&list[i])
		}
	}
	reference := func(r *Reference) {
		one(&r.Policy)
		one(&r.Rules)
		one(&r.Diversions)
		all(r.Kernels)
		all(r.Modules)
		all(r.Packages)
		all(r.Keyrings)
	}
	one(&c.State)
	all(c.Enrolment.CA)
	all(c.Enrolment.Intermediates)
	for i := range c.Groups {
		reference(&c.Groups[i].Reference)
	}
	for i := range c.Hosts {
		reference(&c.Hosts[i].Reference)
		if c.Hosts[i].BMC != nil {
			one(&c.Hosts[i].BMC.PasswordFile)
		}
	}
	for i := range c.Alerts {
		one(&c.Alerts[i].SecretFile)
	}
}

func (c *Config) validate() error {
	if c.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Listen); err != nil {
			return fmt.Errorf("listen %q: %w", c.Listen, err)
		}
	}
	if c.Keep != 0 && time.Duration(c.Keep) < minKeep {
		return fmt.Errorf("keep %s: want %s or more, or none to keep everything", time.Duration(c.Keep), minKeep)
	}
	groups := map[string]bool{"": true}
	for _, g := range c.Groups {
		if g.Name == "" || groups[g.Name] {
			return fmt.Errorf("group %q: no name, or twice", g.Name)
		}
		groups[g.Name] = true
		if err := g.validate(); err != nil {
			return fmt.Errorf("group %q: %w", g.Name, err)
		}
	}
	names := make(map[string]bool)
	for _, h := range c.Hosts {
		if err := h.check(groups, names); err != nil {
			return fmt.Errorf("host %q: %w", h.Name, err)
		}
		names[h.Name] = true
	}
	return c.Enrolment.validate()
}

func (h *Host) check(groups, names map[string]bool) error {
	if err := remote.CheckName(h.Name); err != nil {
		return err
	}
	switch {
	case names[h.Name]:
		return errors.New("named twice")
	case !groups[h.Group]:
		return fmt.Errorf("no group %q", h.Group)
	case h.MeasuredBy == h.Name:
		return errors.New("measured_by is itself: a host that measures itself needs no measured_by")
	case h.BMC != nil && (h.BMC.Address == "" || h.BMC.Username == ""):
		return errors.New("bmc needs an address and a username")
	case h.BMC != nil && h.BMC.Password != "" && h.BMC.PasswordFile != "":
		return errors.New("bmc has both password and password_file")
	}
	return h.validate()
}

func (r *Reference) validate() error {
	if !slices.Contains([]string{"", "enrolled", "trusted"}, r.MeasuringHost) {
		return fmt.Errorf("measuring_host %q: want enrolled or trusted", r.MeasuringHost)
	}
	return nil
}

func (e *EnrolmentConfig) validate() error {
	for _, a := range e.Approval {
		if !slices.Contains([]Approval{ApproveCA, ApproveDigest, ApproveOperator}, a) {
			return fmt.Errorf("enrolment approval %q: want ca, digest or operator", a)
		}
	}
	if slices.Contains(e.Approval, ApproveCA) && len(e.CA) == 0 {
		return errors.New("enrolment approval ca needs ca = [FILE]")
	}
	for _, l := range e.Digests {
		if _, err := remote.ParseDigest(l.Digest); err != nil {
			return fmt.Errorf("enrolment ek digest %q: %w", l.Digest, err)
		}
	}
	return nil
}

// approves says whether way is open.
func (e *EnrolmentConfig) approves(way Approval) bool {
	if len(e.Approval) > 0 {
		return slices.Contains(e.Approval, way)
	}
	return way == ApproveOperator || way == ApproveCA && len(e.CA) > 0 || way == ApproveDigest && len(e.Digests) > 0
}

// host returns the configuration of a machine with its group's values filled
// in; a machine that is not configured gets those of the group "default".
func (c *Config) host(name string) Host {
	h := Host{Name: name}
	for _, known := range c.Hosts {
		if known.Name == name {
			h = known
		}
	}
	for _, group := range []string{h.Group, "default"} {
		for _, g := range c.Groups {
			if g.Name == group && group != "" {
				h.inherit(&g.Reference)
			}
		}
	}
	return h
}

// each is every configured host with its group's values, and one without a
// name that stands for machines that are not configured.
func (c *Config) each() []Host {
	out := []Host{c.host("")}
	for _, h := range c.Hosts {
		out = append(out, c.host(h.Name))
	}
	return out
}

// known is the name that a machine's references are kept under: its own, or
// none when it is not configured.
func (c *Config) known(name string) string {
	if slices.ContainsFunc(c.Hosts, func(h Host) bool { return h.Name == name }) {
		return name
	}
	return ""
}

func (r *Reference) inherit(from *Reference) {
	if r.Policy == "" {
		r.Policy = from.Policy
	}
	if r.Rules == "" {
		r.Rules = from.Rules
	}
	if r.MeasuringHost == "" {
		r.MeasuringHost = from.MeasuringHost
	}
	if len(r.Kernels) == 0 {
		r.Kernels = from.Kernels
	}
	if len(r.Packages) == 0 {
		r.Packages, r.Keyrings = from.Packages, from.Keyrings
	}
	if r.Diversions == "" {
		r.Diversions = from.Diversions
	}
	if len(r.Modules) == 0 {
		r.Modules = from.Modules
	}
	for _, d := range []struct{ own, from *Duration }{
		{&r.AttestEvery, &from.AttestEvery}, {&r.ScanEvery, &from.ScanEvery},
		{&r.ScanJitter, &from.ScanJitter}, {&r.ScanTimeout, &from.ScanTimeout},
	} {
		if *d.own == 0 {
			*d.own = *d.from
		}
	}
}

func (r Reference) attestEvery() time.Duration { return r.AttestEvery.or(10 * time.Minute) }
func (r Reference) scanEvery() time.Duration   { return r.ScanEvery.or(15 * time.Minute) }
func (r Reference) scanTimeout() time.Duration { return r.ScanTimeout.or(2 * time.Minute) }
func (r Reference) scanJitter() time.Duration  { return r.ScanJitter.or(r.scanEvery() / 4) }

// password reads a BMC's password.
func (b *BMC) password() (string, error) {
	if b.PasswordFile == "" {
		return b.Password, nil
	}
	return firstLine(b.PasswordFile)
}
