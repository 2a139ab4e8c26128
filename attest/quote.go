package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Values of TPM 2.0 Library Specification, Part 2 (revision 1.59).
const (
	generatedValue = 0xff544347 // TPM_GENERATED_VALUE, 6.2
	stAttestQuote  = 0x8018     // TPM_ST_ATTEST_QUOTE, 6.9
	algSHA1        = 0x0004     // TPM_ALG_ID, 6.3
	algSHA256      = 0x000b
	algSHA384      = 0x000c
	algSHA512      = 0x000d
	algECDSA       = 0x0018
	maxSelections  = 16 // banks in one quote
)

var (
	// ErrQuote means that a quote is not a TPM's quote at all.
	ErrQuote = errors.New("malformed quote")
	// ErrSignature means that a quote was not signed by the given key.
	ErrSignature = errors.New("signature does not verify")
	// ErrNonce means that a quote answers another challenge.
	ErrNonce = errors.New("quote answers another nonce")
	// ErrPCRs means that PCR values are not the ones quoted.
	ErrPCRs = errors.New("PCR values differ from the quoted digest")
)

// Quote is what a verified TPMS_ATTEST of type quote says (TPM 2.0 Library,
// Part 2, 10.12.12).
type Quote struct {
	Signer     Hex // qualified name of the signing key
	Qualifying Hex // the caller's data: a nonce, or a hash bound to one

	// Clock is in milliseconds of powered time since the TPM was last cleared.
	// Safe is false when it may have run backwards since the last clean
	// shutdown.
	Clock uint64
	Safe  bool

	// ResetCount counts boots, RestartCount resumes and dynamic launches since
	// the last boot. FirmwareVersion is the TPM's own. The three are plain only
	// when the signing key is under the endorsement hierarchy.
	ResetCount      uint32
	RestartCount    uint32
	FirmwareVersion uint64

	Selections []Selection
	PCRDigest  Hex // SHA-256 over the selected PCRs, in order
}

// Selection names the PCRs of one bank, ascending.
type Selection struct {
	Algorithm string
	PCRs      []int
}

// VerifyQuote checks that quote (TPMS_ATTEST) is a TPM's quote over qualifying
// (the nonce, or a hash that binds one), signed by the ECDSA P-256 key
// akPublic (TPMT_PUBLIC), which must have the attributes that [CheckAK] asks
// for. Errors wrap [ErrAK], [ErrSignature], [ErrQuote] or [ErrNonce].
//
// The PCR values themselves are compared by [Quote.CheckPCRs].
func VerifyQuote(akPublic, quote, signature, qualifying []byte) (*Quote, error) {
	q, err := verifyQuote(akPublic, quote, signature)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(q.Qualifying, qualifying) != 1 {
		return nil, ErrNonce
	}
	return q, nil
}

// verifyQuote is VerifyQuote without the question of freshness.
func verifyQuote(akPublic, quote, signature []byte) (*Quote, error) {
	key, err := CheckAK(akPublic)
	if err != nil {
		return nil, err
	}
	if err := verifySignature(key, quote, signature); err != nil {
		return nil, err
	}
	return parseQuote(quote)
}

// verifySignature reads a TPMT_SIGNATURE (Part 2, 11.3.4) of ECDSA with
// SHA-256 and checks it over message.
func verifySignature(key *ecdsa.PublicKey, message, signature []byte) error {
	c := bin.Big(signature)
	scheme, hash := c.U16(), c.U16()
	if c.Err() == nil && (scheme != algECDSA || hash != algSHA256) {
		return fmt.Errorf("%w: scheme %#04x with hash %#04x, want ECDSA with SHA-256", ErrSignature, scheme, hash)
	}
	r := c.Bytes(int(c.U16()))
	s := c.Bytes(int(c.U16()))
	if err := c.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if c.Len() != 0 || len(r) > 32 || len(s) > 32 {
		return fmt.Errorf("%w: not a P-256 signature", ErrSignature)
	}
	sum := sha256.Sum256(message)
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)) {
		return ErrSignature
	}
	return nil
}

// parseQuote reads a TPMS_ATTEST (Part 2, 10.12.12) of type quote.
func parseQuote(data []byte) (*Quote, error) {
	c := bin.Big(data)
	magic, kind := c.U32(), c.U16()
	if c.Err() == nil && magic != generatedValue {
		return nil, fmt.Errorf("%w: magic %#08x was not made by a TPM", ErrQuote, magic)
	}
	if c.Err() == nil && kind != stAttestQuote {
		return nil, fmt.Errorf("%w: attestation type %#04x is not a quote", ErrQuote, kind)
	}
	var q Quote
	q.Signer = bytes.Clone(c.Bytes(int(c.U16())))
	q.Qualifying = bytes.Clone(c.Bytes(int(c.U16())))
	q.Clock = c.U64()
	q.ResetCount, q.RestartCount = c.U32(), c.U32()
	q.Safe = c.U8() == 1
	q.FirmwareVersion = c.U64()
	var err error
	if q.Selections, err = parseSelections(c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrQuote, err)
	}
	q.PCRDigest = bytes.Clone(c.Bytes(int(c.U16())))
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrQuote, err)
	}
	if c.Len() != 0 {
		return nil, fmt.Errorf("%w: %d bytes after the end", ErrQuote, c.Len())
	}
	return &q, nil
}

// parseSelections reads a TPML_PCR_SELECTION (Part 2, 10.9.7).
func parseSelections(c *bin.Cursor) ([]Selection, error) {
	count := c.U32()
	if count > maxSelections {
		return nil, fmt.Errorf("%d PCR banks, at most %d", count, maxSelections)
	}
	var out []Selection
	for range count {
		algorithm := algorithmName(c.U16())
		bitmap := c.Bytes(int(c.U8()))
		if c.Err() != nil {
			return nil, c.Err()
		}
		sel := Selection{Algorithm: algorithm}
		for pcr := range len(bitmap) * 8 {
			if bitmap[pcr/8]&(1<<(pcr%8)) != 0 {
				sel.PCRs = append(sel.PCRs, pcr)
			}
		}
		if slices.ContainsFunc(out, func(s Selection) bool { return s.Algorithm == algorithm }) {
			return nil, fmt.Errorf("bank %s is selected twice", algorithm)
		}
		out = append(out, sel)
	}
	return out, nil
}

// CheckPCRs compares banks with what the TPM quoted: exactly the selected PCRs,
// with exactly the quoted digest. Errors wrap [ErrPCRs].
func (q *Quote) CheckPCRs(banks []Bank) error {
	if err := validateBanks(banks); err != nil {
		return fmt.Errorf("%w: %w", ErrPCRs, err)
	}
	sum := sha256.New()
	count := 0
	for _, sel := range q.Selections {
		bank := findBank(banks, sel.Algorithm)
		for _, pcr := range sel.PCRs {
			value, ok := bank[pcr]
			if !ok {
				return fmt.Errorf("%w: %s PCR %d is quoted and its value is missing", ErrPCRs, sel.Algorithm, pcr)
			}
			sum.Write(value)
			count++
		}
	}
	if subtle.ConstantTimeCompare(sum.Sum(nil), q.PCRDigest) != 1 {
		return ErrPCRs
	}
	for _, bank := range banks {
		count -= len(bank.PCRs)
	}
	if count != 0 {
		return fmt.Errorf("%w: %d values are not covered by the quote", ErrPCRs, -count)
	}
	return nil
}

func findBank(banks []Bank, algorithm string) map[int]Hex {
	for _, b := range banks {
		if b.Algorithm == algorithm {
			return b.PCRs
		}
	}
	return nil
}

// validateBanks checks that each bank is known, once, and has values of its
// hash's size.
func validateBanks(banks []Bank) error {
	if len(banks) > maxSelections {
		return fmt.Errorf("%d PCR banks, at most %d", len(banks), maxSelections)
	}
	seen := make(map[string]bool)
	for _, b := range banks {
		size := digestSize(b.Algorithm)
		if size == 0 {
			return fmt.Errorf("unknown PCR bank %q", clip(b.Algorithm))
		}
		if seen[b.Algorithm] {
			return fmt.Errorf("bank %s occurs twice", b.Algorithm)
		}
		seen[b.Algorithm] = true
		for pcr, value := range b.PCRs {
			if pcr < 0 || pcr > 31 {
				return fmt.Errorf("PCR %d does not exist", pcr)
			}
			if len(value) != size {
				return fmt.Errorf("%s PCR %d has %d bytes, want %d", b.Algorithm, pcr, len(value), size)
			}
		}
	}
	return nil
}

func algorithmName(id uint16) string {
	switch id {
	case algSHA1:
		return "sha1"
	case algSHA256:
		return "sha256"
	case algSHA384:
		return "sha384"
	case algSHA512:
		return "sha512"
	}
	return fmt.Sprintf("%#04x", id)
}

func digestSize(algorithm string) int {
	switch algorithm {
	case "sha1":
		return 20
	case "sha256":
		return 32
	case "sha384":
		return 48
	case "sha512":
		return 64
	}
	return 0
}
