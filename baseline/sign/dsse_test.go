package sign

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const testType = "application/vnd.test"

func newKey(t testing.TB) *Key {
	t.Helper()
	k, err := LoadOrCreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sealed is an envelope of ours, to be taken apart.
func sealed(t testing.TB, payload string, k *Key) (data []byte, e envelope) {
	t.Helper()
	data, err := Seal(testType, []byte(payload), k)
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	if err != nil {
		t.Fatal(err)
	}
	return data, e
}

func TestOpenRefuses(t *testing.T) {
	ours, other := newKey(t), newKey(t)
	_, good := sealed(t, "what we signed", ours)
	_, theirs := sealed(t, "what they signed", other)
	edit := func(change func(*envelope)) envelope {
		e := good
		e.Signatures = slices.Clone(e.Signatures)
		change(&e)
		return e
	}
	for name, test := range map[string]struct {
		envelope envelope
		want     error
	}{
		"as sealed":              {good, nil},
		"payload changed":        {edit(func(e *envelope) { e.Payload = []byte("something else") }), ErrSignature},
		"another type":           {edit(func(e *envelope) { e.PayloadType += "x" }), ErrSignature},
		"no signature":           {edit(func(e *envelope) { e.Signatures = nil }), ErrSignature},
		"signature cut":          {edit(func(e *envelope) { e.Signatures[0].Sig = e.Signatures[0].Sig[:63] }), ErrSignature},
		"too many signatures":    {edit(func(e *envelope) { e.Signatures = make([]signature, maxSignatures+1) }), ErrSignature},
		"another's":              {theirs, ErrUntrusted},
		"another's, as if ours":  {edit(func(e *envelope) { e.Payload, e.Signatures[0].Sig = theirs.Payload, theirs.Signatures[0].Sig }), ErrSignature},
		"ours behind another's":  {edit(func(e *envelope) { e.Signatures = append(theirs.Signatures, e.Signatures...) }), nil},
		"under a name it is not": {edit(func(e *envelope) { e.Signatures[0].KeyID = theirs.Signatures[0].KeyID }), ErrSignature},
		"of another algorithm":   {edit(func(e *envelope) { e.Signatures[0].Algorithm = "none" }), ErrSignature},
	} {
		data, err := json.Marshal(test.envelope)
		if err != nil {
			t.Fatal(err)
		}
		payload, key, err := Open(testType, data, []PublicKey{ours.Public()})
		if !errors.Is(err, test.want) || (err == nil) != (string(payload) == "what we signed" && key != nil) {
			t.Errorf("%s: %q, %v, want %v", name, payload, err, test.want)
		}
	}
}

// No bit of an envelope is free, nor can anything be put into it.
func TestOpenRefusesEveryChange(t *testing.T) {
	ours := newKey(t)
	good, _ := sealed(t, "what we signed", ours)
	trusted := []PublicKey{ours.Public()}
	for bit := range len(good) * 8 {
		data := bytes.Clone(good)
		data[bit/8] ^= 1 << (bit % 8)
		if _, _, err := Open(testType, data, trusted); err == nil {
			t.Errorf("bit %d of byte %d: opens", bit%8, bit/8)
		}
	}
	for name, data := range map[string][]byte{
		"another field":   bytes.Replace(good, []byte("{"), []byte(`{"note":"x",`), 1),
		"a field twice":   bytes.Replace(good, []byte("{"), []byte(`{"payload":"AAAA",`), 1),
		"white space":     bytes.Replace(good, []byte(":"), []byte(": "), 1),
		"something after": append(bytes.Clone(good), '\n'),
	} {
		if _, _, err := Open(testType, data, trusted); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever an envelope is, what comes out of it was signed by the trusted key.
func FuzzOpen(f *testing.F) {
	ours := newKey(f)
	good, _ := sealed(f, "what we signed", ours)
	theirs, _ := sealed(f, "what they signed", newKey(f))
	f.Add(good)
	f.Add(theirs)
	f.Fuzz(func(t *testing.T, data []byte) {
		payload, key, err := Open(testType, data, []PublicKey{ours.Public()})
		if err == nil && (string(payload) != "what we signed" || key == nil) || err != nil && (payload != nil || key != nil) {
			t.Errorf("%q, %v, %v", payload, key, err)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	path := filepath.Join(f.TempDir(), "key.pub")
	if err := WritePublicKey(path, newKey(f).Public()); err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := ParsePublicKey(text); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGfEJ1cC1Gm7VYQpMF0Ld0zPgqRfMhrrM7wNlVbHUYp6 a"))
	f.Add(bytes.Repeat([]byte("-----BEGIN PUBLIC KEY-----\n"), 3))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParsePublicKey(text)
		if (key == nil) == (err == nil) {
			t.Errorf("%v, %v", key, err)
		}
	})
}
