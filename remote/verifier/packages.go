package verifier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/pkgdb"
)

var (
	// errNoKeyring: packages that nothing vouches for would explain anything.
	errNoKeyring = errors.New("packages without keyrings: name the OpenPGP keys that sign them")
	// errNoPackages: a list of diversions says where files of packages are.
	errNoPackages = errors.New("diversions without packages: name the packages whose files they divert")
)

// packagesEvery is how often it is looked whether packages changed.
const packagesEvery = time.Minute

// heldPackages are signed packages that explain changes of one machine or several.
type heldPackages struct {
	paths, keyrings []string
	diversions      string // file, "" for none
	now             atomic.Pointer[pkgdb.Packages]
	read            string // stamp of the files as they were read
	seen            string // and as they were last seen
}

// readPackages opens the packages that explain changes of a machine. Machines
// with the same packages share them.
func (v *Verifier) readPackages(h Host) error {
	if len(h.Keyrings) == 0 {
		return errNoKeyring
	}
	for _, other := range v.packages {
		if slices.Equal(other.paths, h.Packages) && slices.Equal(other.keyrings, h.Keyrings) && other.diversions == h.Diversions {
			v.packages[h.Name] = other
			return nil
		}
	}
	held := &heldPackages{paths: h.Packages, keyrings: h.Keyrings, diversions: h.Diversions}
	if err := held.open(v.log); err != nil {
		return err
	}
	v.packages[h.Name] = held
	return nil
}

// open reads the packages. After an error those that were there stay in use.
func (p *heldPackages) open(log *slog.Logger) error {
	var err error
	if p.read, err = stampOf(p.files()); err != nil {
		return err
	}
	p.seen = p.read
	ring, err := pkgdb.OpenKeyring(p.keyrings...)
	if err != nil {
		return err
	}
	fresh, err := pkgdb.Open(ring, p.paths...)
	if err != nil {
		return err
	}
	if log != nil {
		for _, unused := range fresh.Unused {
			log.Warn("package not used", slog.Any("packages", p.paths), slog.Any("error", unused))
		}
	}
	if p.diversions != "" {
		d, err := pkgdb.OpenDiversions(p.diversions)
		if err != nil {
			return err
		}
		fresh.Divert(d, pkgdb.OperatorsWord)
	}
	p.now.Store(fresh)
	return nil
}

// files are all that is read.
func (p *heldPackages) files() []string {
	files := slices.Concat(p.paths, p.keyrings)
	if p.diversions != "" {
		files = append(files, p.diversions)
	}
	return files
}

// stampOf changes with the names, sizes and times of files and of all files in
// directories.
func stampOf(paths []string) (string, error) {
	h := blake3.New()
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err == nil {
				fmt.Fprintf(h, "%q %d %d\n", name, info.Size(), info.ModTime().UnixNano())
			}
			return err
		})
		if err != nil {
			return "", fmt.Errorf("read packages: %w", err)
		}
	}
	return string(h.Sum(nil)), nil
}

// workPackages reads packages again when their files changed.
func (v *Verifier) workPackages(ctx context.Context) {
	tick := time.NewTicker(packagesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			v.renewPackages()
		}
	}
}

// renewPackages looks once at all packages. Files that differ from look to look
// are still being written.
func (v *Verifier) renewPackages() {
	done := map[*heldPackages]bool{}
	for _, p := range v.packages {
		if done[p] {
			continue
		}
		done[p] = true
		stamp, err := stampOf(p.files())
		was := p.seen
		p.seen = stamp
		if err == nil && (stamp == p.read || stamp != was) {
			continue
		}
		if err == nil {
			err = p.open(v.log)
		}
		if err != nil {
			v.log.Warn("packages that changed cannot be used; those read before stay in use", slog.Any("packages", p.paths), slog.Any("error", err))
			continue
		}
		v.log.Info("packages read again", slog.Any("packages", p.paths))
	}
}

// explain marks the changes of a machine that signed packages account for: they
// are told and count no longer.
func (v *Verifier) explain(machine string, changes ...*baseline.Change) {
	if p := v.packages[v.config.known(machine)]; p != nil {
		p.now.Load().Explain(changes, time.Now())
	}
}
