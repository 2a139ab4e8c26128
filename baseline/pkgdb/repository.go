package pkgdb

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/plumbline-sec/plumbline/baseline"
)

// Bounds on an index of packages: Debian's main has 60 MB in 65,000 stanzas.
const (
	maxIndex     = 1 << 30
	maxIndexLine = 4 << 20
)

// indexed are the digests of the .deb files that signed repositories list, with
// who vouches for each.
type indexed map[baseline.Digest]string

// readRelease follows the chain of a Debian repository from one InRelease file:
// its OpenPGP signature covers the SHA-256 of each Packages file, and those have
// the SHA-256 of each .deb (deb822(5), Debian policy's repository format). The
// indexes lie below the InRelease file's directory, or beside it under names as
// in /var/lib/apt/lists. Indexes that are not there are left out; one that is
// there and not what was signed is an error.
func (x indexed) readRelease(path string, ring *Keyring) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > maxSigned {
		return fmt.Errorf("%s: %d bytes are too many", path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	signed, signer, err := ring.openSigned(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	release, err := parseRelease(signed)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	voucher := fmt.Sprintf("signed by %s, %s", signer, release.name)
	for _, f := range release.indexes {
		err := x.readIndex(indexPath(path, f.name), f, voucher)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// indexPath is where the file is that an InRelease file lists.
func indexPath(release, name string) string {
	if prefix := strings.TrimSuffix(release, "InRelease"); !strings.HasSuffix(prefix, "/") && filepath.Base(release) != "InRelease" {
		return prefix + strings.ReplaceAll(name, "/", "_")
	}
	return filepath.Join(filepath.Dir(release), name)
}

type release struct {
	name    string
	indexes []indexFile
}

type indexFile struct {
	name   string
	size   int64
	digest baseline.Digest
}

// parseRelease reads the names and digests of the Packages files.
func parseRelease(text []byte) (*release, error) {
	r := &release{}
	field := ""
	var words []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if !strings.HasPrefix(line, " ") {
			key, value, _ := strings.Cut(line, ":")
			field = key
			if value = strings.TrimSpace(value); value != "" && (key == "Origin" || key == "Suite" || key == "Codename") {
				words = append(words, value)
			}
			continue
		}
		parts := strings.Fields(line)
		if field != "SHA256" || len(parts) != 3 || !strings.HasPrefix(filepath.Base(parts[2]), "Packages") {
			continue
		}
		digest, err := parseDigest(parts[0])
		size, errSize := strconv.ParseInt(parts[1], 10, 64)
		if err = errors.Join(err, errSize); err != nil || !filepath.IsLocal(parts[2]) {
			return nil, fmt.Errorf("line %q: %w", line, errors.Join(err, ErrUnsigned))
		}
		r.indexes = append(r.indexes, indexFile{parts[2], size, digest})
	}
	if r.name = strings.Join(words, " "); len(r.indexes) == 0 {
		return nil, fmt.Errorf("%w: it lists no Packages with SHA-256", ErrUnsigned)
	}
	return r, nil
}

func parseDigest(s string) (d baseline.Digest, err error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(d) {
		return d, fmt.Errorf("%q is no SHA-256", s)
	}
	return baseline.Digest(raw), nil
}

// readIndex takes the packages of an index that is what was signed.
func (x indexed) readIndex(path string, want indexFile, voucher string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() != want.size || want.size > maxIndex {
		return fmt.Errorf("%s: %d bytes, %d are signed: %w", path, info.Size(), want.size, ErrUnsigned)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if sha256.Sum256(text) != want.digest {
		return fmt.Errorf("%s is not what was signed: %w", path, ErrUnsigned)
	}
	ext := filepath.Ext(path)
	if ext != ".gz" && ext != ".xz" && ext != ".zst" {
		if strings.Contains(filepath.Base(path), ".") && ext != "" && !strings.HasSuffix(path, "Packages") {
			return nil // a compression that is not read; the same index comes in others
		}
		ext = ".tar"
	}
	plain, err := decompress("x"+ext, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := x.parsePackages(io.LimitReader(plain, maxIndex), voucher); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// parsePackages takes the SHA-256 of each stanza.
func (x indexed) parsePackages(r io.Reader, voucher string) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxIndexLine)
	for lines.Scan() {
		value, ok := strings.CutPrefix(lines.Text(), "SHA256:")
		if !ok {
			continue
		}
		digest, err := parseDigest(strings.TrimSpace(value))
		if err != nil {
			return err
		}
		x[digest] = voucher
	}
	return lines.Err()
}
