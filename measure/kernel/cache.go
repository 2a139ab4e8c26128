package kernel

import (
	"fmt"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/internal/pagehash"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// maxProfiles bounds a [Cache]; the oldest goes first. A profile takes about
// 100 MB with its types read, and what is [Profile.Derived] from it is held as long:
// pages that scans compare with, of about 30 MB in a usual kernel (measure/check).
const maxProfiles = 8

// Cache keeps profiles between scans. A kept profile is used again only for a
// kernel at the same address whose build-id, symbols and types are the same
// bytes: the digest over them is computed each time, so a target cannot plant a
// profile for another. It is safe for concurrent use; a nil Cache keeps nothing.
type Cache struct {
	mu   sync.Mutex
	kept []kept // oldest first
}

type kept struct {
	profile *Profile
	ranges  [][2]mem.Virt
	digest  [32]byte
}

// Profile makes the profile of the kernel whose memory and registers are given.
func (c *Cache) Profile(m mem.Reader, regs []mem.Registers) (*Profile, error) {
	places, err := locate(m, regs)
	if err != nil {
		return nil, err
	}
	var found *Profile
	for _, l := range places {
		p, placeErr := c.profile(l)
		switch {
		case placeErr != nil:
			err = placeErr
		case !l.described:
			return p, nil
		case found != nil:
			return nil, fmt.Errorf("%w: at %v and at %v", ErrSeveralKernels, found.Space.Root(), p.Space.Root())
		default:
			found = p
		}
	}
	if found == nil {
		return nil, err
	}
	return found, nil
}

// profile makes the profile of the kernel at one place.
func (c *Cache) profile(l *located) (*Profile, error) {
	if c != nil {
		if p := c.find(l); p != nil {
			if err := p.bind(l); err != nil {
				return nil, err
			}
			return p, nil
		}
	}
	p, err := newProfile(l)
	if err == nil && c != nil {
		c.keep(l, p)
	}
	return p, err
}

// find returns a copy of a kept profile that fits, not yet bound.
func (c *Cache) find(l *located) *Profile {
	c.mu.Lock()
	candidates := append([]kept(nil), c.kept...)
	c.mu.Unlock()
	for _, k := range candidates {
		if k.profile.Base != l.base || k.profile.Phys != l.phys || k.profile.End != l.end {
			continue
		}
		if d, err := digest(l, k.ranges); err == nil && d == k.digest {
			p := *k.profile
			return &p
		}
	}
	return nil
}

func (c *Cache) keep(l *located, p *Profile) {
	ranges := p.constant()
	d, err := digest(l, ranges)
	if err != nil {
		return
	}
	fresh := *p
	fresh.Space = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.kept) == maxProfiles {
		c.kept = c.kept[1:]
	}
	c.kept = append(c.kept, kept{profile: &fresh, ranges: ranges, digest: d})
}

// constant lists what a profile was read from and never changes after boot:
// .rodata up to the data that is written during boot, which holds the kallsyms
// tables and the banner, the types, and the notes.
func (p *Profile) constant() [][2]mem.Virt {
	var ranges [][2]mem.Virt
	for _, names := range [][2]string{
		{"__start_rodata", "__start_ro_after_init"},
		{"__start_BTF", "__stop_BTF"},
		{"__start_notes", "__stop_notes"},
	} {
		from, ok1 := p.Symbol(names[0])
		to, ok2 := p.Symbol(names[1])
		if ok1 && ok2 {
			ranges = append(ranges, [2]mem.Virt{from, to})
		}
	}
	return ranges
}

// digest stands for the bytes of ranges: it is over the digests of pages counted
// from the start of each, and what is left at its end.
func digest(l *located, ranges [][2]mem.Virt) ([32]byte, error) {
	h := blake3.New()
	var b [64 * pagehash.PageSize]byte
	var digests [64 * pagehash.DigestSize]byte
	for _, r := range ranges {
		for at := r[0]; at < r[1]; at += mem.Virt(len(b)) {
			part := b[:min(len(b), int(r[1]-at))]
			if err := l.readInto(part, at); err != nil {
				return [32]byte{}, fmt.Errorf("read what the profile was made from: %w", err)
			}
			pages := len(part) / pagehash.PageSize
			pagehash.Sum(digests[:pages*pagehash.DigestSize], part[:pages*pagehash.PageSize])
			_, _ = h.Write(digests[:pages*pagehash.DigestSize]) // never fails
			_, _ = h.Write(part[pages*pagehash.PageSize:])
		}
	}
	return [32]byte(h.Sum(nil)), nil
}
