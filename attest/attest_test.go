package attest_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"github.com/plumbline-sec/plumbline/attest"
)

func TestVerifyQuote(t *testing.T) {
	ev := labEvidence(t)
	q, err := attest.VerifyQuote(ev.AK, ev.Quote, ev.Signature, labNonce)
	if err != nil {
		t.Fatal(err)
	}
	if q.ResetCount == 0 || q.FirmwareVersion == 0 || len(q.Selections) != 1 || len(q.Selections[0].PCRs) != 16 {
		t.Errorf("quote: %+v", q)
	}
	edit := func(b []byte, at int) []byte {
		out := bytes.Clone(b)
		out[at] ^= 1
		return out
	}
	m := newMachine(t)
	certify := m.quote(labNonce, attest.Bank{})
	certify[5] = 0x17 // TPM_ST_ATTEST_CERTIFY
	forged := edit(m.quote(labNonce, attest.Bank{}), 0)
	for name, c := range map[string]struct {
		ak, quote, signature, nonce []byte
		want                        error
	}{
		"another nonce":         {ev.AK, ev.Quote, ev.Signature, []byte("x"), attest.ErrNonce},
		"no nonce":              {ev.AK, ev.Quote, ev.Signature, nil, attest.ErrNonce},
		"edited quote":          {ev.AK, edit(ev.Quote, 40), ev.Signature, labNonce, attest.ErrSignature},
		"edited signature":      {ev.AK, ev.Quote, edit(ev.Signature, 20), labNonce, attest.ErrSignature},
		"no signature":          {ev.AK, ev.Quote, nil, labNonce, attest.ErrSignature},
		"signature of RSA":      {ev.AK, ev.Quote, append([]byte{0, 0x14, 0, 0x0b, 1, 0}, make([]byte, 256)...), labNonce, attest.ErrSignature},
		"longer signature":      {ev.AK, ev.Quote, append(bytes.Clone(ev.Signature), 0), labNonce, attest.ErrSignature},
		"made outside of a TPM": {m.public(nil), forged, m.sign(forged), labNonce, attest.ErrQuote},
		"not a quote":           {m.public(nil), certify, m.sign(certify), labNonce, attest.ErrQuote},
		"empty":                 {m.public(nil), nil, m.sign(nil), labNonce, attest.ErrQuote},
	} {
		if _, err := attest.VerifyQuote(c.ak, c.quote, c.signature, c.nonce); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestRefusesWeakKeys: keys whose signature proves nothing about a TPM.
func TestRefusesWeakKeys(t *testing.T) {
	m := newMachine(t)
	if _, err := attest.CheckAK(m.public(nil)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tpm2.TPMAObject){
		"signs anything":        func(a *tpm2.TPMAObject) { a.Restricted = false },
		"can leave the TPM":     func(a *tpm2.TPMAObject) { a.FixedTPM = false },
		"can change its parent": func(a *tpm2.TPMAObject) { a.FixedParent = false },
		"made outside":          func(a *tpm2.TPMAObject) { a.SensitiveDataOrigin = false },
		"does not sign":         func(a *tpm2.TPMAObject) { a.SignEncrypt = false },
		"decrypts":              func(a *tpm2.TPMAObject) { a.Decrypt = true },
	} {
		if _, err := attest.CheckAK(m.public(change)); !errors.Is(err, attest.ErrAK) {
			t.Errorf("%s: %v, want ErrAK", name, err)
		}
	}
	off := m.public(nil)
	off[len(off)-1] ^= 1 // a point beside the curve
	for name, public := range map[string][]byte{
		"point off the curve": off,
		"trailing byte":       append(m.public(nil), 0),
		"cut":                 m.public(nil)[:20],
		"empty":               nil,
		"huge":                make([]byte, 1<<16),
	} {
		if _, err := attest.CheckAK(public); !errors.Is(err, attest.ErrAK) {
			t.Errorf("%s: %v, want ErrAK", name, err)
		}
	}
}

func TestParsePolicy(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	for _, c := range []struct {
		name, text string
		want       error
		mentions   string
	}{
		{"all of it", `
name = "host"
[secure_boot]
required = true
pk = ["` + digest + `"]
dbx = ["sha256:` + digest + `"]
[[boot]]
name = "kernel"
digest = "` + strings.ToUpper(digest) + `"
[pcrs]
7 = ["` + digest + `"]
[firmware]
versions = ["1.0"]
blobs = ["` + digest + `"]
drivers = ["` + digest + `"]
[tpm]
minimum_firmware = "2019.1023"
ak = ["000b` + digest + `"]
[ima]
required = true
allow_violations = true
exclude = ["/tmp/**"]
[ima.files]
"/usr/bin/env" = ["sha256:` + digest + `"]
`, nil, ""},
		{"nothing", "", attest.ErrEmptyPolicy, ""},
		{"a name alone", `name = "x"`, attest.ErrEmptyPolicy, ""},
		{"only what must not be asked", "[secure_boot]\nrequired = false", attest.ErrEmptyPolicy, ""},
		{"only keys", "[tpm]\nak = [\"000b" + digest + `"]`, attest.ErrEmptyPolicy, ""},
		{"unknown key", "[secure_boot]\nrequired = true\nrequird = true", attest.ErrPolicy, "requird"},
		{"unknown table", "[secure_boot]\nrequired = true\n[secureboot]", attest.ErrPolicy, "secureboot"},
		{"not TOML", "secure_boot", attest.ErrPolicy, ""},
		{"digest that is none", "[[boot]]\ndigest = \"xyz\"", attest.ErrPolicy, "xyz"},
		{"short digest", "[[boot]]\ndigest = \"abcd\"", attest.ErrPolicy, ""},
		{"image without digest", "[[boot]]\nname = \"x\"", attest.ErrPolicy, ""},
		{"PCR 24", "[pcrs]\n24 = [\"" + digest + `"]`, attest.ErrPolicy, "24"},
		{"PCR without value", "[pcrs]\n7 = []", attest.ErrPolicy, "7"},
		{"firmware version of words", "[tpm]\nminimum_firmware = \"new\"", attest.ErrPolicy, "new"},
		{"file without algorithm", "[ima.files]\n\"/a\" = [\"" + digest + `"]`, attest.ErrPolicy, "/a"},
		{"file with SHA-1", "[ima.files]\n\"/a\" = [\"sha1:" + digest[:40] + `"]`, attest.ErrPolicy, "/a"},
		{"exclusions from nothing", "[ima]\nrequired = true\nexclude = [\"/**\"]", attest.ErrPolicy, "exclude"},
	} {
		policy, err := attest.ParsePolicy([]byte(c.text))
		if !errors.Is(err, c.want) || (policy == nil) == (err == nil) {
			t.Errorf("%s: %v, %v, want %v", c.name, policy, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), c.mentions) {
			t.Errorf("%s: %q does not mention %q", c.name, err, c.mentions)
		}
	}
}

// TestReferencePolicyRoundTrip writes a policy and reads it back.
func TestReferencePolicyRoundTrip(t *testing.T) {
	policy := labPolicy(t)
	var text bytes.Buffer
	if err := policy.Encode(&text); err != nil {
		t.Fatal(err)
	}
	again, err := attest.ParsePolicy(text.Bytes())
	if err != nil {
		t.Fatalf("%v\n%s", err, text.Bytes())
	}
	if diff := cmp.Diff(policy, again); diff != "" {
		t.Error(diff)
	}
}

// TestNoPolicyFromBadEvidence: what does not verify is no reference.
func TestNoPolicyFromBadEvidence(t *testing.T) {
	ev := labEvidence(t)
	ev.EventLog = ev.EventLog[:len(ev.EventLog)-1]
	if _, err := attest.ReferencePolicy(ev); !errors.Is(err, attest.ErrEvidence) {
		t.Errorf("cut log: %v, want ErrEvidence", err)
	}
	ev = labEvidence(t)
	ev.Signature[10] ^= 1
	if _, err := attest.ReferencePolicy(ev); !errors.Is(err, attest.ErrEvidence) {
		t.Errorf("bad signature: %v, want ErrEvidence", err)
	}
}

func TestDecodeEvidence(t *testing.T) {
	ev := labEvidence(t)
	data, err := ev.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := attest.DecodeEvidence(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ev, again); diff != "" {
		t.Error(diff)
	}
	for name, c := range map[string]struct {
		old, new string
		want     error
	}{
		"version 2":       {`"version": 1`, `"version": 2`, attest.ErrVersion},
		"no version":      {`"version": 1`, `"versio": 1`, attest.ErrVersion},
		"unknown key":     {`"nonce"`, `"nounce"`, attest.ErrEvidence},
		"unknown bank":    {`"sha256"`, `"md5"`, attest.ErrEvidence},
		"PCR 99":          {`"15":`, `"99":`, attest.ErrEvidence},
		"short PCR value": {`"15": "00`, `"15": "`, attest.ErrEvidence},
		"cut":             {"\n}", "", attest.ErrEvidence},
		"two documents":   {"\n}\n", "\n}\n{}", attest.ErrEvidence},
	} {
		spoiled := bytes.Replace(data, []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(spoiled, data) {
			t.Fatalf("%s: nothing was spoiled", name)
		}
		if _, err := attest.DecodeEvidence(spoiled); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestExplainDamagedEvidence(t *testing.T) {
	ev := labEvidence(t)
	ev.EventLog = ev.EventLog[:len(ev.EventLog)-1]
	x, err := attest.Explain(ev)
	if err == nil || len(x.Events) < 30 {
		t.Errorf("%d events, error %v: want both", len(x.Events), err)
	}
	ev = labEvidence(t)
	ev.Signature[10] ^= 1
	x, err = attest.Explain(ev)
	if err != nil || x.Verified || len(x.Claims.Boot) != 0 || x.Events[23].Proved {
		t.Errorf("unsigned evidence is told as fact: %+v, %v", x.Claims, err)
	}
}

// FuzzDecodeEvidence: evidence or an error, and evidence can always be judged.
func FuzzDecodeEvidence(f *testing.F) {
	data, err := labEvidence(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	policy := labPolicy(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		ev, err := attest.DecodeEvidence(data)
		if (ev == nil) == (err == nil) {
			t.Fatal("both or neither")
		}
		if err != nil {
			return
		}
		r, err := attest.Verify(ev, policy, attest.VerifyOptions{Nonce: []byte("fresh")})
		if err != nil || r.Outcome == attest.Pass {
			t.Fatalf("outcome %v, %v: no evidence answers this nonce", r, err)
		}
		_, _ = attest.Explain(ev)
	})
}

// FuzzParsePolicy: a policy that asks for something, or an error.
func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte("[secure_boot]\nrequired = true\n"))
	f.Add([]byte("[ima.files]\n\"/a\" = [\"sha256:00\"]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		policy, err := attest.ParsePolicy(data)
		if (policy == nil) == (err == nil) {
			t.Fatal("both or neither")
		}
	})
}

// FuzzVerifyQuote: what no TPM signed is never a quote.
func FuzzVerifyQuote(f *testing.F) {
	ev := labEvidence(f)
	f.Add([]byte(ev.AK), ev.Quote, ev.Signature)
	f.Fuzz(func(t *testing.T, ak, quote, signature []byte) {
		q, err := attest.VerifyQuote(ak, quote, signature, []byte("nonce that none answers"))
		if q != nil || err == nil {
			t.Fatal("verified")
		}
	})
}
