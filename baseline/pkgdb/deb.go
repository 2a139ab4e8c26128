package pkgdb

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// ErrNotPackage: the file is no Debian package.
var ErrNotPackage = errors.New("not a Debian package")

// Bounds on one package.
const (
	maxFiles   = 1 << 20
	maxControl = 1 << 20
	maxContent = 16 << 30 // decompressed
	maxWindow  = 256 << 20
)

// ReadDeb reads a binary package (deb(5), format 2.0): an ar archive of
// debian-binary, control.tar and data.tar.
func ReadDeb(r io.Reader) (*Package, error) {
	in := bufio.NewReader(r)
	magic := make([]byte, 8)
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, ErrNotPackage
	}
	p := &Package{Files: map[string]File{}, Voucher: operatorsWord}
	seen := map[string]bool{}
	for {
		name, size, err := arHeader(in)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		member := io.LimitReader(in, size)
		kind, _, _ := strings.Cut(name, ".tar")
		seen[kind] = true
		switch kind {
		case "control":
			err = p.readControl(name, member)
		case "data":
			err = p.readData(name, member)
		}
		if err == nil {
			_, err = io.Copy(io.Discard, member)
		}
		if err == nil && size%2 == 1 {
			_, err = in.Discard(1)
		}
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
	}
	for _, name := range p.conffiles {
		if f, ok := p.Files[name]; ok {
			f.Conffile = true
			p.Files[name] = f
		}
	}
	if !seen["debian-binary"] || !seen["control"] || !seen["data"] || p.Name == "" {
		return nil, fmt.Errorf("%w: parts are missing", ErrNotPackage)
	}
	return p, nil
}

// arHeader is the 60 bytes before a member: name at 0x00 (16), size at 0x30
// (10, decimal), end at 0x3a (ar(5)).
func arHeader(in *bufio.Reader) (name string, size int64, err error) {
	head := make([]byte, 60)
	switch n, err := io.ReadFull(in, head); {
	case n == 0 && err == io.EOF:
		return "", 0, io.EOF
	case err != nil:
		return "", 0, fmt.Errorf("%w: archive ends early", ErrNotPackage)
	}
	size, err = strconv.ParseInt(strings.TrimSpace(string(head[0x30:0x3a])), 10, 64)
	if err != nil || size < 0 || string(head[0x3a:]) != "`\n" {
		return "", 0, fmt.Errorf("%w: archive header", ErrNotPackage)
	}
	return strings.TrimRight(string(head[:16]), " /"), size, nil
}

// decompress knows the compressions that dpkg writes.
func decompress(name string, r io.Reader) (io.Reader, error) {
	switch path.Ext(name) {
	case ".tar":
		return r, nil
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		return xz.NewReader(r)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("%w: compression of %q", ErrNotPackage, name)
}

// members calls visit for each entry of a compressed tar archive.
func members(name string, r io.Reader, visit func(h *tar.Header, content io.Reader) error) error {
	plain, err := decompress(name, r)
	if err != nil {
		return err
	}
	archive := tar.NewReader(io.LimitReader(plain, maxContent))
	for range maxFiles {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(h, archive); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d files", ErrNotPackage, maxFiles)
}

// readControl takes name and version.
func (p *Package) readControl(name string, r io.Reader) error {
	return members(name, r, func(h *tar.Header, content io.Reader) error {
		at := path.Clean(h.Name)
		if at != "control" && at != "conffiles" {
			return nil
		}
		text, err := io.ReadAll(io.LimitReader(content, maxControl))
		if err != nil {
			return err
		}
		if at == "conffiles" {
			p.conffiles = strings.Fields(string(text))
			return nil
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			switch key {
			case "Package":
				p.Name = strings.TrimSpace(value)
			case "Version":
				p.Version = strings.TrimSpace(value)
			}
		}
		return nil
	})
}

// readData digests what the package installs.
func (p *Package) readData(name string, r io.Reader) error {
	return members(name, r, func(h *tar.Header, content io.Reader) error {
		at := path.Clean("/" + h.Name)
		f := File{Mode: uint16(h.Mode & 0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid), Size: h.Size, Link: h.Linkname}
		switch h.Typeflag {
		case tar.TypeReg:
			f.Type = filewatch.TypeFile
			b3, sha := blake3.New(), sha256.New()
			if _, err := io.Copy(io.MultiWriter(b3, sha), content); err != nil {
				return err
			}
			b3.Sum(f.BLAKE3[:0])
			sha.Sum(f.SHA256[:0])
		case tar.TypeLink:
			f = p.Files[path.Clean("/"+h.Linkname)]
		case tar.TypeSymlink:
			f.Type = filewatch.TypeSymlink
		case tar.TypeDir:
			f.Type = filewatch.TypeDir
		default:
			return nil
		}
		p.Files[at] = f
		return nil
	})
}
