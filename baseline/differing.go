package baseline

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// differing are the encoded records of two states that have no equal partner in
// the other one, each in order. Comparing them gives what comparing all gives:
// equal records make no change and take part in none.
type differing struct {
	old, new [][]byte
	size     int
}

// maxDiffering bounds what is held of them.
const maxDiffering = 256 << 20

// errTooDifferent: so much differs that nothing is gained by following.
var errTooDifferent = fmt.Errorf("more than %d MiB of records differ from the baseline", maxDiffering>>20)

// check counts n bytes more.
func (d *differing) check(n int) error {
	if d.size += n; d.size > maxDiffering {
		return errTooDifferent
	}
	return nil
}

// olds and news are the records of each state, to look them up.
func (d *differing) olds() map[string]bool { return setOf(d.old) }
func (d *differing) news() map[string]bool { return setOf(d.new) }

func setOf(list [][]byte) map[string]bool {
	out := make(map[string]bool, len(list))
	for _, encoded := range list {
		out[string(encoded)] = true
	}
	return out
}

// append encodes both lists, each with its length in bytes before it.
func (d *differing) append(b []byte) []byte {
	for _, list := range [][][]byte{d.old, d.new} {
		n := sizeOf(list)
		b = binary.AppendUvarint(slices.Grow(b, n+binary.MaxVarintLen64), uint64(n))
		for _, encoded := range list {
			b = append(b, encoded...)
		}
	}
	return b
}

func sizeOf(list [][]byte) (n int) {
	for _, encoded := range list {
		n += len(encoded)
	}
	return n
}

func (d *differing) parse(b []byte) error {
	in := decoder{rest: b}
	for _, list := range []*[][]byte{&d.old, &d.new} {
		part := decoder{rest: in.bytes()}
		for len(part.rest) > 0 && !part.bad {
			whole := part.rest
			part.bytes()
			encoded := whole[:len(whole)-len(part.rest)]
			if _, _, err := encodedID(encoded); err != nil {
				return err
			}
			*list = append(*list, encoded)
		}
		in.bad = in.bad || part.bad
	}
	if in.bad || len(in.rest) > 0 {
		return fmt.Errorf("differing records: %w", ErrDamaged)
	}
	return nil
}

// matches says that a record which equals the baseline's is no finding. A record
// that was not read whole, or lacks a digest, is one although it is equal.
func matches(rules *filewatch.Rules, encoded []byte, asked filewatch.Attributes) bool {
	b, err := body(encoded)
	if err != nil {
		return false
	}
	if wholly(b, asked) {
		return true
	}
	r, err := decodeRecord(b) // nothing may be asked of this one
	return err == nil && r.Unread == "" && Judge(rules, r.Path(), r, &Observed{Record: *r}) == nil
}

// listed gives the records of a list as a comparison takes them.
type listed struct{ rest [][]byte }

func (l *listed) next() ([]byte, error) {
	if len(l.rest) == 0 {
		return nil, nil
	}
	b, err := body(l.rest[0])
	l.rest = l.rest[1:]
	return b, err
}

func (l *listed) close() {}

// each is a list as the other side of a comparison.
func each(list [][]byte) func(fn func(encoded []byte) error) error {
	return func(fn func(encoded []byte) error) error {
		for _, encoded := range list {
			if err := fn(encoded); err != nil {
				return err
			}
		}
		return nil
	}
}
