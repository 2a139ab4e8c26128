package linux

import (
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

// Options of a driver. The zero value works.
type Options struct {
	// AllVolumes reports operations on file systems without a block device too
	// (tmpfs, proc, overlay): they are not on the guest's disk.
	AllVolumes bool
	// Opens asks for a check of each opening for writing, so that the protect
	// level can refuse it.
	Opens bool
}

// Driver implements trap.Driver.
type Driver struct {
	l    *Layout
	opts Options
	now  func() time.Time

	open   map[uint64]openFile // by address of struct file
	places map[uint64]place    // by address of the super block

	path builder
	name [trap.MaxName + 1]byte
	comm [trap.MaxComm]byte
	text [trap.MaxPath]byte
}

var _ trap.Driver = (*Driver)(nil)

// NewDriver returns the driver for a layout, as NewLayout made it.
func NewDriver(l *Layout, opts *Options) (*Driver, error) {
	if opts == nil {
		opts = &Options{}
	}
	for _, h := range l.Hooks {
		if h.Kind < FileOpen || h.Kind > CreateCheck || h.Addr < kernelHalf {
			return nil, fmt.Errorf("hook of kind %d at %#x: %w", h.Kind, h.Addr, trap.ErrNotSupported)
		}
		for _, a := range h.Args {
			if a < 0 || int(a) >= len(trap.Registers{}.Args) {
				return nil, fmt.Errorf("hook of kind %d with argument %d: %w", h.Kind, a, trap.ErrNotSupported)
			}
		}
	}
	return &Driver{
		l: l, opts: *opts, now: time.Now,
		open: make(map[uint64]openFile), places: make(map[uint64]place),
	}, nil
}

// Layout is what the driver knows about the kernel; it is what travels to the
// plugin.
func (d *Driver) Layout() *Layout { return d.l }

// Hooks implements trap.Driver.
func (d *Driver) Hooks() []uint64 {
	addrs := make([]uint64, len(d.l.Hooks))
	for i, h := range d.l.Hooks {
		addrs[i] = h.Addr
	}
	return addrs
}

// Blind implements trap.Driver.
func (d *Driver) Blind() []string { return d.l.Missing }

// Task implements trap.Driver: the address of the current task_struct.
func (d *Driver) Task(regs *trap.Registers, mem trap.Memory) uint64 {
	v := view{mem: mem}
	return v.u64(regs.GSBase + d.l.CurrentTask)
}

// ops by kind, where the kind alone says it.
var ops = map[Kind]filewatch.Op{
	Create: filewatch.OpCreate, CreateCheck: filewatch.OpCreate,
	Mkdir: filewatch.OpMkdir, Mknod: filewatch.OpMknod, Symlink: filewatch.OpSymlink, Link: filewatch.OpLink,
	Unlink: filewatch.OpUnlink, Rmdir: filewatch.OpRmdir, Rename: filewatch.OpRename,
	FileAttr: filewatch.OpSetFlags, Fallocate: filewatch.OpFallocate,
}

// Enter implements trap.Driver.
func (d *Driver) Enter(hook int, regs *trap.Registers, mem trap.Memory, rec *trap.Record) trap.Action {
	h := &d.l.Hooks[hook]
	v := &view{mem: mem}
	arg := func(i int) uint64 { return regs.Args[h.Args[i]] }
	switch h.Kind {
	case FileOpen:
		return d.enterOpen(v, regs, arg(0), rec)
	case Modified:
		return d.enterModified(v, regs, arg(0), rec)
	case ModifiedIO:
		return d.enterModified(v, regs, v.u64(arg(0)+d.l.KiocbFile), rec)
	case FinalPut:
		return d.enterPut(v, regs, arg(0), rec)
	case CreateCheck:
		if !d.opts.Opens || d.enterEntry(v, regs, h.Kind, arg(0), rec) == trap.Drop {
			return trap.Drop
		}
		return trap.Check
	case Fallocate:
		rec.Flags = arg(1) & 0xffffffff
		return d.enterEntry(v, regs, h.Kind, v.u64(arg(0)+d.l.File.Dentry), rec)
	case Link:
		if d.enterEntry(v, regs, h.Kind, arg(0), rec) == trap.Drop {
			return trap.Drop
		}
		rec.NewPath = d.nameOf(v, arg(1), rec)
		return trap.Await
	case Rename:
		return d.enterRename(v, regs, arg(0), rec)
	case Symlink:
		action := d.enterEntry(v, regs, h.Kind, arg(0), rec)
		if action == trap.Await {
			rec.Detail = string(v.text(arg(1), d.text[:]))
		}
		return action
	case SetXattr:
		action := d.enterEntry(v, regs, h.Kind, arg(0), rec)
		if action == trap.Await {
			rec.Detail = string(v.text(arg(1), d.name[:]))
			rec.Op = xattrOp(rec.Detail)
		}
		return action
	case SetAttr:
		rec.Flags = uint64(v.u32(arg(1) + d.l.IattrValid))
		rec.Op = attrOp(rec.Flags)
	}
	return d.enterEntry(v, regs, h.Kind, arg(0), rec)
}

// enterEntry fills a record from the dentry that a function works on.
func (d *Driver) enterEntry(v *view, regs *trap.Registers, kind Kind, dentry uint64, rec *trap.Record) trap.Action {
	sb := v.u64(dentry + d.l.Dentry.SB)
	if v.bad || !d.opts.AllVolumes && !d.onDisk(v, sb) {
		return trap.Drop
	}
	if op, ok := ops[kind]; ok {
		rec.Op = op
	}
	d.fill(v, regs, dentry, sb, rec)
	if inode := v.u64(dentry + d.l.Dentry.Inode); inode != 0 {
		rec.Object = d.inode(v, inode)
	}
	return trap.Await
}

func (d *Driver) fill(v *view, regs *trap.Registers, dentry, sb uint64, rec *trap.Record) {
	rec.Time = d.now().UnixNano()
	d.actor(v, v.u64(regs.GSBase+d.l.CurrentTask), rec)
	rec.Volume = d.volume(v, sb)
	rec.Path = d.nameOf(v, dentry, rec)
	// A dentry that is in no hash chain and is not a root has lost its name.
	if v.u64(dentry+d.l.Dentry.Hash) == 0 && v.u64(dentry+d.l.Dentry.Parent) != dentry {
		rec.Marks |= trap.Unlinked
	}
}

// renameExchange is RENAME_EXCHANGE (include/uapi/linux/fs.h).
const renameExchange = 2

func (d *Driver) enterRename(v *view, regs *trap.Registers, rd uint64, rec *trap.Record) trap.Action {
	from, to := v.u64(rd+d.l.Rename.OldDentry), v.u64(rd+d.l.Rename.NewDentry)
	source, target := v.u64(from+d.l.Dentry.Inode), v.u64(to+d.l.Dentry.Inode)
	if source == target || d.enterEntry(v, regs, Rename, from, rec) == trap.Drop {
		return trap.Drop // two names of one object: the kernel does nothing
	}
	if v.u32(rd+d.l.Rename.Flags)&renameExchange != 0 {
		rec.Op = filewatch.OpExchange
	}
	if target != 0 {
		rec.Replaced = d.inode(v, target)
	}
	rec.NewPath = d.nameOf(v, to, rec)
	return trap.Await
}

// Leave implements trap.Driver.
func (d *Driver) Leave(hook int, entry, regs *trap.Registers, mem trap.Memory, rec *trap.Record) bool {
	if !succeeded(regs.AX) {
		return false
	}
	h := &d.l.Hooks[hook]
	v := &view{mem: mem}
	dentry := entry.Args[h.Args[0]]
	switch h.Kind {
	case Unlink, Rmdir:
		return true // the dentry is empty now: the object is as it was before
	case Rename:
		dentry = v.u64(dentry + d.l.Rename.OldDentry)
	case Fallocate:
		dentry = v.u64(dentry + d.l.File.Dentry)
	case SetAttr:
		// The kernel adds what follows from what was asked, such as the loss
		// of the set-user-ID bit.
		rec.Flags = uint64(v.u32(entry.Args[h.Args[1]] + d.l.IattrValid))
		rec.Op = attrOp(rec.Flags)
	}
	if inode := v.u64(dentry + d.l.Dentry.Inode); inode != 0 {
		if now := d.inode(v, inode); !v.bad {
			rec.Object = now
		}
	}
	return true
}

// maxErrno is the largest error a kernel function returns (include/linux/err.h).
const maxErrno = 4095

// succeeded says whether a return value is 0 or, where a function returns an
// object (vfs_mkdir from 6.15), a pointer that is not an error.
func succeeded(ax uint64) bool {
	if uint32(ax) == 0 {
		return true
	}
	if n := int32(ax); n < 0 && n >= -maxErrno {
		return false
	}
	return ax >= kernelHalf
}

// Widen adds to the options.
func (d *Driver) Widen(opts Options) {
	d.opts.AllVolumes = d.opts.AllVolumes || opts.AllVolumes
	d.opts.Opens = d.opts.Opens || opts.Opens
}
