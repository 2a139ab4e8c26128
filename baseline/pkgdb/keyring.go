package pkgdb

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

var (
	// ErrUnsigned: nothing that is trusted vouches for a package.
	ErrUnsigned = errors.New("not signed by a key of the keyring")
	// ErrKeyring: no OpenPGP keys in a file.
	ErrKeyring = errors.New("not a keyring")
	// ErrExpired: the Valid-Until of a repository's index is past.
	ErrExpired = errors.New("the index was valid until")
)

// Keyring are the OpenPGP keys whose signatures count.
type Keyring struct{ keys openpgp.EntityList }

// maxSigned bounds a signed index: Debian's InRelease has 150 KB.
const maxSigned = 16 << 20

// maxKeyring bounds a keyring's file, in bytes.
const maxKeyring = 64 << 20

// OpenKeyring reads OpenPGP public keys from files, armored or not, such as
// /usr/share/keyrings/debian-archive-keyring.gpg.
func OpenKeyring(paths ...string) (*Keyring, error) {
	k := &Keyring{}
	for _, path := range paths {
		text, err := bin.ReadFile(path, maxKeyring)
		if err != nil {
			return nil, fmt.Errorf("read keyring: %w", err)
		}
		read := openpgp.ReadKeyRing
		if bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN PGP")) {
			read = openpgp.ReadArmoredKeyRing
		}
		keys, err := read(bytes.NewReader(text))
		if err != nil || len(keys) == 0 {
			return nil, fmt.Errorf("%w: %s: %w", ErrKeyring, path, errors.Join(err, errEmpty(len(keys))))
		}
		k.keys = append(k.keys, keys...)
	}
	return k, nil
}

func errEmpty(n int) error {
	if n == 0 {
		return errors.New("no key in it")
	}
	return nil
}

// openSigned gives what a cleartext signature (RFC 9580, 7) covers, and the key
// of the ring that made it.
func (k *Keyring) openSigned(text []byte) (signed []byte, signer string, err error) {
	block, rest := clearsign.Decode(text)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, "", fmt.Errorf("%w: no cleartext signature", ErrUnsigned)
	}
	entity, err := block.VerifySignature(k.keys, nil)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	return block.Plaintext, name(entity), nil
}

// verifyArmored checks a detached signature, armored or not.
func (k *Keyring) verifyArmored(message, signature []byte) (signer string, err error) {
	if !bytes.HasPrefix(bytes.TrimSpace(signature), []byte("-----BEGIN PGP")) {
		return k.verify(message, signature)
	}
	entity, err := openpgp.CheckArmoredDetachedSignature(k.keys, bytes.NewReader(message), bytes.NewReader(signature), nil)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	return name(entity), nil
}

// verify checks a detached signature.
func (k *Keyring) verify(message, signature []byte) (signer string, err error) {
	entity, err := openpgp.CheckDetachedSignature(k.keys, bytes.NewReader(message), bytes.NewReader(signature), nil)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	return name(entity), nil
}

// name is a key's fingerprint.
func name(e *openpgp.Entity) string {
	return strings.ToUpper(fmt.Sprintf("%x", e.PrimaryKey.Fingerprint))
}
