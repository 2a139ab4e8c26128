package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// object is a loaded key.
type object struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public []byte // TPMT_PUBLIC
	unload func()
}

func (t *TPM) createPrimary(template tpm2.TPMTPublic) (*object, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(t.conn)
	if err != nil {
		return nil, err
	}
	return &object{
		handle: rsp.ObjectHandle,
		name:   rsp.Name,
		public: rsp.OutPublic.Bytes(),
		unload: func() { t.flush(rsp.ObjectHandle) },
	}, nil
}

// loadEK finds the EK at its persistent handle, or derives it.
func (t *TPM) loadEK() (*object, error) {
	_, kind, err := t.certificate()
	if err != nil && !errors.Is(err, ErrNoCertificate) {
		return nil, err
	}
	if kind == tpm2.TPMAlgECC {
		return t.deriveEK(tpm2.ECCEKTemplate)
	}
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(persistentEK)}.Execute(t.conn)
	if err == nil {
		pub, err := rsp.OutPublic.Contents()
		if err == nil && pub.Type == tpm2.TPMAlgRSA && pub.ObjectAttributes == tpm2.RSAEKTemplate.ObjectAttributes {
			return &object{handle: persistentEK, name: rsp.Name, public: rsp.OutPublic.Bytes(), unload: func() {}}, nil
		}
	}
	return t.deriveEK(tpm2.RSAEKTemplate)
}

func (t *TPM) deriveEK(template tpm2.TPMTPublic) (*object, error) {
	key, err := t.createPrimary(template)
	if err != nil {
		return nil, fmt.Errorf("derive endorsement key: %w", err)
	}
	return key, nil
}

// certificate reads the EK certificate and says which kind of key it is for.
func (t *TPM) certificate() ([]byte, tpm2.TPMAlgID, error) {
	for _, where := range []struct {
		index tpm2.TPMHandle
		kind  tpm2.TPMAlgID
	}{{nvCertificateRSA, tpm2.TPMAlgRSA}, {nvCertificateECC, tpm2.TPMAlgECC}} {
		data, err := t.readNV(where.index)
		if errors.Is(err, tpm2.TPMRCHandle) {
			continue
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read endorsement key certificate: %w", err)
		}
		return data, where.kind, nil
	}
	return nil, 0, ErrNoCertificate
}

// readNV reads a whole NV index with its own empty authorisation, in pieces that
// every TPM's buffer holds. The answer to an index that is not there is
// tpm2.TPMRCHandle.
func (t *TPM) readNV(index tpm2.TPMHandle) ([]byte, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.conn)
	if err != nil {
		return nil, err
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	const piece = 512
	var out []byte
	for len(out) < int(public.DataSize) {
		part, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: rsp.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: rsp.NVName},
			Size:       uint16(min(piece, int(public.DataSize)-len(out))),
			Offset:     uint16(len(out)),
		}.Execute(t.conn)
		if err != nil {
			return nil, err
		}
		if len(part.Data.Buffer) == 0 {
			return nil, errors.New("the TPM returned no data")
		}
		out = append(out, part.Data.Buffer...)
	}
	return out, nil
}

// endorsementPolicy satisfies the EK's policy, PolicySecret of the endorsement
// hierarchy (TCG EK Credential Profile 2.4, B.6.2), whose authorisation is empty.
func (t *TPM) endorsementPolicy(conn transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		PolicySession: session,
		NonceTPM:      nonce,
	}.Execute(conn)
	return err
}
