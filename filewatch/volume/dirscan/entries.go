// Package dirscan holds what the readers of directories share: entries on their
// way to a callback with the damage met between them, and directories put in
// the order of their place on the disk.
package dirscan

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// maxDamage is how many damaged parts of one directory are told apart.
const maxDamage = 8

// Damage is the error for parts of a directory that could not be read. It tells
// them from an error of the callback.
type Damage struct{ error }

// Unwrap gives the joined errors.
func (d *Damage) Unwrap() error { return d.error }

// Entries passes the entries of one directory on and gathers damage.
type Entries struct {
	dir    uint64
	fn     func(filewatch.Name) error
	stop   error
	damage []error
}

// New starts the directory with the given inode number.
func New(dir uint64, fn func(filewatch.Name) error) *Entries { return &Entries{dir: dir, fn: fn} }

// Add passes one entry on; at is its place in the directory. "." and ".." are
// left out. A name that no system call could have made is damage.
func (e *Entries) Add(inode uint64, name []byte, at int64) {
	switch {
	case e.stop != nil || string(name) == "." || string(name) == "..":
	case len(name) == 0 || inode == 0 || bytes.ContainsAny(name, "/\x00"):
		e.Bad("entry at %d names %q, inode %d: %w", at, name, inode, filewatch.ErrCorrupt)
	default:
		e.stop = e.fn(filewatch.Name{Parent: e.dir, Inode: inode, Name: name})
	}
}

// Bad notes a part that cannot be read.
func (e *Entries) Bad(format string, args ...any) {
	if len(e.damage) < maxDamage {
		e.damage = append(e.damage, fmt.Errorf("directory %d: %w", e.dir, fmt.Errorf(format, args...)))
	}
}

// Stopped says whether the callback wants no more.
func (e *Entries) Stopped() bool { return e.stop != nil }

// Err is the callback's error, else the damage as a [Damage], else nil.
func (e *Entries) Err() error {
	if e.stop != nil || len(e.damage) == 0 {
		return e.stop
	}
	return &Damage{errors.Join(e.damage...)}
}
