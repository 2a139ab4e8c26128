package linux

import (
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

// Bits of st_mode (include/uapi/linux/stat.h).
const (
	modeType  = 0o170000
	modeFile  = 0o100000
	modeBlock = 0o060000
)

// fsRequiresDev is set for the families that live on a block device
// (include/linux/fs.h). The others have nothing on the guest's disk.
const fsRequiresDev = 1

func (d *Driver) inode(v *view, inode uint64) trap.Inode {
	o := &d.l.Inode
	return trap.Inode{
		Address:    inode,
		Number:     v.u64(inode + o.Ino),
		Generation: v.u32(inode + o.Generation),
		Mode:       uint32(v.u16(inode + o.Mode)),
		UID:        v.u32(inode + o.UID),
		GID:        v.u32(inode + o.GID),
		Nlink:      v.u32(inode + o.Nlink),
		Rdev:       v.u32(inode + o.Rdev),
		Size:       int64(v.u64(inode + o.Size)),
		Mtime:      d.time(v, inode+o.MtimeSec, inode+o.MtimeNsec),
		Ctime:      d.time(v, inode+o.CtimeSec, inode+o.CtimeNsec),
	}
}

// pageMarks are the bits of a page cache's xa_flags that say that some page is
// dirty, under writeback or chosen for it. They are the three bits above the GFP
// bits, whose number depends on version and configuration (23 to 28); nothing
// else of xa_flags lies above bit 20 (include/linux/xarray.h).
const pageMarks = 0xfff0_0000

// Look says what the kernel has of an inode now that was seen at address.
func (d *Driver) Look(mem trap.Memory, address, number uint64, generation uint32) trap.Live {
	v := &view{mem: mem}
	now := d.inode(v, address)
	if v.bad || now.Number != number || now.Generation != generation {
		return trap.Live{} // evicted, and its memory in other use
	}
	flags := v.u32(v.u64(address+d.l.Inode.Mapping) + d.l.MappingFlags)
	return trap.Live{
		Cached: true, Dirty: v.bad || flags&pageMarks != 0,
		Size: now.Size, Mtime: now.Mtime, Ctime: now.Ctime,
	}
}

// Alive says whether the kernel is still where the layout has it: its first
// task has the name that every kernel gives it. After a kexec it has not.
func (d *Driver) Alive(mem trap.Memory) bool {
	v := &view{mem: mem}
	return strings.HasPrefix(string(v.fixed(d.l.InitTask+d.l.Task.Comm, d.comm[:])), "swapper")
}

// PageTables is the address of the kernel's own page tables.
func (d *Driver) PageTables() uint64 { return d.l.PageTables }

func (d *Driver) time(v *view, sec, nsec uint64) int64 {
	// From 6.13 the top bit of the nanoseconds marks a time that was queried.
	return int64(v.u64(sec))*1e9 + int64(v.u32(nsec)&0x7fffffff)
}

// onDisk says whether a super block belongs to a family on a block device.
func (d *Driver) onDisk(v *view, sb uint64) bool {
	fstype := v.u64(sb + d.l.SB.Type)
	return v.u32(fstype+d.l.FSType.Flags)&fsRequiresDev != 0
}

func (d *Driver) volume(v *view, sb uint64) trap.Volume {
	vol := trap.Volume{Device: v.u32(sb + d.l.SB.Dev)}
	v.read(sb+d.l.SB.UUID, vol.UUID[:])
	fstype := v.u64(sb + d.l.SB.Type)
	vol.Name = string(v.fixed(sb+d.l.SB.ID, d.name[:32]))
	vol.Type = string(v.text(v.u64(fstype+d.l.FSType.Name), d.name[:32]))
	return vol
}
