package xen

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Domain is one of the domains that a Xen runs.
type Domain struct {
	ID       uint16   `json:"id"`
	At       mem.Virt `json:"at"`       // its struct domain
	Assisted bool     `json:"assisted"` // hardware-assisted: HVM or PVH
	HAP      bool     `json:"hap"`      // with EPT or NPT, and not with shadow page tables
	Listed   bool     `json:"listed"`   // in domain_list
	Hashed   bool     `json:"hashed"`   // in domain_hash
}

// ErrDomains means that the list of domains does not hold together, or changed
// while it was read.
var ErrDomains = errors.New("domains that do not hold together")

// Bounds of the list (include/public/xen.h: numbers from DOMID_FIRST_RESERVED
// on are no domains; common/domain.c: DOMAIN_HASH_SIZE).
const (
	firstReserved = 0x7ff0
	hashSize      = 256
)

// domainLayout is where members of struct domain lie. Xen carries no types: the
// offsets are those in the code of two of its functions.
type domainLayout struct {
	options mem.Virt // of options, whose bit 0 is XEN_DOMCTL_CDF_hvm and bit 1 XEN_DOMCTL_CDF_hap
	hash    mem.Virt // of next_in_hashbucket; next_in_list is right before it (include/xen/sched.h)
}

// Domains lists the domains, by the list and by the table of buckets.
func (p *Profile) Domains() ([]Domain, error) {
	layout, err := p.domainLayout()
	if err != nil {
		return nil, err
	}
	first, ok1 := p.Symbol("domain_list")
	table, ok2 := p.Symbol("common/domain.c#domain_hash")
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%w: no domain_list or domain_hash", ErrLayout)
	}
	var out []Domain
	known := make(map[mem.Virt]int)
	chain := func(head, next mem.Virt, mark func(*Domain)) error {
		at, err := p.Space.U64(head)
		for steps := 0; err == nil && at != 0; steps++ {
			if v := mem.Virt(at); v < DirectMap || v >= DirectMapEnd || v%mem.PageSize != 0 || steps > firstReserved {
				return fmt.Errorf("%w: a domain at %v", ErrDomains, v)
			}
			i, ok := known[mem.Virt(at)]
			if !ok {
				i = len(out)
				known[mem.Virt(at)] = i
				d := Domain{At: mem.Virt(at)}
				var word uint32
				if word, err = p.Space.U32(d.At); err != nil {
					return err
				}
				d.ID = uint16(word)
				if word, err = p.Space.U32(d.At + layout.options); err != nil {
					return err
				}
				d.Assisted, d.HAP = word&1 != 0, word&2 != 0
				if d.ID >= firstReserved {
					return fmt.Errorf("%w: number %#x at %v", ErrDomains, d.ID, d.At)
				}
				out = append(out, d)
			}
			mark(&out[i])
			at, err = p.Space.U64(mem.Virt(at) + next)
		}
		return err
	}
	if err := chain(first, layout.hash-8, func(d *Domain) { d.Listed = true }); err != nil {
		return nil, err
	}
	for i := range hashSize {
		if err := chain(table+mem.Virt(8*i), layout.hash, func(d *Domain) { d.Hashed = true }); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// domainLayout decodes hvm_domain_use_pirq, which begins with a test of d->options
// ("TESTB $1, disp32(%RDI)"), and get_domain_by_id, which follows
// d->next_in_hashbucket ("MOV disp32(%R), %R", one register).
func (p *Profile) domainLayout() (domainLayout, error) {
	var l domainLayout
	code := func(name string, n int) []byte {
		at, _ := p.Symbol(name)
		return bytes.TrimPrefix(p.at(at, n), endbr64)
	}
	if b := code("hvm_domain_use_pirq", 16); len(b) >= 7 && b[0] == 0xf6 && b[1] == 0x87 && b[6] == 1 {
		l.options = mem.Virt(le32(b[2:]))
	}
	b := code("get_domain_by_id", 128)
	for i := 0; i+7 <= len(b); i++ {
		// REX.W, and R and B alike; mod 10, reg and rm alike, and not RSP.
		rex, modrm := b[i], b[i+2]
		if (rex == 0x48 || rex == 0x4d) && b[i+1] == 0x8b && modrm>>6 == 2 && modrm>>3&7 == modrm&7 && modrm&7 != 4 {
			l.hash = mem.Virt(le32(b[i+3:]))
			break
		}
	}
	if l.options == 0 || l.options >= mem.PageSize || l.hash < 16 || l.hash >= mem.PageSize || l.hash%8 != 0 {
		return l, fmt.Errorf("%w: members of struct domain at %#x and %#x", ErrLayout, uint64(l.options), uint64(l.hash))
	}
	return l, nil
}
