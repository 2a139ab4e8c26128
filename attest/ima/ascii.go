package ima

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// nextASCII reads a line as ima_ascii_measurements_show writes it
// (security/integrity/ima/ima_fs.c): "PCR template-hash template fields...", and
// rebuilds the template data that the kernel hashed. Only the templates that
// name a file by digest have a text from which that is possible.
func nextASCII(data []byte) (*Entry, []byte, error) {
	line, rest, _ := bytes.Cut(data, []byte("\n"))
	if len(line) > 2*maxTemplate {
		return nil, nil, fmt.Errorf("%w: line of %d bytes", ErrFormat, len(line))
	}
	part := strings.SplitN(string(bytes.TrimSuffix(line, []byte("\r"))), " ", 5)
	if len(part) != 5 {
		return nil, nil, fmt.Errorf("%w: line of %d fields", ErrFormat, len(part))
	}
	pcr, err := strconv.Atoi(part[0])
	if err != nil || pcr < 0 || pcr > 23 {
		return nil, nil, fmt.Errorf("%w: PCR %.8q", ErrFormat, part[0])
	}
	e := &Entry{PCR: pcr, Template: part[2]}
	hash, err := hex.DecodeString(part[1])
	if err != nil || len(hash) != sha1.Size {
		return nil, nil, fmt.Errorf("%w: template hash %.48q", ErrFormat, part[1])
	}
	copy(e.Hash[:], hash)
	digest, err := digestField(part[3])
	if err != nil {
		return nil, nil, err
	}
	if err := e.rebuild(digest, part[4]); err != nil {
		return nil, nil, err
	}
	return e, rest, nil
}

// digestField rebuilds d-ng or d-ngv2 from "sha256:hex" or "ima:sha256:hex".
func digestField(text string) ([]byte, error) {
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return nil, fmt.Errorf("%w: digest %.100q without an algorithm", ErrFormat, text)
	}
	digest, err := hex.DecodeString(text[colon+1:])
	if err != nil {
		return nil, fmt.Errorf("%w: digest %.100q", ErrFormat, text)
	}
	return append([]byte(text[:colon]+":\x00"), digest...), nil
}

// rebuild makes the template data. A path may hold spaces and a signature may
// be absent, so for templates with one the template hash decides which reading
// is meant.
func (e *Entry) rebuild(digest []byte, tail string) error {
	switch e.Template {
	case "ima-ng", "ima-ngv2":
		e.Data = join(digest, tail)
		return e.decode()
	case "ima-sig", "ima-sigv2":
	default:
		return fmt.Errorf("%w: template %.32q in text form; give the binary list", ErrFormat, e.Template)
	}
	// Newer kernels print a blank after the path also without a signature.
	e.Data = join(digest, strings.TrimSuffix(tail, " "), nil)
	if space := strings.LastIndexByte(tail, ' '); space >= 0 && sha1.Sum(e.Data) != e.Hash {
		if signature, err := hex.DecodeString(tail[space+1:]); err == nil {
			e.Data = join(digest, tail[:space], signature)
		}
	}
	return e.decode()
}

func join(digest []byte, path string, more ...[]byte) []byte {
	data := appendField(nil, digest)
	data = appendField(data, append([]byte(path), 0))
	for _, field := range more {
		data = appendField(data, field)
	}
	return data
}
