package baseline

import (
	"bytes"
	"cmp"
	"fmt"
	"math"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// body is an encoded record without its length prefix.
func body(encoded []byte) ([]byte, error) {
	d := decoder{rest: encoded}
	b := d.bytes()
	if d.bad || len(d.rest) != 0 {
		return nil, fmt.Errorf("cut record: %w", ErrDamaged)
	}
	return b, nil
}

// compareBodies orders two encoded records by path, volume and inode. It leaves
// the generation out, which not every source can read.
func compareBodies(a, b []byte) (int, error) {
	x, y := decoder{rest: a}, decoder{rest: b}
	order := bytes.Compare(x.bytes(), y.bytes())
	order = cmp.Or(order, bytes.Compare(x.bytes(), y.bytes()))
	order = cmp.Or(order, bytes.Compare(x.take(8), y.take(8)))
	if x.bad || y.bad {
		return 0, fmt.Errorf("cut record: %w", ErrDamaged)
	}
	return order, nil
}

// wholly says that a record was read whole and, if it is a regular file, has
// every digest of what is asked, so that an equal record is an equal object. A
// record that cannot be read so far is none.
func wholly(body []byte, asked filewatch.Attributes) bool {
	code, has, ok := kindOf(body)
	if !ok || has&hasUnread != 0 {
		return false
	}
	var want uint64
	if code == typeCode(filewatch.TypeFile) {
		if asked&(filewatch.AttrContent|filewatch.AttrGrowing) != 0 {
			want |= hasBLAKE3
		}
		if asked.Has(filewatch.AttrSHA256) {
			want |= hasSHA256
		}
	}
	return has&want == want
}

// kindOf is an encoded record's type and what it has beyond the fixed fields.
func kindOf(body []byte) (code byte, has uint64, ok bool) {
	d := decoder{rest: body}
	d.bytes()
	d.bytes()
	d.take(8 + 4)
	code = d.take(1)[0]
	has = d.uvarint(math.MaxUint16)
	return code, has, !d.bad
}
