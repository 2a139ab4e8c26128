package sign

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Key is an Ed25519 key in memory.
type Key struct{ private ed25519.PrivateKey }

// Public implements [Signer].
func (k *Key) Public() PublicKey { return k.private.Public().(ed25519.PublicKey) }

// Sign implements [Signer].
func (k *Key) Sign(message []byte) ([]byte, error) { return ed25519.Sign(k.private, message), nil }

// ErrNoKey: there is no key file.
var ErrNoKey = errors.New("no signing key")

var errOpenSSH = errors.New("a private key in OpenSSH's own form is not read")

// LoadKey reads a private key: PEM, PKCS #8, Ed25519, as "openssl genpkey
// -algorithm ed25519" writes it.
func LoadKey(path string) (*Key, error) {
	der, err := readPEM(path, "PRIVATE KEY")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
	}
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read key %s: %T is not an Ed25519 key", path, parsed)
	}
	return &Key{private}, nil
}

// LoadOrCreateKey reads the key at path, or makes one there (mode 0600, its
// directory 0700) with its public half beside it as path + ".pub". The key is on
// disk before it is returned.
func LoadOrCreateKey(path string) (*Key, error) {
	key, err := LoadKey(path)
	if !errors.Is(err, ErrNoKey) {
		return key, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	key = &Key{private}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if err := writeNew(path, 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		if errors.Is(err, fs.ErrExist) { // another process was first
			return LoadKey(path)
		}
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, WritePublicKey(path+".pub", key.Public())
}

// maxKeyFile bounds the file of a key, in bytes.
const maxKeyFile = 1 << 20

func readPEM(path, kind string) ([]byte, error) {
	text, err := bin.ReadFile(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block != nil && block.Type == "OPENSSH PRIVATE KEY" {
		return nil, fmt.Errorf("read key %s: %w; an SSH agent signs with it: add it with ssh-add, and give --key ssh-agent:FINGERPRINT", path, errOpenSSH)
	}
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("read key %s: no PEM block %q", path, kind)
	}
	return block.Bytes, nil
}

// writeNew links a complete file into place, so that no one reads half a key.
func writeNew(path string, mode os.FileMode, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}
