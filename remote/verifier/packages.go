package verifier

import (
	"errors"
	"log/slog"
	"slices"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/pkgdb"
)

// errNoKeyring: packages that nothing vouches for would explain anything.
var errNoKeyring = errors.New("packages without keyrings: name the OpenPGP keys that sign them")

// readPackages opens the packages that explain changes of a machine. Machines
// with the same packages share them.
func (v *Verifier) readPackages(h Host) error {
	if len(h.Keyrings) == 0 {
		return errNoKeyring
	}
	for _, other := range v.config.each() {
		if p := v.packages[other.Name]; p != nil && slices.Equal(other.Packages, h.Packages) && slices.Equal(other.Keyrings, h.Keyrings) {
			v.packages[h.Name] = p
			return nil
		}
	}
	ring, err := pkgdb.OpenKeyring(h.Keyrings...)
	if err != nil {
		return err
	}
	p, err := pkgdb.Open(ring, h.Packages...)
	if err != nil {
		return err
	}
	for _, unused := range p.Unused {
		v.log.Warn("package not used", slog.String("machine", h.Name), slog.Any("error", unused))
	}
	v.packages[h.Name] = p
	return nil
}

// explain marks the changes of a machine that signed packages account for: they
// are told and count no longer.
func (v *Verifier) explain(machine string, changes ...*baseline.Change) {
	if p := v.packages[v.config.known(machine)]; p != nil {
		p.Explain(changes)
	}
}
