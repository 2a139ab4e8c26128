package attest_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/plumbline-sec/plumbline/attest"
)

// bothBanks adds a bank of SHA-512, which nothing was measured into, to the quote
// of a machine whose SHA-256 bank is as it should be.
func bothBanks(m *machine) *attest.Evidence {
	ev := m.evidence()
	sha512 := attest.Bank{Algorithm: "sha512", PCRs: map[int]attest.Hex{}}
	sum := sha256.New()
	var selected []uint
	for pcr := range 24 {
		if value, ok := ev.Banks[0].PCRs[pcr]; ok {
			selected = append(selected, uint(pcr))
			sum.Write(value)
		}
	}
	for _, pcr := range selected {
		sha512.PCRs[int(pcr)] = make([]byte, 64)
		sum.Write(sha512.PCRs[int(pcr)])
	}
	ev.Banks = append(ev.Banks, sha512)
	choice := tpm2.PCClientCompatible.PCRs(selected...)
	ev.Quote = tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, ExtraData: tpm2.TPM2BData{Buffer: labNonce},
		ClockInfo: tpm2.TPMSClockInfo{ResetCount: 7, RestartCount: 1, Safe: true}, FirmwareVersion: 0x2019102300163636,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
				{Hash: tpm2.TPMAlgSHA256, PCRSelect: choice}, {Hash: tpm2.TPMAlgSHA512, PCRSelect: choice}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: sum.Sum(nil)},
		}),
	})
	ev.Signature = m.sign(ev.Quote)
	return ev
}

// Who attests must not choose the bank: one that the firmware does not extend can
// be filled with whatever a log shall show.
func TestAttesterDoesNotChooseTheBank(t *testing.T) {
	ev := bothBanks(newMachine(t).boot())
	opts := attest.VerifyOptions{Nonce: labNonce, AK: ev.AK}
	if r := verify(t, ev, labPolicy(t), opts); r.Outcome != attest.Pass {
		t.Errorf("SHA-256 beside another bank: %s %+v", r.Outcome, r.Checks)
	}
	policy := labPolicy(t)
	policy.TPM.Bank = "sha384"
	if r := verify(t, ev, policy, opts); outcomes(r)[attest.CheckQuote] != attest.Fail {
		t.Errorf("the bank of the policy is not quoted: %+v", outcomes(r))
	}
	policy.TPM.Bank = "sha512"
	if r := verify(t, ev, policy, opts); r.Outcome == attest.Pass {
		t.Error("a bank that nothing was measured into passes")
	}
	var text bytes.Buffer
	policy.TPM.Bank = "sha1"
	if err := policy.Encode(&text); err != nil {
		t.Fatal(err)
	}
	if _, err := attest.ParsePolicy(text.Bytes()); !errors.Is(err, attest.ErrPolicy) {
		t.Errorf("SHA-1 as the bank: %v", err)
	}
}
