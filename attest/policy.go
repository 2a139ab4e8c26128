package attest

import (
	"errors"
	"fmt"
	"strconv"

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
	Name string `toml:"name"`

	SecureBoot SecureBootPolicy `toml:"secure_boot"`

	// Boot lists the images that the firmware may start. Empty allows any.
	Boot []AllowedImage `toml:"boot"`

	// PCRs maps a PCR number to the values it may have in the bank verified.
	PCRs map[string][]Hex `toml:"pcrs"`

	Firmware FirmwarePolicy `toml:"firmware"`
	TPM      TPMPolicy      `toml:"tpm"`
	IMA      IMAPolicy      `toml:"ima"`
}

// SecureBootPolicy is about UEFI Secure Boot. The lists hold SHA-256 digests
// of X.509 certificates (DER), or the image digests themselves where a
// variable holds such. Empty lists ask nothing.
type SecureBootPolicy struct {
	Required bool  `toml:"required"`
	PK       []Hex `toml:"pk"`  // allowed in PK
	KEK      []Hex `toml:"kek"` // allowed in KEK
	DB       []Hex `toml:"db"`  // allowed in db
	DBX      []Hex `toml:"dbx"` // must all be in dbx
}

// AllowedImage is one image that may be started.
type AllowedImage struct {
	Name   string `toml:"name"`   // for people
	Digest Hex    `toml:"digest"` // Authenticode SHA-256
}

// FirmwarePolicy is about the platform's firmware. Empty lists ask nothing.
type FirmwarePolicy struct {
	Versions []string `toml:"versions"` // allowed S-CRTM versions
	Blobs    []Hex    `toml:"blobs"`    // allowed digests of firmware volumes and blobs
}

// TPMPolicy is about the TPM itself.
type TPMPolicy struct {
	// MinimumFirmware is the lowest TPM firmware version, as in
	// Claims.TPMFirmware: "2019.1023.0.0" in hexadecimal groups.
	MinimumFirmware string `toml:"minimum_firmware"`

	// AK lists the TPM Names of attestation keys that may sign.
	AK []Hex `toml:"ak"`
}

// IMAPolicy is about the kernel's measurement list.
type IMAPolicy struct {
	// Required fails evidence without an IMA list.
	Required bool `toml:"required"`

	// AllowViolations accepts files that changed while they were measured.
	AllowViolations bool `toml:"allow_violations"`

	// Files maps a path to the digests its content may have ("sha256:hex");
	// when it is not empty, every measured file must be listed or excluded.
	Files map[string][]string `toml:"files"`

	// Exclude are globs of paths that Files need not list; "**" crosses
	// directories.
	Exclude []string `toml:"exclude"`
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

func (p *Policy) validate() error {
	for pcr := range p.PCRs {
		if n, err := strconv.Atoi(pcr); err != nil || n < 0 || n > 23 {
			return fmt.Errorf("%w: no PCR %q", ErrPolicy, pcr)
		}
	}
	return nil
}
