package tpm

import "testing"

func FuzzParseStoredKey(f *testing.F) {
	f.Add([]byte("-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := StoredPublicKey(text)
		if (key == nil) == (err == nil) {
			t.Fatalf("%v and %v", key, err)
		}
	})
}
