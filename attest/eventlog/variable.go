package eventlog

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Limits within one event.
const (
	maxName       = 1 << 10 // UTF-16 units of a variable's name
	maxSignatures = 1 << 14 // entries of db, dbx, ...
)

// Variable is a measured UEFI variable (UEFI_VARIABLE_DATA, PFP 10.4.3).
type Variable struct {
	Vendor GUID
	Name   string
	Data   []byte
}

// Variable reads the variable that an event of the EV_EFI_VARIABLE family holds.
// Errors wrap [ErrFormat].
func (e *Event) Variable() (*Variable, error) {
	c := bin.Little(e.Data)
	var v Variable
	copy(v.Vendor[:], c.Bytes(16))
	nameLen, dataLen := c.U64(), c.U64()
	if c.Err() == nil && (nameLen > maxName || dataLen > uint64(c.Len())) {
		return nil, fmt.Errorf("%w: variable with a name of %d and data of %d bytes", ErrFormat, nameLen, dataLen)
	}
	v.Name = decodeUTF16(c.Bytes(int(nameLen) * 2))
	v.Data = c.Bytes(int(dataLen))
	if err := c.Err(); err != nil {
		return nil, fmt.Errorf("%w: variable: %w", ErrFormat, err)
	}
	if c.Len() != 0 {
		return nil, fmt.Errorf("%w: %d bytes after variable %q", ErrFormat, c.Len(), v.Name)
	}
	return &v, nil
}

// Global reports whether v is the UEFI global variable of that name.
func (v *Variable) Global(name string) bool {
	return v.Name == name && v.Vendor.String() == guidGlobalVariable
}

// Security reports whether v is the image security variable of that name: db
// or dbx.
func (v *Variable) Security(name string) bool {
	return v.Name == name && v.Vendor.String() == guidImageSecurity
}

// Signature is one entry of PK, KEK, db or dbx.
type Signature struct {
	Owner GUID
	// Kind is "x509", "sha256", "x509-sha256" (the hash of a certificate's
	// to-be-signed part) or a GUID this package does not know.
	Kind string
	// Digest is the SHA-256 of the certificate for x509, otherwise the data
	// itself.
	Digest []byte
	// Subject is the certificate's; empty for other kinds.
	Subject string
}

// Signatures reads EFI_SIGNATURE_LISTs (UEFI 2.10, 32.4.1), as PK, KEK, db and
// dbx hold. Errors wrap [ErrFormat].
func Signatures(data []byte) ([]Signature, error) {
	var out []Signature
	c := bin.Little(data)
	for c.Len() > 0 {
		var kind GUID
		copy(kind[:], c.Bytes(16))
		listSize, headerSize, size := c.U32(), c.U32(), c.U32()
		if err := c.Err(); err != nil {
			return nil, fmt.Errorf("%w: signature list: %w", ErrFormat, err)
		}
		const header = 28
		if size < 16 || uint64(listSize) < header+uint64(headerSize) || (listSize-header-headerSize)%size != 0 {
			return nil, fmt.Errorf("%w: signature list of %d bytes with entries of %d", ErrFormat, listSize, size)
		}
		c.Skip(int(headerSize))
		for range (listSize - header - headerSize) / size {
			entry := c.Bytes(int(size))
			if err := c.Err(); err != nil {
				return nil, fmt.Errorf("%w: signature list: %w", ErrFormat, err)
			}
			if len(out) == maxSignatures {
				return nil, fmt.Errorf("%w: more than %d signatures", ErrFormat, maxSignatures)
			}
			out = append(out, newSignature(kind, entry))
		}
	}
	return out, nil
}

// newSignature reads an EFI_SIGNATURE_DATA: the owner's GUID, then the data.
func newSignature(kind GUID, entry []byte) Signature {
	s := Signature{Kind: kind.String(), Digest: entry[16:]}
	copy(s.Owner[:], entry)
	switch s.Kind {
	case guidCertX509:
		s.Kind = "x509"
		sum := sha256.Sum256(entry[16:])
		s.Digest = sum[:]
		if cert, err := x509.ParseCertificate(entry[16:]); err == nil {
			s.Subject = printable(cert.Subject.String())
		}
	case guidCertSHA256:
		s.Kind = "sha256"
	case guidCertX509SHA256:
		s.Kind = "x509-sha256"
		s.Digest = entry[16:min(48, len(entry))]
	}
	return s
}

// Authority reads the signature that let an image start, out of the variable
// of an EV_EFI_VARIABLE_AUTHORITY event: a single EFI_SIGNATURE_DATA (PFP
// 3.3.4.8). shim's events hold other things; ok is false for those.
func (v *Variable) Authority() (s Signature, ok bool) {
	if !v.Security("db") || len(v.Data) < 16+32 {
		return Signature{}, false
	}
	var kind GUID // the event does not say: a certificate, or else a hash
	s = newSignature(kind, v.Data)
	s.Kind = "sha256"
	if cert, err := x509.ParseCertificate(v.Data[16:]); err == nil {
		sum := sha256.Sum256(v.Data[16:])
		s.Kind, s.Digest, s.Subject = "x509", sum[:], printable(cert.Subject.String())
	}
	return s, true
}

// decodeUTF16 reads little-endian UTF-16 up to a NUL, safe to print.
func decodeUTF16(b []byte) string {
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		u := uint16(b[i]) | uint16(b[i+1])<<8
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return printable(string(utf16.Decode(units)))
}

// printable replaces what a terminal would act upon.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == 0x2028 || r == 0x2029 || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) {
			return '\uFFFD'
		}
		return r
	}, s)
}
