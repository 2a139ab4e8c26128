package remote

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBundleRoundTrip(t *testing.T) {
	for _, bodies := range [][][]byte{nil, {[]byte("a")}, {{}, bytes.Repeat([]byte{7}, 4096), {}}} {
		got, err := DecodeBundle(EncodeBundle(bodies))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(bodies, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func FuzzDecodeBundle(f *testing.F) {
	f.Add(EncodeBundle([][]byte{[]byte("abc"), {}}))
	f.Add([]byte{0xFF, 0xFF, 0xFF, 0xFF})
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		bodies, err := DecodeBundle(data)
		if err != nil {
			if bodies != nil || !errors.Is(err, ErrBundle) {
				t.Errorf("DecodeBundle = %d bodies and %v", len(bodies), err)
			}
			return
		}
		if !bytes.Equal(EncodeBundle(bodies), data) {
			t.Error("a decoded bundle encodes to other bytes")
		}
	})
}
