package remote

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// MaxBundle bounds the bodies in one bundle.
const MaxBundle = 65536

// ErrBundle is returned for bytes that are not a bundle.
var ErrBundle = errors.New("not a bundle of bodies")

// EncodeBundle joins bodies for POST /v1/agent/bodies: for each, its length as
// 32 bits big-endian, then its bytes.
func EncodeBundle(bodies [][]byte) []byte {
	size := 0
	for _, b := range bodies {
		size += 4 + len(b)
	}
	out := make([]byte, 0, size)
	for _, b := range bodies {
		out = binary.BigEndian.AppendUint32(out, uint32(len(b)))
		out = append(out, b...)
	}
	return out
}

// DecodeBundle splits a bundle; the bodies share data's memory. Errors wrap
// ErrBundle.
func DecodeBundle(data []byte) ([][]byte, error) {
	c := bin.Big(data)
	var out [][]byte
	for c.Len() > 0 {
		if len(out) == MaxBundle {
			return nil, fmt.Errorf("%w: more than %d bodies", ErrBundle, MaxBundle)
		}
		n := c.U32()
		if int64(n) > int64(c.Len()) {
			return nil, fmt.Errorf("%w: body %d of %d bytes, %d are left", ErrBundle, len(out), n, c.Len())
		}
		body := c.Bytes(int(n))
		if c.Err() != nil {
			return nil, fmt.Errorf("%w: %w", ErrBundle, c.Err())
		}
		out = append(out, body)
	}
	return out, nil
}
