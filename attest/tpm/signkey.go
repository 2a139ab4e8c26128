package tpm

import (
	"crypto"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
)

// ErrSigningKey: what was named is no signing key that this TPM can use.
var ErrSigningKey = errors.New("not a signing key of this TPM")

// SigningKey signs messages of its owner's choosing, unlike an [AK], which signs
// only what the TPM itself states. Its private half never leaves the TPM
// unencrypted. Anyone who may use the TPM and has the file may sign with it.
type SigningKey struct {
	tpm    *TPM
	handle tpm2.TPMHandle // persistent; 0 for a key in a file
	stored storedKey
	public tpm2.TPMTPublic
}

// storedKey is the TSS2 key file: ASN.1 DER of what TPM2_Create gives, wrapped
// by the storage key that every TPM derives for its owner (draft-bottomley-tpm2-keys,
// "ASN.1 Specification of TPMKey"; the same file OpenSSL's TPM providers use).
type storedKey struct {
	Type      asn1.ObjectIdentifier
	EmptyAuth bool `asn1:"optional,explicit,tag:0"`
	Parent    int64
	Public    []byte // TPM2B_PUBLIC
	Private   []byte // TPM2B_PRIVATE
}

// oidLoadable marks a key that TPM2_Load takes.
var oidLoadable = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}

const storedKeyType = "TSS2 PRIVATE KEY"

// storageTemplate is the storage key above stored keys: ECC P-256, derived from
// the owner's seed with an empty "unique", as the draft has it.
func storageTemplate() tpm2.TPMTPublic {
	template := tpm2.ECCSRKTemplate
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return template
}

// CreateSigningKey makes an ECDSA P-256 key and returns its file, PEM.
func (t *TPM) CreateSigningKey() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	parent, err := t.ownerKey()
	if err != nil {
		return nil, err
	}
	defer t.flush(parent.Handle)
	rsp, err := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
		Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256}),
	})}.Execute(t.conn)
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	der, err := asn1.Marshal(storedKey{Type: oidLoadable, EmptyAuth: true, Parent: int64(tpm2.TPMRHOwner),
		Public: tpm2.Marshal(rsp.OutPublic), Private: tpm2.Marshal(rsp.OutPrivate)})
	if err != nil {
		return nil, fmt.Errorf("make signing key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: storedKeyType, Bytes: der}), nil
}

// ownerKey derives the storage key; the caller flushes it.
func (t *TPM) ownerKey() (tpm2.AuthHandle, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(storageTemplate()),
	}.Execute(t.conn)
	if err != nil {
		return tpm2.AuthHandle{}, fmt.Errorf("derive storage key: %w", err)
	}
	return tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: tpm2.PasswordAuth(nil)}, nil
}

// parseStoredKey reads a key file; any error wraps ErrSigningKey.
func parseStoredKey(text []byte) (*storedKey, *tpm2.TPMTPublic, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != storedKeyType {
		return nil, nil, fmt.Errorf("%w: no PEM block %q", ErrSigningKey, storedKeyType)
	}
	var key storedKey
	if rest, err := asn1.Unmarshal(block.Bytes, &key); err != nil || len(rest) > 0 {
		return nil, nil, fmt.Errorf("%w: not a loadable key without a policy", ErrSigningKey)
	}
	if !key.Type.Equal(oidLoadable) || !key.EmptyAuth || key.Parent != int64(tpm2.TPMRHOwner) {
		return nil, nil, fmt.Errorf("%w: only loadable keys without a password below the owner's storage key are used", ErrSigningKey)
	}
	wrapped, err := tpm2.Unmarshal[tpm2.TPM2BPublic](key.Public)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSigningKey, err)
	}
	public, err := wrapped.Contents()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSigningKey, err)
	}
	return &key, public, checkSigning(public)
}

// checkSigning refuses keys that cannot sign what they are given.
func checkSigning(public *tpm2.TPMTPublic) error {
	if !public.ObjectAttributes.SignEncrypt || public.ObjectAttributes.Restricted {
		return fmt.Errorf("%w: it is not made for signing, or only for what the TPM states", ErrSigningKey)
	}
	if _, err := tpm2.Pub(*public); err != nil {
		return fmt.Errorf("%w: %w", ErrSigningKey, err)
	}
	return nil
}

// StoredPublicKey is the public half of a key file; no TPM is asked.
func StoredPublicKey(text []byte) (crypto.PublicKey, error) {
	_, public, err := parseStoredKey(text)
	if err != nil {
		return nil, err
	}
	return tpm2.Pub(*public)
}

// OpenStoredKey makes the key of a file usable.
func (t *TPM) OpenStoredKey(text []byte) (*SigningKey, error) {
	stored, public, err := parseStoredKey(text)
	if err != nil {
		return nil, err
	}
	k := &SigningKey{tpm: t, stored: *stored, public: *public}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, unload, err := k.load() // another TPM's key shows now, not after hours of reading
	if err != nil {
		return nil, err
	}
	unload()
	return k, nil
}

// OpenPersistentKey makes a key that was made persistent usable (0x81000000 and
// above).
func (t *TPM) OpenPersistentKey(handle uint32) (*SigningKey, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(t.conn)
	if err != nil {
		return nil, fmt.Errorf("%w: handle %#x: %w", ErrSigningKey, handle, err)
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigningKey, err)
	}
	return &SigningKey{tpm: t, handle: tpm2.TPMHandle(handle), public: *public}, checkSigning(public)
}

// Public is the public half.
func (k *SigningKey) Public() crypto.PublicKey {
	public, err := tpm2.Pub(k.public)
	if err != nil { // checkSigning has seen it succeed
		return nil
	}
	return public
}

// Sign signs the SHA-256 of message: ECDSA in ASN.1, RSA as PKCS #1 v1.5.
func (k *SigningKey) Sign(message []byte) ([]byte, error) {
	k.tpm.mu.Lock()
	defer k.tpm.mu.Unlock()
	key, unload, err := k.load()
	if err != nil {
		return nil, err
	}
	defer unload()
	digest := sha256.Sum256(message)
	algorithm := tpm2.TPMAlgECDSA
	if k.public.Type == tpm2.TPMAlgRSA {
		algorithm = tpm2.TPMAlgRSASSA
	}
	rsp, err := tpm2.Sign{KeyHandle: key, Digest: tpm2.TPM2BDigest{Buffer: digest[:]},
		InScheme:   tpm2.TPMTSigScheme{Scheme: algorithm, Details: tpm2.NewTPMUSigScheme(algorithm, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(k.tpm.conn)
	if err != nil {
		return nil, fmt.Errorf("TPM signature: %w", err)
	}
	if algorithm == tpm2.TPMAlgRSASSA {
		sig, err := rsp.Signature.Signature.RSASSA()
		if err != nil {
			return nil, fmt.Errorf("TPM signature: %w", err)
		}
		return sig.Sig.Buffer, nil
	}
	sig, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("TPM signature: %w", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer)})
}

// load puts the key into the TPM for one use.
func (k *SigningKey) load() (key tpm2.AuthHandle, unload func(), err error) {
	name, err := tpm2.ObjectName(&k.public)
	if err != nil {
		return key, nil, fmt.Errorf("load signing key: %w", err)
	}
	if k.handle != 0 {
		return tpm2.AuthHandle{Handle: k.handle, Name: *name, Auth: tpm2.PasswordAuth(nil)}, func() {}, nil
	}
	parent, err := k.tpm.ownerKey()
	if err != nil {
		return key, nil, err
	}
	defer k.tpm.flush(parent.Handle)
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](k.stored.Private)
	if err != nil {
		return key, nil, fmt.Errorf("%w: %w", ErrSigningKey, err)
	}
	rsp, err := tpm2.Load{ParentHandle: parent, InPublic: tpm2.New2B(k.public), InPrivate: *private}.Execute(k.tpm.conn)
	if err != nil {
		return key, nil, fmt.Errorf("%w: %w", ErrSigningKey, err)
	}
	return tpm2.AuthHandle{Handle: rsp.ObjectHandle, Name: rsp.Name, Auth: tpm2.PasswordAuth(nil)}, func() { k.tpm.flush(rsp.ObjectHandle) }, nil
}
