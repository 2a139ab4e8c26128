package ima

import (
	"bytes"
	"crypto"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
)

// ErrNoMatch means that no prefix of a list leads to a PCR's value.
var ErrNoMatch = errors.New("no prefix of the IMA list leads to the quoted value")

// Match finds how many entries the value of a PCR covers: the shortest prefix
// whose replay from zeros gives value, in the bank of the hash. Entries of
// other PCRs are passed over. 0 entries match a PCR that is all zeros. Errors
// wrap [ErrNoMatch].
//
// Kernels from 5.8 on extend each bank with its own hash of the template data;
// older ones padded the SHA-1, which is not accepted here.
func (l *List) Match(h crypto.Hash, pcr int, value []byte) (entries int, err error) {
	if !h.Available() || len(value) != h.Size() {
		return 0, fmt.Errorf("%w: value of %d bytes", ErrNoMatch, len(value))
	}
	register := make([]byte, h.Size())
	ones := bytes.Repeat([]byte{0xff}, h.Size())
	if bytes.Equal(register, value) {
		return 0, nil
	}
	sum := h.New()
	for i := range l.Entries {
		e := &l.Entries[i]
		if e.PCR != pcr {
			continue
		}
		extend := ones
		if !e.Violation() {
			sum.Reset()
			sum.Write(e.Data)
			extend = sum.Sum(nil)
		}
		sum.Reset()
		sum.Write(register)
		sum.Write(extend)
		register = sum.Sum(register[:0])
		if bytes.Equal(register, value) {
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("%w (%d entries)", ErrNoMatch, len(l.Entries))
}

// Aggregate is the boot_aggregate that the kernel computes from a bank's PCRs
// when IMA starts: the hash over PCRs 0 to 9, or 0 to 7 where that is SHA-1
// (ima_calc_boot_aggregate_tfm, security/integrity/ima/ima_crypto.c, since
// 5.8). values maps PCR to value in that same bank; ok is false when one is
// missing.
func Aggregate(h crypto.Hash, values map[int][]byte) (sum []byte, ok bool) {
	last := 9
	if h == crypto.SHA1 {
		last = 7
	}
	hash := h.New()
	for pcr := 0; pcr <= last; pcr++ {
		value, ok := values[pcr]
		if !ok {
			return nil, false
		}
		hash.Write(value)
	}
	return hash.Sum(nil), true
}
