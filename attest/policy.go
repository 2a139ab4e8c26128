package attest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

var (
	// ErrPolicy means that a policy cannot be used.
	ErrPolicy = errors.New("unusable policy")
	// ErrEmptyPolicy means that a policy asks for nothing, which would let
	// everything pass.
	ErrEmptyPolicy = fmt.Errorf("%w: it asks for nothing", ErrPolicy)
)

// Policy is what evidence must show. Each part left out is not asked for; a
// policy of nothing is [ErrEmptyPolicy]. The replay of the logs against the
// quote is asked for always.
type Policy struct {
	// Name appears in results.
	Name string `toml:"name,omitempty"`

	SecureBoot SecureBootPolicy `toml:"secure_boot,omitempty"`

	// Boot lists the images that the firmware may start. Empty allows any.
	Boot []AllowedImage `toml:"boot,omitempty"`

	// PCRs maps a PCR number to the values it may have in the bank verified.
	PCRs map[string][]Hex `toml:"pcrs,omitempty"`

	Firmware FirmwarePolicy `toml:"firmware,omitempty"`
	TPM      TPMPolicy      `toml:"tpm,omitempty"`
	IMA      IMAPolicy      `toml:"ima,omitempty"`
}

// SecureBootPolicy is about UEFI Secure Boot. The lists hold SHA-256 digests
// of X.509 certificates (DER), or the image digests themselves where a
// variable holds such. Empty lists ask nothing.
type SecureBootPolicy struct {
	Required bool  `toml:"required,omitempty"`
	PK       []Hex `toml:"pk,omitempty"`  // allowed in PK
	KEK      []Hex `toml:"kek,omitempty"` // allowed in KEK
	DB       []Hex `toml:"db,omitempty"`  // allowed in db
	DBX      []Hex `toml:"dbx,omitempty"` // must all be in dbx
}

// AllowedImage is one image that may be started.
type AllowedImage struct {
	Name   string `toml:"name,omitempty"` // for people
	Digest Hex    `toml:"digest"`         // Authenticode SHA-256
}

// FirmwarePolicy is about the platform's firmware. Empty lists ask nothing.
type FirmwarePolicy struct {
	Versions []string `toml:"versions,omitempty"` // allowed S-CRTM versions
	Blobs    []Hex    `toml:"blobs,omitempty"`    // allowed digests of code in PCR 0
	Drivers  []Hex    `toml:"drivers,omitempty"`  // allowed digests of add-in drivers, PCR 2
}

// TPMPolicy is about the TPM itself.
type TPMPolicy struct {
	// MinimumFirmware is the lowest TPM firmware version, as in
	// Claims.TPMFirmware: up to four hexadecimal groups, "2019.1023".
	MinimumFirmware string `toml:"minimum_firmware,omitempty"`

	// AK lists the TPM Names of attestation keys that may sign.
	AK []Hex `toml:"ak,omitempty"`

	// Bank is the PCR bank that must be quoted and is appraised: "sha256" (also
	// when empty), "sha384" or "sha512". Who attests has no choice.
	Bank string `toml:"bank,omitempty"`
}

// IMAPolicy is about the kernel's measurement list.
type IMAPolicy struct {
	// Required fails evidence without an IMA list.
	Required bool `toml:"required,omitempty"`

	// AllowViolations accepts files that changed while they were measured.
	AllowViolations bool `toml:"allow_violations,omitempty"`

	// Files maps a path to the digests its content may have ("sha256:hex");
	// when it is not empty, every measured file must be listed or excluded.
	Files map[string][]string `toml:"files,omitempty"`

	// Exclude are globs of paths that Files need not list; "**" crosses
	// directories.
	Exclude []string `toml:"exclude,omitempty"`
}

// ParsePolicy reads a policy in TOML. An unknown key is an error, as is a
// policy that asks for nothing. Errors wrap [ErrPolicy].
func ParsePolicy(data []byte) (*Policy, error) {
	var p Policy
	meta, err := toml.Decode(string(data), &p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("%w: unknown key %q", ErrPolicy, unknown[0])
	}
	if err := p.validate(); err != nil {
		return nil, err
	}
	return &p, nil
}

// asks reports whether the policy asks anything of a boot. A list of keys alone
// does not: it says whose evidence is looked at, not what it must show.
func (p *Policy) asks() bool {
	f := &p.Firmware
	return p.SecureBoot.asks() || p.IMA.asks() || len(p.Boot) > 0 || len(p.PCRs) > 0 ||
		len(f.Versions)+len(f.Blobs)+len(f.Drivers) > 0 || p.TPM.MinimumFirmware != ""
}

func (p *SecureBootPolicy) asks() bool {
	return p.Required || len(p.PK)+len(p.KEK)+len(p.DB)+len(p.DBX) > 0
}

func (p *IMAPolicy) asks() bool { return p.Required || len(p.Files) > 0 }

func (p *Policy) validate() error {
	if !p.asks() {
		return ErrEmptyPolicy
	}
	for pcr, values := range p.PCRs {
		if n, err := strconv.Atoi(pcr); err != nil || n < 0 || n > 23 || strconv.Itoa(n) != pcr {
			return fmt.Errorf("%w: no PCR %q", ErrPolicy, clip(pcr))
		}
		if len(values) == 0 {
			return fmt.Errorf("%w: no value for PCR %s", ErrPolicy, pcr)
		}
		for _, v := range values {
			if len(v) < 32 {
				return fmt.Errorf("%w: value of %d bytes for PCR %s", ErrPolicy, len(v), pcr)
			}
		}
	}
	for _, image := range p.Boot {
		if len(image.Digest) < 32 {
			return fmt.Errorf("%w: boot image %q has a digest of %d bytes", ErrPolicy, clip(image.Name), len(image.Digest))
		}
	}
	if p.TPM.Bank != "" && !slices.Contains(banks, p.TPM.Bank) {
		return fmt.Errorf("%w: tpm.bank %q: want sha256, sha384 or sha512", ErrPolicy, clip(p.TPM.Bank))
	}
	if p.TPM.MinimumFirmware != "" {
		if _, err := parseTPMFirmware(p.TPM.MinimumFirmware); err != nil {
			return fmt.Errorf("%w: %w", ErrPolicy, err)
		}
	}
	return p.IMA.validate()
}

func (p *IMAPolicy) validate() error {
	if len(p.Exclude) > 0 && len(p.Files) == 0 {
		return fmt.Errorf("%w: ima.exclude without ima.files excludes nothing", ErrPolicy)
	}
	if p.AllowViolations && !p.asks() {
		return fmt.Errorf("%w: ima.allow_violations without ima.required or ima.files", ErrPolicy)
	}
	for path, digests := range p.Files {
		if len(digests) == 0 {
			return fmt.Errorf("%w: no digest for %q", ErrPolicy, clip(path))
		}
		for _, d := range digests {
			algorithm, value, _ := strings.Cut(d, ":")
			raw, err := hex.DecodeString(value)
			if err != nil || digestSize(algorithm) != len(raw) || len(raw) < 32 || strings.ToLower(d) != d {
				return fmt.Errorf("%w: digest %q for %q is not sha256:... in lower case", ErrPolicy, clip(d), clip(path))
			}
		}
	}
	return nil
}
