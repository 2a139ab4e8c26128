package check

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
)

// targetFacts are targets in the form in which observations hold those of which there
// are thousands in each scan: base64 of a record for each, as to write and read them as
// JSON takes a fifth of the time of a scan of which nothing changed.
//
// A record is a byte of flags, the distance of Value from the one before, At, Count,
// Low and High if they are there, and Path and Symbol, if it is there, with their
// lengths before them. Numbers are unsigned varints (encoding/binary), At, Low and High
// 64 bits, the low byte first.
type targetFacts []targetFact

// Flags of a record.
const (
	targetStarts = 1 << iota // Start
	targetNamed              // has a Symbol
	targetSpread             // has Low and High
)

// maxTargetText bounds a path or a symbol, in bytes. Those of a scan are of a dozen
// names of C, numbers and what a process calls itself.
const maxTargetText = 1 << 14

var errTargets = errors.New("targets are malformed")

// MarshalText implements encoding.TextMarshaler.
func (l targetFacts) MarshalText() ([]byte, error) {
	var b []byte
	text := func(s string) {
		s = strings.ToValidUTF8(s, "\uFFFD")
		s = strings.ToValidUTF8(s[:min(len(s), maxTargetText)], "")
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	before := address(0)
	for i := range l {
		t := &l[i]
		var flags byte
		if t.Start {
			flags |= targetStarts
		}
		if t.Symbol != "" {
			flags |= targetNamed
		}
		if t.Low != 0 || t.High != 0 {
			flags |= targetSpread
		}
		b = binary.AppendUvarint(append(b, flags), uint64(t.Value-before))
		b = binary.LittleEndian.AppendUint64(b, uint64(t.At))
		b = binary.AppendUvarint(b, uint64(t.Count))
		if flags&targetSpread != 0 {
			b = binary.LittleEndian.AppendUint64(b, uint64(t.Low))
			b = binary.LittleEndian.AppendUint64(b, uint64(t.High))
		}
		if text(t.Path); flags&targetNamed != 0 {
			text(t.Symbol)
		}
		before = t.Value
	}
	return base64.StdEncoding.AppendEncode(make([]byte, 0, base64.StdEncoding.EncodedLen(len(b))), b), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *targetFacts) UnmarshalText(text []byte) error {
	raw, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return errTargets
	}
	r := targetReader{rest: string(raw)}
	const least = 12 // bytes of a record
	*l = slices.Grow((*l)[:0], min(len(raw)/least, 1<<13))
	before := address(0)
	for r.rest != "" && !r.bad {
		var t targetFact
		flags := r.bytes(1)[0]
		t.Value = before + address(r.number())
		t.At, t.Count = address(r.word()), int64(r.number())
		if flags&targetSpread != 0 {
			t.Low, t.High = address(r.word()), address(r.word())
		}
		t.Path, t.Start = r.text(), flags&targetStarts != 0
		if flags&targetNamed != 0 {
			t.Symbol = r.text()
		}
		r.bad = r.bad || flags&^(targetStarts|targetNamed|targetSpread) != 0 || t.Count < 0
		before = t.Value
		*l = append(*l, t)
	}
	if r.bad {
		*l = nil
		return errTargets
	}
	return nil
}

// targetReader reads records. Once something is bad, all is zero.
type targetReader struct {
	rest string
	bad  bool
}

// bytes returns the next n, or nothing.
func (r *targetReader) bytes(n int) string {
	if r.bad = r.bad || n > len(r.rest); r.bad {
		return ""
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *targetReader) word() uint64 {
	if b := r.bytes(8); b != "" {
		return binary.LittleEndian.Uint64([]byte(b))
	}
	return 0
}

func (r *targetReader) number() uint64 {
	v, n := binary.Uvarint([]byte(r.rest[:min(len(r.rest), binary.MaxVarintLen64)]))
	if r.bad = r.bad || n <= 0; r.bad {
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *targetReader) text() string {
	n := r.number()
	if n > maxTargetText {
		r.bad = true
		return ""
	}
	s := r.bytes(int(n))
	r.bad = r.bad || !utf8.ValidString(s)
	return s
}
