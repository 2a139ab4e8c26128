// Package ima reads the list in which Linux's Integrity Measurement
// Architecture tells what it extended into PCR 10 (security/integrity/ima; the
// templates are in Documentation/security/IMA-templates.rst).
//
// As with any log an entry proves nothing before a replay of the list reaches
// a quoted PCR. The list goes on growing while it is read, so a quote covers a
// prefix of it: [List.Match] finds which.
package ima

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Limits on hostile lists.
const (
	maxEntries  = 1 << 19
	maxName     = 32      // bytes of a template's name
	maxTemplate = 1 << 17 // bytes of an entry's template data; a path has at most 4096
)

var (
	// ErrFormat means that bytes are not a measurement list, or stop being one
	// at some entry; what precedes is returned.
	ErrFormat = errors.New("malformed IMA list")
	// ErrTemplate means an entry whose template hash is not that of its data.
	ErrTemplate = errors.New("template hash does not match the entry")
)

// List is a parsed measurement list.
type List struct {
	Entries []Entry
}

// Entry is one measurement.
type Entry struct {
	Index    int // from 0
	PCR      int
	Template string // "ima-ng", "ima-sig", "ima-ngv2", "ima-sigv2", "ima-buf", "ima", ...

	// Hash is the SHA-1 over Data as the list gives it; all zeros marks a
	// violation, for which the PCR was extended with ones.
	Hash [sha1.Size]byte
	Data []byte // what is hashed and extended: the template data

	// Path names the measured file, or is a label such as "boot_aggregate".
	// It is empty for templates this package does not know.
	Path      string
	Algorithm string // of Digest: "sha256"
	Digest    []byte // of the file's content
	Verity    bool   // Digest is fs-verity's, not the content's
	Signature []byte // security.ima of the file, if the template has it
}

// Violation reports whether the kernel saw the file being written while it was
// measured or the other way round, so that no digest stands for what was used.
func (e *Entry) Violation() bool { return e.Hash == [sha1.Size]byte{} }

// Parse reads a list in either of the kernel's forms,
// binary_runtime_measurements or ascii_runtime_measurements. Its slices may refer
// to data. A damaged list gives the entries before the damage with an error
// that wraps [ErrFormat] or [ErrTemplate].
func Parse(data []byte) (*List, error) {
	list := &List{}
	next := nextBinary
	if looksASCII(data) {
		next = nextASCII
	}
	for rest := data; len(rest) > 0; {
		if len(list.Entries) == maxEntries {
			return list, fmt.Errorf("%w: more than %d entries", ErrFormat, maxEntries)
		}
		entry, after, err := next(rest)
		if err == nil {
			err = entry.check()
		}
		if err != nil {
			return list, fmt.Errorf("entry %d: %w", len(list.Entries), err)
		}
		entry.Index = len(list.Entries)
		list.Entries = append(list.Entries, *entry)
		rest = after
	}
	return list, nil
}

// looksASCII tells the forms apart: the binary one starts with a PCR number in
// 32 bits, of which three bytes are zero in either byte order.
func looksASCII(data []byte) bool {
	head := data[:min(len(data), 4)]
	return len(head) == 4 && bytes.IndexByte(head, 0) < 0
}

// check ties the entry's data to its SHA-1. A violation has none.
func (e *Entry) check() error {
	if !e.Violation() && sha1.Sum(e.Data) != e.Hash {
		return ErrTemplate
	}
	return nil
}

// nextBinary reads an entry as ima_measurements_show writes it
// (security/integrity/ima/ima_fs.c), in little-endian order as on x86 or with
// ima_canonical_fmt.
func nextBinary(data []byte) (*Entry, []byte, error) {
	c := bin.Little(data)
	e := &Entry{PCR: int(c.U32())}
	copy(e.Hash[:], c.Bytes(sha1.Size))
	nameLen := c.U32()
	if c.Err() == nil && nameLen > maxName {
		return nil, nil, fmt.Errorf("%w: template name of %d bytes", ErrFormat, nameLen)
	}
	e.Template = string(c.Bytes(int(nameLen)))
	if c.Err() == nil && e.Template == "ima" {
		return nextOriginal(e, c, data)
	}
	length := c.U32()
	if c.Err() == nil && length > maxTemplate {
		return nil, nil, fmt.Errorf("%w: template data of %d bytes", ErrFormat, length)
	}
	e.Data = c.Bytes(int(length))
	if err := c.Err(); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if e.PCR > 23 {
		return nil, nil, fmt.Errorf("%w: PCR %d does not exist", ErrFormat, e.PCR)
	}
	if err := e.decode(); err != nil {
		return nil, nil, err
	}
	return e, data[c.Offset():], nil
}

// nextOriginal reads the rest of an entry of template "ima": a SHA-1 of the
// file and its name, hashed with the name padded to 256 bytes.
func nextOriginal(e *Entry, c *bin.Cursor, data []byte) (*Entry, []byte, error) {
	const nameSize = 256 // IMA_EVENT_NAME_LEN_MAX and the NUL
	e.Algorithm, e.Digest = "sha1", c.Bytes(sha1.Size)
	length := c.U32()
	if c.Err() == nil && length >= nameSize {
		return nil, nil, fmt.Errorf("%w: file name of %d bytes", ErrFormat, length)
	}
	name := c.Bytes(int(length))
	if err := c.Err(); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	e.setPath(name)
	e.Data = make([]byte, sha1.Size+nameSize)
	copy(e.Data, e.Digest)
	copy(e.Data[sha1.Size:], name)
	return e, data[c.Offset():], nil
}

// setPath keeps a name from the list without its NUL.
func (e *Entry) setPath(name []byte) {
	e.Path = string(bytes.TrimRight(name, "\x00"))
}

// fields splits template data into its length-prefixed fields.
func fields(data []byte) ([][]byte, error) {
	var out [][]byte
	for c := bin.Little(data); c.Len() > 0; {
		out = append(out, c.Bytes(int(c.U32())))
		if err := c.Err(); err != nil {
			return nil, fmt.Errorf("%w: field %d: %w", ErrFormat, len(out), err)
		}
		if len(out) > 32 {
			return nil, fmt.Errorf("%w: more than 32 fields", ErrFormat)
		}
	}
	return out, nil
}

// decode reads the fields of the templates that name a file: d-ng or d-ngv2,
// n-ng, and sig or others after them. Other templates keep their data.
func (e *Entry) decode() error {
	switch e.Template {
	case "ima-ng", "ima-sig", "ima-ngv2", "ima-sigv2", "ima-buf", "ima-modsig":
	default:
		return nil
	}
	f, err := fields(e.Data)
	if err != nil {
		return err
	}
	if len(f) < 2 {
		return fmt.Errorf("%w: template %s with %d fields", ErrFormat, e.Template, len(f))
	}
	if err := e.decodeDigest(f[0]); err != nil {
		return err
	}
	e.setPath(f[1])
	if len(f) > 2 && strings.HasPrefix(e.Template, "ima-sig") {
		e.Signature = f[2]
	}
	return nil
}

// decodeDigest reads d-ng ("sha256:" NUL digest) and d-ngv2 ("ima:sha256:" or
// "verity:sha256:" before it).
func (e *Entry) decodeDigest(field []byte) error {
	name, digest, ok := bytes.Cut(field, []byte(":\x00"))
	if !ok {
		return fmt.Errorf("%w: digest field without an algorithm", ErrFormat)
	}
	if kind, algorithm, ok := bytes.Cut(name, []byte(":")); ok {
		e.Verity = string(kind) == "verity"
		name = algorithm
	}
	if len(name) > 32 || len(digest) > 64 {
		return fmt.Errorf("%w: digest of %d bytes", ErrFormat, len(digest))
	}
	e.Algorithm, e.Digest = string(name), digest
	return nil
}

// appendField adds a length-prefixed field to template data.
func appendField(data, field []byte) []byte {
	data = binary.LittleEndian.AppendUint32(data, uint32(len(field)))
	return append(data, field...)
}
