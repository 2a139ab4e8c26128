package dump

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// lzoPeriodic compresses bytes that repeat every 251, as those of ram do: what
// comes first as it is, then one match for the rest.
func lzoPeriodic(b []byte) []byte {
	const period = 251
	out := append([]byte{0, period - 18}, b[:period]...)
	out = append(out, 0x20)
	rest := len(b) - period - 33
	for ; rest > 255; rest -= 255 {
		out = append(out, 0)
	}
	out = append(out, byte(rest))
	out = le.AppendUint16(out, (period-1)<<2)
	return append(out, 0x11, 0, 0)
}

// Each instruction of the format once; streams of a compressor that no one here
// wrote are in the test of makedumpfile's files.
func TestUnLZO(t *testing.T) {
	end := "\x11\x00\x00"
	far := bytes.Repeat([]byte("x"), 2100)
	run := append(append([]byte{0}, make([]byte, 8)...), byte(2100-18-8*255))
	tests := map[string]struct {
		in, want string
		err      error
	}{
		"empty":                {end, "", nil},
		"first literals":       {"\x15abcd" + end, "abcd", nil},
		"run":                  {"\x01abcd" + end, "abcd", nil},
		"long run":             {"\x00\x01abcdefghijklmnopqrs" + end, "abcdefghijklmnopqrs", nil},
		"3 or 4 near":          {"\x15abcd\x4c\x00" + end, "abcdabc", nil},
		"5 to 8 near":          {"\x15abcd\xec\x00" + end, "abcdabcdabcd", nil},
		"16 KiB, overlapping":  {"\x15abcd\x23\x00\x00" + end, "abcdddddd", nil},
		"literals of a match":  {"\x15abcd\x4d\x00z" + end, "abcdabcz", nil},
		"2 after 1 to 3":       {"\x15abcd\x4d\x00z\x00\x00" + end, "abcdabczzz", nil},
		"3 far after a run":    {string(run) + string(far) + "\x00\x00" + end, string(far) + "xxx", nil},
		"cut":                  {"\x15ab", "", io.ErrUnexpectedEOF},
		"no end":               {"\x15abcd", "", io.ErrUnexpectedEOF},
		"more after the end":   {"\x15abcd" + end + "\x00", "", errLZO},
		"before the beginning": {"\x15abcd\x50\x00" + end, "", errLZO},
		"16 to 48 KiB":         {"\x15abcd\x13\x04\x00" + end, "", errLZO},
		"too long":             {"\x15abcd\x20" + string(make([]byte, 20)) + "\x01\x00\x00" + end, "", errLZO},
		"endless":              {"\x15abcd\x20" + string(make([]byte, 4000)), "", errLZO},
		"nothing":              {"", "", io.ErrUnexpectedEOF},
	}
	for name, tt := range tests {
		got, err := unLZO([]byte(tt.in), 4096)
		if string(got) != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %q, %v; want %q, %v", name, got, err, tt.want, tt.err)
		}
	}
}

func FuzzUnLZO(f *testing.F) {
	f.Add(lzoPeriodic(ram()[0].bytes[:4096]))
	f.Add([]byte("\x15abcd\x4d\x00z\x00\x00\x11\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := unLZO(b, 4096)
		if len(out) > 4096 || err != nil && out != nil {
			t.Fatalf("%d bytes, %v", len(out), err)
		}
	})
}
