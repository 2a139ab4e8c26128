package tpm

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// ErrAKChanged means that this TPM no longer makes the key that the state
// describes: it was cleared, or it is another TPM. The machine enrols anew.
var ErrAKChanged = errors.New("the TPM no longer has this attestation key")

// AK is an attestation key: a primary key of the endorsement hierarchy, so that
// quotes show reset count, restart count and firmware version plainly. The TPM
// derives it again from its seed and AK.unique whenever it is used; nothing
// secret is stored outside the TPM.
type AK struct {
	unique []byte
	public []byte
}

// akState is the file that LoadOrCreateAK keeps.
type akState struct {
	Version int        `json:"version"`
	Unique  attest.Hex `json:"unique"` // what tells this key from others of the same TPM
	Public  attest.Hex `json:"public"` // TPMT_PUBLIC
}

// Public is the key's TPMT_PUBLIC.
func (ak *AK) Public() []byte { return bytes.Clone(ak.public) }

// CreateAK makes a new attestation key.
func (t *TPM) CreateAK() (*AK, error) {
	unique := make([]byte, 32)
	rand.Read(unique)
	ak := &AK{unique: unique}
	t.mu.Lock()
	defer t.mu.Unlock()
	key, err := t.createAK(unique)
	if err != nil {
		return nil, err
	}
	defer key.unload()
	ak.public = key.public
	return ak, nil
}

// maxState bounds the file that describes a key, in bytes.
const maxState = 1 << 20

// LoadOrCreateAK reads the key that the file at path describes, or makes one
// and writes that file (mode 0600, replaced atomically). Errors wrap
// [ErrAKChanged] when the TPM no longer has it.
func (t *TPM) LoadOrCreateAK(path string) (*AK, error) {
	data, err := bin.ReadFile(path, maxState)
	if errors.Is(err, os.ErrNotExist) {
		return t.createState(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read attestation key: %w", err)
	}
	ak, err := parseState(data)
	if err != nil {
		return nil, fmt.Errorf("read attestation key %s: %w", path, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key, err := t.loadAK(ak)
	if err != nil {
		return nil, err
	}
	key.unload()
	return ak, nil
}

// ReadPublic returns the public part of the key that the file at path
// describes; no TPM is needed.
func ReadPublic(path string) ([]byte, error) {
	data, err := bin.ReadFile(path, maxState)
	if err != nil {
		return nil, fmt.Errorf("read attestation key: %w", err)
	}
	ak, err := parseState(data)
	if err != nil {
		return nil, fmt.Errorf("read attestation key %s: %w", path, err)
	}
	return ak.public, nil
}

func parseState(data []byte) (*AK, error) {
	var state akState
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, err
	}
	if state.Version != 1 || len(state.Unique) != 32 || len(state.Public) == 0 {
		return nil, errors.New("not the state of an attestation key")
	}
	return &AK{unique: state.Unique, public: state.Public}, nil
}

func (t *TPM) createState(path string) (*AK, error) {
	ak, err := t.CreateAK()
	if err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(akState{Version: 1, Unique: ak.unique, Public: ak.public}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write attestation key: %w", err)
	}
	if err := replaceFile(path, append(data, '\n')); err != nil {
		return nil, fmt.Errorf("write attestation key: %w", err)
	}
	return ak, nil
}

// replaceFile puts data at path whole or not at all, and durably.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".ak-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// loadAK derives ak in the TPM again and checks that it is the same key.
func (t *TPM) loadAK(ak *AK) (*object, error) {
	key, err := t.createAK(ak.unique)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(key.public, ak.public) {
		key.unload()
		return nil, ErrAKChanged
	}
	return key, nil
}

// createAK derives the restricted ECDSA P-256 signing key that unique selects.
func (t *TPM) createAK(unique []byte) (*object, error) {
	key, err := t.createPrimary(tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			NoDA:                true,
			Restricted:          true,
			SignEncrypt:         true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: unique},
			Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		}),
	})
	if err != nil {
		return nil, fmt.Errorf("make attestation key: %w", err)
	}
	return key, nil
}
