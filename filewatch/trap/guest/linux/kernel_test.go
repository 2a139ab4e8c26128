package linux

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

// toyKernel is a kernel's memory with structures of this test's own layout.
type toyKernel struct {
	l    Layout
	base uint64
	mem  []byte
	used uint64

	task, sb, mount, ns, root uint64
}

// spacing keeps the toy's fields apart: each is 64 bytes from the next, so that
// a name of 16 bytes or a UUID fits.
const spacing = 64

// newKernel is a kernel with one task, one ext4 mounted on /.
func newKernel() *toyKernel {
	k := &toyKernel{base: 0xffff_8880_0000_0000, mem: make([]byte, 1<<20)}
	next := map[string]uint64{}
	for _, f := range k.l.fields() {
		*f.at = next[f.structure]
		next[f.structure] += spacing
	}
	k.l.CurrentTask = 0x40
	for i, f := range functions {
		k.l.Hooks = append(k.l.Hooks, Hook{Kind: f.kind, Addr: 0xffff_ffff_8100_0000 + uint64(i)*0x1000, Args: f.at})
	}
	init := k.newTask(0, "swapper", 0)
	k.l.InitTask = init
	first := k.newTask(1, "init", init)
	k.task = k.newTask(77, "shell", first)
	proxy := k.alloc()
	k.ns = k.alloc()
	k.put64(init+k.l.Task.NSProxy, proxy)
	k.put64(proxy+k.l.NSProxyMount, k.ns)
	k.sb, k.root = k.newVolume("ext4", fsRequiresDev)
	k.mount = k.newMount(k.sb, k.root, 0, 0)
	return k
}

func (k *toyKernel) alloc() uint64 {
	at := k.base + k.used
	k.used += 0x800
	return at
}

func (k *toyKernel) at(addr uint64) []byte        { return k.mem[addr-k.base:] }
func (k *toyKernel) put64(addr, v uint64)         { binary.LittleEndian.PutUint64(k.at(addr), v) }
func (k *toyKernel) put32(addr uint64, v uint32)  { binary.LittleEndian.PutUint32(k.at(addr), v) }
func (k *toyKernel) put(addr uint64, text string) { copy(k.at(addr), text) }

// Read implements trap.Memory.
func (k *toyKernel) Read(addr uint64, p []byte) bool {
	if addr < k.base || addr-k.base > uint64(len(k.mem)) || uint64(len(p)) > uint64(len(k.mem))-(addr-k.base) {
		return false
	}
	copy(p, k.at(addr))
	return true
}

func (k *toyKernel) newTask(pid uint32, comm string, parent uint64) uint64 {
	t, cred := k.alloc(), k.alloc()
	k.put32(t+k.l.Task.PID, pid)
	k.put32(t+k.l.Task.TGID, pid)
	k.put(t+k.l.Task.Comm, comm)
	k.put64(t+k.l.Task.Cred, cred)
	k.put32(cred+k.l.Cred.FSUID, 1000)
	k.put32(cred+k.l.Cred.UID, 1001)
	if parent == 0 {
		parent = t
	}
	k.put64(t+k.l.Task.RealParent, parent)
	return t
}

func (k *toyKernel) newVolume(family string, flags uint32) (sb, root uint64) {
	sb = k.alloc()
	fstype, name := k.alloc(), k.alloc()
	k.put(name, family)
	k.put64(fstype+k.l.FSType.Name, name)
	k.put32(fstype+k.l.FSType.Flags, flags)
	k.put64(sb+k.l.SB.Type, fstype)
	k.put(sb+k.l.SB.ID, "vda")
	k.put(sb+k.l.SB.UUID, "0123456789abcdef")
	k.put64(sb+k.l.SB.Mounts, sb+k.l.SB.Mounts)
	root = k.newDentry(sb, 0, "/", 0o040755, 2)
	k.put64(sb+k.l.SB.Root, root)
	return sb, root
}

// newMount mounts the directory root of sb on a dentry of another mount.
func (k *toyKernel) newMount(sb, root, parent, point uint64) uint64 {
	m := k.alloc()
	if parent == 0 {
		parent, point = m, root
	}
	k.put64(m+k.l.Mount.Parent, parent)
	k.put64(m+k.l.Mount.Point, point)
	k.put64(m+k.l.Mount.Root, root)
	k.put64(m+k.l.Mount.NS, k.ns)
	head := sb + k.l.SB.Mounts
	k.put64(m+k.l.Mount.Instance, binary.LittleEndian.Uint64(k.at(head)))
	k.put64(head, m+k.l.Mount.Instance)
	return m
}

// newDentry is a name in a directory, with an inode when it has a mode.
func (k *toyKernel) newDentry(sb, parent uint64, name string, mode uint32, number uint64) uint64 {
	d, text := k.alloc(), k.alloc()
	k.put(text, name)
	if parent == 0 {
		parent = d
	}
	k.put64(d+k.l.Dentry.Parent, parent)
	k.put64(d+k.l.Dentry.Name, text)
	k.put32(d+k.l.Dentry.Len, uint32(len(name)))
	k.put64(d+k.l.Dentry.SB, sb)
	k.put64(d+k.l.Dentry.Hash, 1)
	if mode != 0 {
		inode := k.alloc()
		k.put32(inode+k.l.Inode.Mode, mode)
		k.put64(inode+k.l.Inode.Ino, number)
		k.put64(inode+k.l.Inode.SB, sb)
		k.put32(inode+k.l.Inode.Generation, uint32(number)*7)
		k.put64(d+k.l.Dentry.Inode, inode)
	}
	return d
}

func (k *toyKernel) inodeOf(dentry uint64) uint64 {
	return binary.LittleEndian.Uint64(k.at(dentry + k.l.Dentry.Inode))
}

func (k *toyKernel) newFile(dentry uint64, mode uint32) uint64 {
	f := k.alloc()
	k.put64(f+k.l.File.Dentry, dentry)
	k.put64(f+k.l.File.Inode, k.inodeOf(dentry))
	k.put32(f+k.l.File.Mode, mode)
	return f
}

// registers are those of the task at a hook.
func (k *toyKernel) registers(args ...uint64) *trap.Registers {
	r := &trap.Registers{GSBase: k.base + uint64(len(k.mem)) - 0x100}
	k.put64(r.GSBase+k.l.CurrentTask, k.task)
	copy(r.Args[:], args)
	return r
}

func (k *toyKernel) driver(opts *Options) *Driver {
	d, err := NewDriver(&k.l, opts)
	if err != nil {
		panic(err)
	}
	return d
}

// hook is the number of a function.
func hook(name string) int {
	for i, f := range functions {
		if f.name == name {
			return i
		}
	}
	panic(name)
}

// clock is a time that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// noise is memory whose every word is a pointer into itself, a small number or
// garbage, chosen by a seed: what a hostile kernel might have there.
type noise struct{ seed uint64 }

func (n noise) Read(addr uint64, p []byte) bool {
	r := rand.New(rand.NewPCG(n.seed, addr))
	if r.IntN(64) == 0 {
		return false
	}
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	if len(p) == 8 {
		switch r.IntN(4) {
		case 0, 1:
			binary.LittleEndian.PutUint64(p, 0xffff_8880_0000_0000+uint64(r.IntN(64))*64)
		case 2:
			binary.LittleEndian.PutUint64(p, uint64(r.IntN(256)))
		}
	} else if len(p) == 4 && r.IntN(2) == 0 {
		binary.LittleEndian.PutUint32(p, uint32(r.IntN(256)))
	}
	return true
}
