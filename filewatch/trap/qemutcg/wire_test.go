package qemutcg

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestReadFrame(t *testing.T) {
	whole := AppendFrame(nil, FrameLost, []byte(`{"first":1}`))
	r := bufio.NewReader(bytes.NewReader(whole))
	ft, payload, err := ReadFrame(r)
	if ft != FrameLost || string(payload) != `{"first":1}` || err != nil {
		t.Errorf("%d %q %v", ft, payload, err)
	}
	if _, _, err := ReadFrame(r); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for n := 1; n < len(whole); n++ {
		if _, _, err := ReadFrame(bufio.NewReader(bytes.NewReader(whole[:n]))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
	for _, bad := range [][]byte{{0, 0, 0, 0, 1}, {1, 0, 0, 0, 0}, {1, 0, 0, 0, 99}, {0xff, 0xff, 0xff, 0xff, 4}, {0, 0, 8, 0, 4}} {
		if _, _, err := ReadFrame(bufio.NewReader(bytes.NewReader(bad))); !errors.Is(err, ErrBadFrame) {
			t.Errorf("% x: %v", bad, err)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrame(nil, FrameHello, []byte("{}")))
	f.Fuzz(func(t *testing.T, b []byte) {
		ft, payload, err := ReadFrame(bufio.NewReader(bytes.NewReader(b)))
		if (payload == nil) == (err == nil) || (ft == 0) == (err == nil) {
			t.Fatalf("%d %v %v", ft, payload, err)
		}
	})
}
