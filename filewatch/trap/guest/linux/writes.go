package linux

import (
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

// Bits of file.f_mode (include/linux/fs.h; FMODE_CREATED since 4.19).
const (
	fmodeWrite   = 0x2
	fmodeCreated = 0x100000
)

// writeEvery is how often a file that stays open and is written on and on is
// reported.
const writeEvery = time.Second

// maxOpen bounds the open files remembered. Beyond it one is forgotten, which
// costs no event: a file not remembered is reported when it is closed.
const maxOpen = 1 << 16

// openFile is a file open for writing.
type openFile struct {
	inode  uint64
	last   time.Time // of the last record; zero when there was none
	writes uint32    // since the last record
	total  uint32
}

func (d *Driver) remember(file uint64, f openFile) {
	if _, ok := d.open[file]; !ok && len(d.open) >= maxOpen {
		for k := range d.open {
			delete(d.open, k)
			break
		}
	}
	d.open[file] = f
}

// enterOpen sees a file that is about to be opened. One that the open created
// exists by now, whatever becomes of the open.
func (d *Driver) enterOpen(v *view, regs *trap.Registers, file uint64, rec *trap.Record) trap.Action {
	mode := v.u32(file + d.l.File.Mode)
	if mode&(fmodeCreated|fmodeWrite) == 0 || v.bad {
		return trap.Drop
	}
	inode := v.u64(file + d.l.File.Inode)
	if !d.fileWanted(v, inode) {
		return trap.Drop
	}
	if mode&fmodeWrite != 0 {
		d.remember(file, openFile{inode: inode})
	}
	created := mode&fmodeCreated != 0
	if !created && !d.opts.Opens {
		return trap.Drop
	}
	d.fillFile(v, regs, file, inode, rec)
	if created {
		rec.Op = filewatch.OpCreate
		return trap.Emit
	}
	rec.Op = filewatch.OpWrite
	return trap.Check
}

// enterModified sees a write about to begin. The first of an open file is
// reported, then one a second.
func (d *Driver) enterModified(v *view, regs *trap.Registers, file uint64, rec *trap.Record) trap.Action {
	inode := v.u64(file + d.l.File.Inode)
	if v.bad {
		return trap.Drop
	}
	f, known := d.open[file]
	if !known || f.inode != inode {
		if !d.fileWanted(v, inode) {
			return trap.Drop
		}
		f = openFile{inode: inode}
	}
	f.writes++
	f.total++
	now := d.now()
	if now.Sub(f.last) < writeEvery {
		d.open[file] = f
		return trap.Drop
	}
	rec.Op, rec.Stage, rec.Writes = filewatch.OpWrite, trap.Ongoing, f.writes
	f.last, f.writes = now, 0
	d.remember(file, f)
	d.fillFile(v, regs, file, inode, rec)
	return trap.Emit
}

// enterPut sees the last reference to an open file go, mappings included. A
// file that was seen opened and never modified gives nothing.
func (d *Driver) enterPut(v *view, regs *trap.Registers, file uint64, rec *trap.Record) trap.Action {
	f, known := d.open[file]
	delete(d.open, file)
	if v.u32(file+d.l.File.Mode)&fmodeWrite == 0 || v.bad {
		return trap.Drop
	}
	inode := v.u64(file + d.l.File.Inode)
	if known && f.inode == inode {
		if f.total == 0 && d.complete(v, inode) {
			return trap.Drop
		}
	} else if f = (openFile{}); !d.fileWanted(v, inode) {
		return trap.Drop
	}
	rec.Op, rec.Stage, rec.Writes = filewatch.OpWrite, trap.Closed, f.total
	d.fillFile(v, regs, file, inode, rec)
	return trap.Emit
}

func (d *Driver) fillFile(v *view, regs *trap.Registers, file, inode uint64, rec *trap.Record) {
	dentry := v.u64(file + d.l.File.Dentry)
	d.fill(v, regs, dentry, v.u64(inode+d.l.Inode.SB), rec)
	rec.Object = d.inode(v, inode)
}

// fileWanted says whether writes to an inode are of interest: regular files on
// a disk, and block devices, through which a disk is written below its files.
func (d *Driver) fileWanted(v *view, inode uint64) bool {
	switch v.u16(inode+d.l.Inode.Mode) & modeType {
	case modeFile:
		return d.opts.AllVolumes || d.onDisk(v, v.u64(inode+d.l.Inode.SB))
	case modeBlock:
		return true
	}
	return false
}

// complete says whether every write of the inode's family passes the hooks for
// modification, so that a file without one was not written. btrfs and the
// network families keep time by their own code.
func (d *Driver) complete(v *view, inode uint64) bool {
	sb := v.u64(inode + d.l.Inode.SB)
	fstype := v.u64(sb + d.l.SB.Type)
	switch string(v.text(v.u64(fstype+d.l.FSType.Name), d.name[:32])) {
	case "ext2", "ext3", "ext4", "xfs", "vfat", "msdos", "exfat", "tmpfs", "devtmpfs":
		return true
	}
	return false
}
