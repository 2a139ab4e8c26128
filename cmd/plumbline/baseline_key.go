package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/attest/tpm"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/internal/durable"
)

// keyFlags say which key signs and which keys are trusted.
type keyFlags struct {
	key     string
	tpm     string
	trusted []string
}

func (k *keyFlags) sign(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&k.key, "key", "", "signing `KEY`: a file (PEM, Ed25519), tpm:FILE, tpm:0xHANDLE or ssh-agent:FINGERPRINT; default "+keyPlace)
	f.StringVar(&k.tpm, "tpm", tpm.DefaultDevice, "with --key tpm:, the TPM's `PATH`: a device, or the socket of a software TPM")
	cmd.MarkFlagFilename("key")
}

func (k *keyFlags) verify(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&k.trusted, "public-key", nil, "trust the key in `FILE` (PEM or OpenSSH); default: the signing key's own")
	cmd.MarkFlagFilename("public-key")
}

// signer opens the key that signs; the caller closes it. Only the default place
// gets a key on first use.
func (k *keyFlags) signer() (signer sign.Signer, release func(), err error) {
	release = func() {}
	kind, name, _ := strings.Cut(k.key, ":")
	switch {
	case k.key == "":
		if signer, err = sign.LoadOrCreateKey(defaultKey()); err != nil {
			err = failHint(exitConfig, err, "name a key with --key")
		}
	case kind == "ssh-agent":
		if signer, err = sign.OpenAgentKey(os.Getenv("SSH_AUTH_SOCK"), name); err != nil {
			err = failHint(exitConfig, err, "ssh-add -l shows the agent's keys; name one by its fingerprint")
		}
	case kind == "tpm":
		return k.tpmSigner(name)
	default:
		if signer, err = sign.LoadKey(k.key); err != nil {
			err = failHint(exitConfig, err, "make one with: openssl genpkey -algorithm ed25519 -out FILE")
		}
	}
	return signer, release, err
}

// tpmSigner opens a key in a TPM: a persistent handle, or a file that only this
// TPM can use.
func (k *keyFlags) tpmSigner(name string) (sign.Signer, func(), error) {
	device, err := tpm.Open(k.tpm)
	if err != nil {
		return nil, nil, failHint(exitConfig, err, "name the TPM with --tpm")
	}
	release := func() { device.Close() }
	var key *tpm.SigningKey
	if handle, number := persistent(name); number {
		key, err = device.OpenPersistentKey(handle)
	} else {
		var text []byte
		if text, err = bin.ReadFile(name, maxText); err == nil {
			key, err = device.OpenStoredKey(text)
		}
	}
	if err != nil {
		release()
		return nil, nil, failHint(exitConfig, err, "make a key with: plumbline baseline key --key tpm:FILE --create")
	}
	return key, release, nil
}

// persistent reads a handle like 0x81000001.
func persistent(name string) (uint32, bool) {
	handle, err := strconv.ParseUint(name, 0, 32)
	return uint32(handle), err == nil
}

// keys are those whose signatures count.
func (k *keyFlags) keys() ([]sign.PublicKey, error) {
	var keys []sign.PublicKey
	for _, path := range k.trusted {
		key, err := sign.LoadPublicKey(path)
		if err != nil {
			return nil, fail(exitConfig, err)
		}
		keys = append(keys, key)
	}
	if keys != nil {
		return keys, nil
	}
	key, err := k.public()
	var told *exitError
	if errors.As(err, &told) {
		return nil, err
	}
	if err != nil {
		return nil, failHint(exitConfig, fmt.Errorf("no key to verify with: %w", err), "name the signer's public key with --public-key")
	}
	return []sign.PublicKey{key}, nil
}

// public is the signing key's own public half.
func (k *keyFlags) public() (sign.PublicKey, error) {
	kind, name, _ := strings.Cut(k.key, ":")
	if _, number := persistent(name); kind == "tpm" && !number {
		text, err := bin.ReadFile(name, maxText)
		if err != nil {
			return nil, err
		}
		return tpm.StoredPublicKey(text) // needs no TPM
	}
	if kind == "tpm" || kind == "ssh-agent" {
		signer, release, err := k.signer()
		if err != nil {
			return nil, err
		}
		defer release()
		return signer.Public(), nil
	}
	path := k.key
	if path == "" {
		path = defaultKey()
	}
	if key, err := sign.LoadPublicKey(path + ".pub"); err == nil {
		return key, nil
	}
	key, err := sign.LoadKey(path)
	if err != nil {
		return nil, err
	}
	return key.Public(), nil
}

func baselineKeyCommand() *cobra.Command {
	var key keyFlags
	var create bool
	var out string
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Show the public half of a signing key, or make a key in a TPM",
		Long: `Key writes the public half of the signing key to a file, for --public-key
elsewhere, and prints its name.

With --create and --key tpm:FILE a key (ECDSA P-256) is made in the TPM first;
FILE holds it encrypted, and only that TPM can use it.`,
		Example: `  plumbline baseline key --key tpm:baseline.tss2 --create --out signer.pub
  plumbline baseline key --key ssh-agent:SHA256:Xf1... --out signer.pub`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if create {
				if err := key.create(); err != nil {
					return err
				}
			}
			public, err := key.keys()
			if err != nil {
				return err
			}
			if out != "" {
				if err := sign.WritePublicKey(out, public[0]); err != nil {
					return fail(exitIO, err)
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", sign.Algorithm(public[0]), sign.KeyID(public[0]))
			return err
		},
	}
	key.sign(cmd)
	cmd.Flags().BoolVar(&create, "create", false, "make the key that --key tpm:FILE names")
	cmd.Flags().StringVar(&out, "out", "", "write the public key to `FILE` (PEM)")
	return cmd
}

// create makes a key in the TPM. It replaces no file.
func (k *keyFlags) create() error {
	kind, name, _ := strings.Cut(k.key, ":")
	if _, number := persistent(name); kind != "tpm" || name == "" || number {
		return fail(exitArgument, errors.New("--create makes keys in a TPM: name one with --key tpm:FILE"))
	}
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return fail(exitArgument, fmt.Errorf("%s exists", name))
	}
	device, err := tpm.Open(k.tpm)
	if err != nil {
		return failHint(exitConfig, err, "name the TPM with --tpm")
	}
	defer device.Close()
	text, err := device.CreateSigningKey()
	if err == nil {
		err = durable.WriteFile(name, text, 0o600)
	}
	if err != nil {
		return fail(exitIO, err)
	}
	return nil
}
