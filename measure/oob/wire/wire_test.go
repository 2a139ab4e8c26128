package wire

import (
	"errors"
	"io"
	"testing"
)

func TestStartScanRoundTrip(t *testing.T) {
	var nonce [NonceSize]byte
	for i := range nonce {
		nonce[i] = byte(i)
	}
	got, err := ParseStartScan(StartScan(nonce))
	if err != nil || got != nonce {
		t.Fatalf("got %x, %v", got, err)
	}
}

func TestStartScanRefuses(t *testing.T) {
	var nonce [NonceSize]byte
	whole := StartScan(nonce)
	other := append([]byte{1, 2, 3}, nonce[:]...)
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":              {nil, io.ErrUnexpectedEOF},
		"cut short":          {whole[:20], io.ErrUnexpectedEOF},
		"another enterprise": {other, ErrEnterprise},
	} {
		if _, err := ParseStartScan(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := ParseStartScan(append(whole, 0)); err == nil {
		t.Error("trailing byte accepted")
	}
}

func TestStateRoundTrip(t *testing.T) {
	want := State{Phase: Done, Nonce: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, ElapsedMS: 70000}
	got, err := ParseState(want.Encode())
	if err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(StartScan([NonceSize]byte{1}))
	f.Add(State{Phase: Running}.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if n, err := ParseStartScan(data); err != nil && n != [NonceSize]byte{} {
			t.Error("both a nonce and an error")
		}
		if s, err := ParseState(data); err != nil && s != (State{}) {
			t.Error("both a state and an error")
		}
		if n, err := ParseSELRecord(data); err != nil && n != [SELNonceSize]byte{} {
			t.Error("both a nonce and an error")
		}
	})
}
