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
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
)

// Bounds on an index of packages: Debian's main has 60 MB in 65,000 stanzas.
const (
	maxIndex     = 1 << 30
	maxIndexLine = 4 << 20
)

// indexed are the digests of the .deb files that signed repositories list, with
// who vouches for each.
type indexed map[baseline.Digest]voucher

// voucher is who vouches for a package, and until when; zero for ever.
type voucher struct {
	text  string
	until time.Time
}

// past says that it vouches for nothing any more.
func (v *voucher) past(now time.Time) bool { return !v.until.IsZero() && now.After(v.until) }

// outlasts says that it counts longer than another.
func (v *voucher) outlasts(w *voucher) bool {
	return !w.until.IsZero() && (v.until.IsZero() || v.until.After(w.until))
}

// add keeps, of those who vouch for the same package, who does longest.
func (x indexed) add(digest baseline.Digest, v voucher) {
	if old, ok := x[digest]; !ok || v.outlasts(&old) {
		x[digest] = v
	}
}

// isRelease says that a file is a signed index: InRelease, or Release with its
// signature beside it in Release.gpg. A Release without one says nothing.
func isRelease(path string) bool {
	if strings.HasSuffix(path, "InRelease") {
		return true
	}
	if !strings.HasSuffix(path, "Release") {
		return false
	}
	_, err := os.Lstat(path + ".gpg")
	return err == nil
}

// readSigned gives what the signature in or beside an index covers.
func readSigned(path string, ring *Keyring) (signed []byte, signer string, err error) {
	text, err := readSmall(path)
	if err != nil {
		return nil, "", err
	}
	if strings.HasSuffix(path, "InRelease") {
		return ring.openSigned(text)
	}
	signature, err := readSmall(path + ".gpg")
	if err != nil {
		return nil, "", err
	}
	signer, err = ring.verifyArmored(text, signature)
	return text, signer, err
}

func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSigned {
		return nil, fmt.Errorf("%s: %d bytes are too many", path, info.Size())
	}
	return os.ReadFile(path)
}

// readRelease follows the chain of a Debian repository from one InRelease file, or
// Release with Release.gpg: its OpenPGP signature covers the SHA-256 of each
// Packages file, and those have the SHA-256 of each .deb (deb822(5), Debian
// policy's repository format). The indexes lie below the file's directory, or
// beside it under names as in /var/lib/apt/lists. Indexes that are not there are
// left out; one that is there and not what was signed is an error, and so is,
// with ErrExpired, one whose Valid-Until is past.
func (x indexed) readRelease(path string, ring *Keyring, now time.Time) error {
	signed, signer, err := readSigned(path, ring)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	release, err := parseRelease(signed)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	v := voucher{fmt.Sprintf("signed by %s, %s", signer, release.name), release.until}
	if v.past(now) {
		return fmt.Errorf("%s: %w %s", path, ErrExpired, release.until.Format(time.RFC3339))
	}
	for _, f := range release.indexes {
		err := x.readIndex(indexPath(path, f.name), f, v)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// indexPath is where the file is that an index lists.
func indexPath(release, name string) string {
	switch filepath.Base(release) {
	case "InRelease", "Release":
		return filepath.Join(filepath.Dir(release), name)
	}
	prefix := strings.TrimSuffix(strings.TrimSuffix(release, "Release"), "In")
	return prefix + strings.ReplaceAll(name, "/", "_")
}

type release struct {
	name    string
	until   time.Time // zero where it does not end
	indexes []indexFile
}

type indexFile struct {
	name   string
	size   int64
	digest baseline.Digest
}

// parseRelease reads the names and digests of the Packages files, and how long they
// are valid. A time that cannot be read is an error: an attacker could otherwise
// hold an old index for good.
func parseRelease(text []byte) (*release, error) {
	r := &release{}
	var err error
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
			if key == "Valid-Until" {
				if r.until, err = time.Parse("Mon, _2 Jan 2006 15:04:05 MST", value); err != nil || !strings.HasSuffix(value, " UTC") && !strings.HasSuffix(value, " GMT") {
					return nil, fmt.Errorf("line %q: %w", line, errors.Join(err, ErrUnsigned))
				}
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
func (x indexed) readIndex(path string, want indexFile, v voucher) error {
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
	if err := x.parsePackages(io.LimitReader(plain, maxIndex), v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// parsePackages takes the SHA-256 of each stanza.
func (x indexed) parsePackages(r io.Reader, v voucher) error {
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
		x.add(digest, v)
	}
	return lines.Err()
}
