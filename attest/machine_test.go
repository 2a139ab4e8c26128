package attest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// labNonce is the nonce of testdata/lab/evidence.json.
var labNonce = []byte{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}

// labEvidence is evidence of a real boot; see testdata/lab/README.md.
func labEvidence(t testing.TB) *attest.Evidence {
	t.Helper()
	data, err := os.ReadFile("testdata/lab/evidence.json")
	if err != nil {
		t.Fatal(err)
	}
	ev, err := attest.DecodeEvidence(data)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// labPolicy allows what the evidence of the lab shows.
func labPolicy(t testing.TB) *attest.Policy {
	t.Helper()
	policy, err := attest.ReferencePolicy(labEvidence(t))
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

// machine is a model of a machine whose owner controls everything, its TPM's
// key included. Tests use it for boots that the lab's real TPM did not see.
type machine struct {
	t     testing.TB
	key   *ecdsa.PrivateKey
	log   *eventlog.Log
	pcrs  map[int]attest.Hex // sha256; from the log's replay unless set
	ima   []byte
	nonce []byte
}

// newMachine boots as the lab's machine did.
func newMachine(t testing.TB) *machine {
	t.Helper()
	ev := labEvidence(t)
	log, err := eventlog.Parse(ev.EventLog)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{t: t, key: key, log: log, pcrs: ev.Banks[0].PCRs, ima: ev.IMALog, nonce: labNonce}
}

// boot sets the PCRs that the log leads to, as a firmware that really measured
// those events would; PCR 10 keeps its value.
func (m *machine) boot() *machine {
	m.t.Helper()
	registers, err := m.log.Replay(eventlog.Bank("sha256"))
	if err != nil {
		m.t.Fatal(err)
	}
	for pcr := range 16 {
		if pcr != 10 {
			m.pcrs[pcr] = registers[pcr].Value
		}
	}
	return m
}

// measure replaces an event's data, and its digest by that of the data.
func (m *machine) measure(event int, data []byte) *machine {
	e := &m.log.Events[event]
	e.Data = data
	sum := sha256.Sum256(data)
	e.Digests[0].Value = sum[:]
	return m
}

// evidence has the machine's key quote what the machine holds.
func (m *machine) evidence() *attest.Evidence {
	m.t.Helper()
	bank := attest.Bank{Algorithm: "sha256", PCRs: m.pcrs}
	quote := m.quote(m.nonce, bank)
	return &attest.Evidence{
		Version: attest.EvidenceVersion, Nonce: m.nonce, AK: m.public(nil), Quote: quote, Signature: m.sign(quote),
		Banks: []attest.Bank{bank}, EventLog: encodeLog(m.log), IMALog: m.ima,
	}
}

// public is the key's TPMT_PUBLIC; change may spoil it.
func (m *machine) public(change func(*tpm2.TPMAObject)) []byte {
	attributes := tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true,
	}
	if change != nil {
		change(&attributes)
	}
	point, err := m.key.PublicKey.Bytes() // 4, X, Y
	if err != nil {
		m.t.Fatal(err)
	}
	return tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: attributes,
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]},
			Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		}),
	})
}

func (m *machine) quote(nonce []byte, bank attest.Bank) []byte {
	sum := sha256.New()
	var selected []uint
	for pcr := range 24 {
		if value, ok := bank.PCRs[pcr]; ok {
			selected = append(selected, uint(pcr))
			sum.Write(value)
		}
	}
	return tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote,
		ExtraData: tpm2.TPM2BData{Buffer: nonce},
		ClockInfo: tpm2.TPMSClockInfo{ResetCount: 7, RestartCount: 1, Safe: true},
		// That of the lab's swtpm.
		FirmwareVersion: 0x2019102300163636,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
				Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(selected...),
			}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: sum.Sum(nil)},
		}),
	})
}

func (m *machine) sign(message []byte) []byte {
	m.t.Helper()
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, m.key, sum[:])
	if err != nil {
		m.t.Fatal(err)
	}
	return tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
		}),
	})
}

// encodeLog writes a log as firmware does: PFP 10.2.1, then 10.2.2.
func encodeLog(log *eventlog.Log) []byte {
	var out bytes.Buffer
	put := func(v ...uint32) { binary.Write(&out, binary.LittleEndian, v) }
	for i, e := range log.Events {
		put(uint32(e.PCR), uint32(e.Type))
		if i > 0 {
			put(uint32(len(e.Digests)))
		}
		for _, d := range e.Digests {
			if i > 0 {
				binary.Write(&out, binary.LittleEndian, d.Algorithm)
			}
			out.Write(d.Value)
		}
		put(uint32(len(e.Data)))
		out.Write(e.Data)
	}
	return out.Bytes()
}
