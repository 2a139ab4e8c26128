// Package pkgdb explains changes by software packages: a file that is what a
// package contains was changed by installing that package.
//
// The packages are files that the verifying side holds and trusts, for example
// those apt has downloaded and verified. The guest's own package database is
// not looked at: whoever can change a file can change that too.
//
// What it does not show: that the package should be installed there.
package pkgdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// Package is what one package installs.
type Package struct {
	Name, Version string
	Files         map[string]File // by absolute path
}

// File is one object of a package.
type File struct {
	Type     filewatch.Type
	Mode     uint16
	UID, GID uint32
	Size     int64
	Link     string
	// BLAKE3 and SHA256 are of a regular file's content.
	BLAKE3, SHA256 baseline.Digest
}

// Packages are those to explain changes with.
type Packages struct{ byPath map[string][]owned }

type owned struct {
	name string
	file File
}

// Open reads package files, and all packages in directories. ErrNotPackage says
// which file is none.
func Open(paths ...string) (*Packages, error) {
	p := &Packages{byPath: map[string][]owned{}}
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || name != path && filepath.Ext(name) != ".deb" {
				return err
			}
			return p.open(name)
		})
		if err != nil {
			return nil, fmt.Errorf("read packages: %w", err)
		}
	}
	if len(p.byPath) == 0 {
		return nil, errors.New("read packages: there is none")
	}
	return p, nil
}

func (p *Packages) open(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	pkg, err := ReadDeb(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	p.Add(pkg)
	return nil
}

// Add adds one package.
func (p *Packages) Add(pkg *Package) {
	if p.byPath == nil {
		p.byPath = map[string][]owned{}
	}
	for path, file := range pkg.Files {
		key := merged(path)
		p.byPath[key] = append(p.byPath[key], owned{pkg.Name + " " + pkg.Version, file})
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

// Explain marks the changes that a package accounts for and says how many.
func (p *Packages) Explain(changes []*baseline.Change) int {
	n := 0
	for _, c := range changes {
		if name := p.explains(c); name != "" {
			c.Explained = "package " + name
			c.Explanation += "; it is what package " + name + " installs"
			n++
		}
	}
	return n
}

// explains names the package that contains the change's new state exactly.
func (p *Packages) explains(c *baseline.Change) string {
	if c.New == nil || c.Kind == baseline.Unmeasured || c.New.Unread != "" || beyondPackages(c) {
		return ""
	}
	for _, name := range c.New.Names {
		for _, o := range p.byPath[merged(name)] {
			if o.file.is(c.New) {
				return o.name
			}
		}
	}
	return ""
}

// beyondPackages says that something changed that no package contains: packages
// have no xattrs and do not set inode flags.
func beyondPackages(c *baseline.Change) bool {
	if c.Kind == baseline.Added {
		return len(c.New.Xattrs) > 0
	}
	return c.Attributes.Has("xattrs")
}

func (f *File) is(r *baseline.Record) bool {
	if f.Type != r.Type || f.UID != r.UID || f.GID != r.GID {
		return false
	}
	switch f.Type {
	case filewatch.TypeSymlink:
		return f.Link == r.Link
	case filewatch.TypeFile:
		same, _ := r.SameContent(f.BLAKE3, f.SHA256)
		return same && f.Mode == r.Mode && f.Size == r.Size
	}
	return false
}
