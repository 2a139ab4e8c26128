package linux

import (
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

// Bounds on what is followed for one path.
const (
	maxMounts     = 4096 // mounts of one super block looked at
	maxMountDepth = 64   // mounts on top of each other
	mountTTL      = 100 * time.Millisecond
	maxVolumes    = 256 // super blocks remembered
)

// builder collects path components from the last to the first.
type builder struct {
	buf   [trap.MaxPath]byte
	at    int // first byte used
	depth int
	cut   bool // a limit was met
}

func (b *builder) reset() { b.at, b.depth, b.cut = len(b.buf), 0, false }

func (b *builder) prepend(name []byte) bool {
	if b.depth++; b.depth > trap.MaxDepth || len(name)+1 > b.at {
		b.cut = true
		return false
	}
	b.at -= len(name)
	copy(b.buf[b.at:], name)
	b.at--
	b.buf[b.at] = '/'
	return true
}

func (b *builder) String() string { return string(b.buf[b.at:]) }

// up prepends the names of dentry and its parents below root. A dentry that is
// its own parent is the root of its volume.
func (d *Driver) up(v *view, dentry, root uint64) {
	for dentry != root {
		parent := v.u64(dentry + d.l.Dentry.Parent)
		if parent == dentry || v.bad {
			return
		}
		n := v.u32(dentry + d.l.Dentry.Len)
		if n == 0 || n > trap.MaxName {
			d.path.cut = true
			return
		}
		name := d.name[:n]
		if !v.read(v.u64(dentry+d.l.Dentry.Name), name) || !d.path.prepend(name) {
			return
		}
		dentry = parent
	}
}

// nameOf is the path of a dentry in its volume and where the volume is mounted.
func (d *Driver) nameOf(v *view, dentry uint64, rec *trap.Record) trap.Name {
	d.path.reset()
	d.up(v, dentry, 0)
	path := d.path.String()
	if path == "" {
		path = "/"
	}
	if d.path.cut || v.bad {
		rec.Marks |= trap.PathTruncated
	}
	place := d.place(v, v.u64(dentry+d.l.Dentry.SB))
	if !place.found {
		rec.Marks |= trap.NoMount
	}
	return trap.Name{Mount: place.path, Path: path}
}

// place is where the root of a volume is mounted.
type place struct {
	path  string
	found bool
	seen  time.Time
}

// place finds the oldest mount of the whole volume in the first mount
// namespace. It is remembered for a moment: mounts change rarely.
func (d *Driver) place(v *view, sb uint64) place {
	now := d.now()
	if p, ok := d.places[sb]; ok && now.Sub(p.seen) < mountTTL {
		return p
	}
	p := place{seen: now}
	ns := v.u64(v.u64(d.l.InitTask+d.l.Task.NSProxy) + d.l.NSProxyMount)
	root := v.u64(sb + d.l.SB.Root)
	head := sb + d.l.SB.Mounts
	link := v.u64(head)
	for n := 0; link != head && n < maxMounts && !v.bad; n++ {
		m := link - d.l.Mount.Instance
		if v.u64(m+d.l.Mount.NS) == ns && v.u64(m+d.l.Mount.Root) == root {
			p.path, p.found = d.mountPath(v, m)
			break
		}
		link = v.u64(link)
	}
	if len(d.places) >= maxVolumes {
		clear(d.places)
	}
	d.places[sb] = p
	return p
}

// mountPath is the path of a mount point; "" for the root.
func (d *Driver) mountPath(v *view, m uint64) (string, bool) {
	d.path.reset()
	for range maxMountDepth {
		parent := v.u64(m + d.l.Mount.Parent)
		if v.bad || d.path.cut {
			return "", false
		}
		if parent == m {
			return d.path.String(), true
		}
		d.up(v, v.u64(m+d.l.Mount.Point), v.u64(parent+d.l.Mount.Root))
		m = parent
	}
	return "", false
}
