// Package pkgdb explains changes by software packages: a file that is what a
// package contains was changed by installing that package.
//
// The packages are files that the verifying side holds. With a keyring, only
// those count that a trusted key vouches for: a .deb through a repository's
// signed index, an .rpm through the signature of its header. Without, they are
// the word of who names them, and are called so.
//
// The guest's own package database explains nothing: whoever can change a file
// can change that too. [Owners] names what it says, as a hint.
//
// What it does not show: that the package should be installed there, or that it
// is the newest.
package pkgdb

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// Package is what one package installs.
type Package struct {
	Name, Version string
	// Voucher says who stands for it: a signature, or the operator.
	Voucher string
	// Until is when that ends to count, zero for never.
	Until time.Time
	Files map[string]File // by absolute path

	conffiles []string
}

// operatorsWord is the voucher of a package that nothing signs.
const operatorsWord = "operator's word, no signature verified"

// File is one object of a package.
type File struct {
	Type     filewatch.Type
	Mode     uint16
	UID, GID uint32
	Size     int64
	Link     string
	// BLAKE3 and SHA256 are of a regular file's content.
	BLAKE3, SHA256 baseline.Digest
	// Conffile: people may edit it, and updates then leave it alone.
	Conffile bool
	// OwnerUnknown: the package has names of users that only the guest can
	// turn into numbers.
	OwnerUnknown bool
	// Capabilities is the extended attribute security.capability, nil for none.
	// CapabilitiesUnknown: the package has some that are not understood.
	Capabilities        []byte
	CapabilitiesUnknown bool
}

// Packages are those to explain changes with.
type Packages struct {
	byPath map[string][]owned
	// Unused are packages that the keyring does not vouch for, and indexes that are
	// no longer valid.
	Unused []error

	ring     *Keyring
	indexed  indexed
	diverted map[string][]diverted // by where files are put
}

type owned struct {
	pkg     string
	name    string // with its version
	voucher voucher
	file    File
}

// Open reads package files, and all packages in directories. With a ring, which
// may be nil, it first reads the signed indexes among them (InRelease, or Release
// with Release.gpg). ErrNotPackage
// says which file is none.
func Open(ring *Keyring, paths ...string) (*Packages, error) {
	p := &Packages{byPath: map[string][]owned{}, ring: ring, indexed: indexed{}}
	if ring != nil {
		err := walk(paths, func(name string) error {
			if !isRelease(name) {
				return nil
			}
			err := p.indexed.readRelease(name, ring, time.Now())
			if errors.Is(err, ErrExpired) {
				p.Unused = append(p.Unused, err)
				return nil
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	err := walk(paths, func(name string) error {
		err := p.open(name)
		if errors.Is(err, ErrUnsigned) {
			p.Unused = append(p.Unused, err)
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(p.byPath) == 0 {
		if p.Unused == nil {
			return nil, fmt.Errorf("read packages: there is none in %s", strings.Join(paths, ", "))
		}
		return nil, fmt.Errorf("read packages: none can be used: %w", errors.Join(p.Unused...))
	}
	return p, nil
}

// walk visits the named files, and in directories those that look like packages
// or their indexes.
func walk(paths []string, visit func(name string) error) error {
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
			ext := filepath.Ext(name)
			if err != nil || d.IsDir() || name != path && ext != ".deb" && ext != ".rpm" && !isRelease(name) {
				return err
			}
			return visit(name)
		})
		if err != nil {
			return fmt.Errorf("read packages: %w", err)
		}
	}
	return nil
}

func (p *Packages) open(path string) error {
	if strings.HasSuffix(path, "Release") {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	pkg, err := p.read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	p.Add(pkg)
	return nil
}

// read reads a package of either kind, by its first bytes. A .deb is looked up
// in the signed indexes by the digest of the very bytes that are read.
func (p *Packages) read(f io.ReadSeeker) (*Package, error) {
	magic := make([]byte, len(rpmLeadMagic))
	if _, err := io.ReadFull(f, magic); err != nil {
		return nil, ErrNotPackage
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if string(magic) == string(rpmLeadMagic) {
		return ReadRPM(f, p.ring)
	}
	digest := sha256.New()
	pkg, err := ReadDeb(io.TeeReader(f, digest))
	if err != nil {
		return nil, err
	}
	if p.ring == nil {
		return pkg, nil
	}
	if _, err := io.Copy(digest, f); err != nil {
		return nil, err
	}
	v := p.indexed[baseline.Digest(digest.Sum(nil))]
	if pkg.Voucher, pkg.Until = v.text, v.until; v.text == "" {
		return nil, fmt.Errorf("%w: no signed index lists it", ErrUnsigned)
	}
	return pkg, nil
}

// Add adds one package.
func (p *Packages) Add(pkg *Package) {
	if p.byPath == nil {
		p.byPath = map[string][]owned{}
	}
	for path, file := range pkg.Files {
		key := merged(path)
		p.byPath[key] = append(p.byPath[key], owned{pkg.Name, pkg.Name + " " + pkg.Version, voucher{pkg.Voucher, pkg.Until}, file})
	}
}

// merged gives paths below /bin, /sbin and /lib* the place that they have on a
// system with a merged /usr.
func merged(path string) string {
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/"} {
		if strings.HasPrefix(path, dir) {
			return "/usr" + path
		}
	}
	return path
}
