package pkgdb

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// Explain marks the changes that a package accounts for and says how many. Of
// others that have to do with a package it says so in words; they still count. now
// is when they are judged: an index may have come to its end since it was read.
func (p *Packages) Explain(changes []*baseline.Change, now time.Time) int {
	byPath := map[string]*baseline.Change{}
	for _, c := range changes {
		byPath[c.Path] = c
	}
	n := 0
	for _, c := range changes {
		o, how := p.explains(c, byPath)
		var on *diverted
		if o == nil && explainable(c) {
			if o, on = p.divertedHere(c); o != nil {
				how = "the file that is diverted to here from " + filewatch.PrintablePath(on.from) + ", on " + string(on.word) + ", of"
			}
		}
		switch {
		case o == nil:
			if hint := p.hint(c); hint != "" {
				c.Explanation += "; " + hint
			}
			continue
		case o.voucher.past(now):
			c.Explanation += fmt.Sprintf("; it is %s package %s, for which nothing vouches any more: %s, %v %s",
				how, o.name, o.voucher.text, ErrExpired, o.voucher.until.Format(time.RFC3339))
			continue
		case on != nil && on.word == GuestsWord:
			c.Explanation += "; hint, and it explains nothing: it is " + how + " package " + o.name
			continue
		}
		c.Explained = "package " + o.name + " (" + o.voucher.text + ")"
		if on != nil {
			c.Explained += ", diverted on " + string(on.word)
		}
		c.Explanation += "; it is " + how + " package " + o.name
		n++
	}
	return n
}

// explainable says that there is something that a package could have.
func explainable(c *baseline.Change) bool {
	return c.New != nil && c.Kind != baseline.Unmeasured && c.New.Unread == ""
}

// explains names the package that contains the change's new state exactly, and
// what that is to the package.
func (p *Packages) explains(c *baseline.Change, changes map[string]*baseline.Change) (o *owned, how string) {
	if !explainable(c) {
		return nil, ""
	}
	for _, name := range c.New.Names {
		if o := p.exactly(name, c); o != nil {
			return o, "what is installed by"
		}
	}
	name := c.New.Path()
	switch suffix := path.Ext(name); suffix {
	case ".dpkg-dist", ".dpkg-new", ".rpmnew":
		// A new version of a configuration file, put beside one that was edited.
		if o := p.exactly(strings.TrimSuffix(name, suffix), c); o != nil && o.file.Conffile {
			return o, "the configuration file, put beside the edited one, of"
		}
	case ".dpkg-old", ".rpmsave", ".rpmorig":
		return p.setAside(name, suffix, c, changes)
	case ".distrib":
		// Where dpkg-divert puts files unless told otherwise.
		if o := p.exactly(strings.TrimSuffix(name, suffix), c); o != nil {
			return o, "the file, moved aside by dpkg-divert, of"
		}
	}
	return nil, ""
}

// setAside explains the old version of a configuration file: it is what was
// there before, and the package's is there now.
func (p *Packages) setAside(name, suffix string, c *baseline.Change, changes map[string]*baseline.Change) (*owned, string) {
	now := changes[strings.TrimSuffix(name, suffix)]
	if beyondPackages(c) || now == nil || now.Old == nil || now.New == nil || c.Kind != baseline.Added && c.Old.ID() != now.Old.ID() {
		return nil, ""
	}
	o := p.exactly(now.Path, now)
	if o == nil || !o.file.Conffile {
		return nil, ""
	}
	same, _ := now.Old.SameContent(c.New.BLAKE3, c.New.SHA256)
	if !same || now.Old.Type != c.New.Type || now.Old.Mode != c.New.Mode || now.Old.UID != c.New.UID || now.Old.GID != c.New.GID {
		return nil, ""
	}
	return o, "the earlier configuration file, set aside by"
}

// exactly is the package whose file of that name is the change's new state.
// Where several are, it is one whose voucher counts longest.
func (p *Packages) exactly(name string, c *baseline.Change) (found *owned) {
	all := p.byPath[merged(name)]
	for i := range all {
		if o := &all[i]; o.file.is(c) && (found == nil || o.voucher.outlasts(&found.voucher)) {
			found = o
		}
	}
	return found
}

// hint says what a package has to do with a change that it does not account for.
func (p *Packages) hint(c *baseline.Change) string {
	if c.New == nil {
		return ""
	}
	if in := p.byPath[merged(c.New.Path())]; len(in) > 0 {
		names := make([]string, len(in))
		for i, o := range in {
			names[i] = o.name
		}
		kind := "a file"
		if in[0].file.Conffile {
			kind = "a configuration file"
		}
		return kind + " of package " + strings.Join(slices.Compact(names), ", ") + ", and not as it is there"
	}
	if in := p.byPath[merged(c.New.Link)]; strings.HasPrefix(c.New.Path(), "/etc/alternatives/") && len(in) > 0 {
		return "update-alternatives may have pointed it at a file of package " + in[0].name + ", and so may anyone"
	}
	return ""
}

// beyondPackages says that xattrs came or changed, whatever the rules compare: no
// package contains them, but for an .rpm's file capabilities.
func beyondPackages(c *baseline.Change) bool {
	if c.Old == nil {
		return len(c.New.Xattrs) > 0
	}
	return !sameXattrs(c.Old.Xattrs, c.New.Xattrs)
}

func sameXattrs(a, b []filewatch.Xattr) bool {
	return slices.EqualFunc(a, b, func(a, b filewatch.Xattr) bool {
		return a.Name == b.Name && bytes.Equal(a.Value, b.Value)
	})
}

const capabilityXattr = "security.capability"

// xattrs says that the change's are what installing the file leaves.
func (f *File) xattrs(c *baseline.Change) bool {
	if f.Capabilities == nil {
		return !f.CapabilitiesUnknown && !beyondPackages(c)
	}
	isCapability := func(x filewatch.Xattr) bool { return x.Name == capabilityXattr }
	at := slices.IndexFunc(c.New.Xattrs, isCapability)
	if at < 0 || !bytes.Equal(c.New.Xattrs[at].Value, f.Capabilities) {
		return false
	}
	var old []filewatch.Xattr
	if c.Old != nil {
		old = slices.DeleteFunc(slices.Clone(c.Old.Xattrs), isCapability)
	}
	return sameXattrs(old, slices.DeleteFunc(slices.Clone(c.New.Xattrs), isCapability))
}

// is says that the change made an object what the package has.
func (f *File) is(c *baseline.Change) bool {
	r := c.New
	owner := f.UID == r.UID && f.GID == r.GID
	if f.OwnerUnknown {
		owner = c.Old != nil && c.Old.UID == r.UID && c.Old.GID == r.GID
	}
	// An override (dpkg-statoverride) outlives an upgrade: what the baseline has of mode
	// and owner did not change. That there is one nothing proves, so it makes no program
	// setuid or setgid that the package has not so.
	const setID = 0o6000
	kept := c.Old != nil && c.Old.Mode&setID&^f.Mode == 0 && c.Old.Type == r.Type && c.Old.Path() == r.Path() &&
		c.Old.Mode == r.Mode && c.Old.UID == r.UID && c.Old.GID == r.GID
	if f.Type != r.Type || !owner && !kept || !f.xattrs(c) {
		return false
	}
	switch f.Type {
	case filewatch.TypeSymlink:
		return f.Link == r.Link
	case filewatch.TypeFile:
		same, _ := r.SameContent(f.BLAKE3, f.SHA256)
		return same && (f.Mode == r.Mode && owner || kept) && f.Size == r.Size
	}
	return false
}
