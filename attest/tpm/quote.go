package tpm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/plumbline-sec/plumbline/attest"
)

// ErrNoBank means that the TPM has no PCR bank of SHA-256 or better.
var ErrNoBank = errors.New("no PCR bank of SHA-256 or better is active")

// DefaultPCRs are the PCRs quoted when none are named: those that the
// firmware, the boot loader and the operating system extend at boot (TCG PC
// Client PFP 1.05, 2.3.4). 16 and 23 can be reset by software, 17 to 22 are for
// dynamic launches.
var DefaultPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

var algorithms = []struct {
	name string
	id   tpm2.TPMAlgID
}{
	{"sha256", tpm2.TPMAlgSHA256},
	{"sha384", tpm2.TPMAlgSHA384},
	{"sha512", tpm2.TPMAlgSHA512},
	{"sha1", tpm2.TPMAlgSHA1},
}

// ActiveBanks lists the active PCR banks, in order of preference: sha256
// first, sha1 last.
func (t *TPM) ActiveBanks() ([]string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(t.conn)
	if err != nil {
		return nil, fmt.Errorf("read PCR allocation: %w", err)
	}
	allocated, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("read PCR allocation: %w", err)
	}
	var out []string
	for _, a := range algorithms {
		if slices.ContainsFunc(allocated.PCRSelections, func(s tpm2.TPMSPCRSelection) bool {
			return s.Hash == a.id && slices.ContainsFunc(s.PCRSelect, func(b byte) bool { return b != 0 })
		}) {
			out = append(out, a.name)
		}
	}
	return out, nil
}

// Quote has ak sign qualifying (a nonce or a hash, at most 64 bytes) together
// with the selected PCRs. It returns a TPMS_ATTEST and a TPMT_SIGNATURE, which
// attest.VerifyQuote reads.
func (t *TPM) Quote(ak *AK, qualifying []byte, selection attest.Selection) (quote, signature []byte, err error) {
	sel, err := selectPCRs(selection)
	if err != nil {
		return nil, nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key, err := t.loadAK(ak)
	if err != nil {
		return nil, nil, err
	}
	defer key.unload()
	return t.quote(key, qualifying, sel)
}

func (t *TPM) quote(key *object, qualifying []byte, sel tpm2.TPMLPCRSelection) (quote, signature []byte, err error) {
	rsp, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: key.handle, Name: key.name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      sel,
	}.Execute(t.conn)
	if err != nil {
		return nil, nil, fmt.Errorf("quote: %w", err)
	}
	return rsp.Quoted.Bytes(), tpm2.Marshal(rsp.Signature), nil
}

// ReadPCRs reads the selected PCRs; their values are a moment's and nothing
// vouches for them.
func (t *TPM) ReadPCRs(selection attest.Selection) (attest.Bank, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.readPCRs(selection)
}

func (t *TPM) readPCRs(selection attest.Selection) (attest.Bank, error) {
	bank := attest.Bank{Algorithm: selection.Algorithm, PCRs: make(map[int]attest.Hex)}
	// A TPM returns as many as fit, at least eight at a time (Part 3, 22.4).
	for part := range slices.Chunk(selection.PCRs, 8) {
		sel, err := selectPCRs(attest.Selection{Algorithm: selection.Algorithm, PCRs: part})
		if err != nil {
			return attest.Bank{}, err
		}
		rsp, err := tpm2.PCRRead{PCRSelectionIn: sel}.Execute(t.conn)
		if err != nil {
			return attest.Bank{}, fmt.Errorf("read PCRs: %w", err)
		}
		if len(rsp.PCRValues.Digests) != len(part) {
			return attest.Bank{}, fmt.Errorf("read PCRs: asked for %v, got %d values", part, len(rsp.PCRValues.Digests))
		}
		for i, pcr := range part {
			bank.PCRs[pcr] = rsp.PCRValues.Digests[i].Buffer
		}
	}
	return bank, nil
}

func selectPCRs(s attest.Selection) (tpm2.TPMLPCRSelection, error) {
	var pcrs []uint
	for _, pcr := range s.PCRs {
		if pcr < 0 || pcr > 23 {
			return tpm2.TPMLPCRSelection{}, fmt.Errorf("PCR %d does not exist", pcr)
		}
		pcrs = append(pcrs, uint(pcr))
	}
	for _, a := range algorithms {
		if a.name == s.Algorithm {
			return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
				Hash:      a.id,
				PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...),
			}}}, nil
		}
	}
	return tpm2.TPMLPCRSelection{}, fmt.Errorf("no PCR bank %q", s.Algorithm)
}
