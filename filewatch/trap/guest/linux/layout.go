package linux

import (
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

// Layout is what the driver must know about one running kernel. It travels to
// the trap plugin as JSON; its fields are offsets in bytes unless said.
type Layout struct {
	Hooks   []Hook
	Missing []string // what there is no hook for, in words

	// CurrentTask is the offset of the current task's pointer in the per-CPU
	// area; InitTask the address of init_task, PageTables that of the kernel's
	// own, init_top_pgt.
	CurrentTask, InitTask, PageTables uint64

	Task struct{ PID, TGID, Comm, Cred, RealParent, Flags, NSProxy uint64 }
	Cred struct{ UID, FSUID, FSGID uint64 }
	File struct{ Dentry, Inode, Mode uint64 }

	Dentry struct{ Parent, Name, Len, Inode, SB, Hash uint64 }
	Inode  struct {
		Mode, UID, GID, Ino, SB, Generation, Size, Nlink, Rdev, Mapping uint64
		MtimeSec, MtimeNsec, CtimeSec, CtimeNsec                        uint64
	}
	SB     struct{ Dev, UUID, ID, Type, Root, Mounts uint64 }
	FSType struct{ Name, Flags uint64 }
	Mount  struct{ Parent, Point, Root, Instance, NS uint64 }

	NSProxyMount uint64
	MappingFlags uint64
	IattrValid   uint64
	KiocbFile    uint64
	Rename       struct{ OldDentry, NewDentry, Flags uint64 }
}

// Hook is a function to stop at. Args are the positions of the parameters that
// its kind needs, in the order of the kind.
type Hook struct {
	Kind Kind
	Addr uint64
	Args [3]int8
}

// field names one offset to resolve. The first alternative that the kernel has
// is taken.
type field struct {
	at        *uint64
	structure string
	paths     string // alternatives, separated by spaces
}

// NewLayout resolves the layout of a kernel. It fails with
// trap.ErrNotSupported, naming what is missing, rather than guess.
func NewLayout(symbols trap.Symbols, types trap.Types) (*Layout, error) {
	l := new(Layout)
	var missing []string
	for _, f := range l.fields() {
		if !resolve(types, f) {
			missing = append(missing, f.structure+"."+strings.Fields(f.paths)[0])
		}
	}
	if addr, ok := symbols.Address("current_task"); ok { // to 6.1, from 6.15
		l.CurrentTask = addr
	} else if hot, ok := symbols.Address("pcpu_hot"); ok { // 6.2 to 6.14
		off, found := types.Field("pcpu_hot", "current_task")
		l.CurrentTask = hot + off
		if !found {
			missing = append(missing, "pcpu_hot.current_task")
		}
	} else {
		missing = append(missing, "current_task")
	}
	var ok bool
	if l.InitTask, ok = symbols.Address("init_task"); !ok {
		missing = append(missing, "init_task")
	}
	if l.PageTables, ok = symbols.Address("init_top_pgt"); !ok {
		missing = append(missing, "init_top_pgt")
	}
	missing = append(missing, l.resolveHooks(symbols, types)...)
	if len(missing) > 0 {
		slices.Sort(missing)
		return nil, fmt.Errorf("%w: it has no %s", trap.ErrNotSupported, strings.Join(missing, ", "))
	}
	return l, nil
}

func resolve(types trap.Types, f field) bool {
	for _, path := range strings.Fields(f.paths) {
		if off, ok := types.Field(f.structure, path); ok {
			*f.at = off
			return true
		}
	}
	return false
}

// fields lists every offset. Alternatives: inode times became plain fields in
// 6.11 and had a __ prefix from 6.6 (ctime) and 6.7.
func (l *Layout) fields() []field {
	return []field{
		{&l.Task.PID, "task_struct", "pid"},
		{&l.Task.TGID, "task_struct", "tgid"},
		{&l.Task.Comm, "task_struct", "comm"},
		{&l.Task.Cred, "task_struct", "cred"},
		{&l.Task.RealParent, "task_struct", "real_parent"},
		{&l.Task.Flags, "task_struct", "flags"},
		{&l.Task.NSProxy, "task_struct", "nsproxy"},
		{&l.Cred.UID, "cred", "uid"},
		{&l.Cred.FSUID, "cred", "fsuid"},
		{&l.Cred.FSGID, "cred", "fsgid"},
		{&l.File.Dentry, "file", "f_path.dentry"},
		{&l.File.Inode, "file", "f_inode"},
		{&l.File.Mode, "file", "f_mode"},
		{&l.Dentry.Parent, "dentry", "d_parent"},
		{&l.Dentry.Name, "dentry", "d_name.name"},
		{&l.Dentry.Len, "dentry", "d_name.len"},
		{&l.Dentry.Inode, "dentry", "d_inode"},
		{&l.Dentry.SB, "dentry", "d_sb"},
		{&l.Dentry.Hash, "dentry", "d_hash.pprev"},
		{&l.Inode.Mode, "inode", "i_mode"},
		{&l.Inode.UID, "inode", "i_uid"},
		{&l.Inode.GID, "inode", "i_gid"},
		{&l.Inode.Ino, "inode", "i_ino"},
		{&l.Inode.SB, "inode", "i_sb"},
		{&l.Inode.Generation, "inode", "i_generation"},
		{&l.Inode.Size, "inode", "i_size"},
		{&l.Inode.Nlink, "inode", "i_nlink __i_nlink"},
		{&l.Inode.Rdev, "inode", "i_rdev"},
		{&l.Inode.Mapping, "inode", "i_mapping"},
		{&l.Inode.MtimeSec, "inode", "i_mtime.tv_sec i_mtime_sec __i_mtime.tv_sec"},
		{&l.Inode.MtimeNsec, "inode", "i_mtime.tv_nsec i_mtime_nsec __i_mtime.tv_nsec"},
		{&l.Inode.CtimeSec, "inode", "i_ctime.tv_sec i_ctime_sec __i_ctime.tv_sec"},
		{&l.Inode.CtimeNsec, "inode", "i_ctime.tv_nsec i_ctime_nsec __i_ctime.tv_nsec"},
		{&l.SB.Dev, "super_block", "s_dev"},
		{&l.SB.UUID, "super_block", "s_uuid"},
		{&l.SB.ID, "super_block", "s_id"},
		{&l.SB.Type, "super_block", "s_type"},
		{&l.SB.Root, "super_block", "s_root"},
		{&l.SB.Mounts, "super_block", "s_mounts"},
		{&l.FSType.Name, "file_system_type", "name"},
		{&l.FSType.Flags, "file_system_type", "fs_flags"},
		{&l.Mount.Parent, "mount", "mnt_parent"},
		{&l.Mount.Point, "mount", "mnt_mountpoint"},
		{&l.Mount.Root, "mount", "mnt.mnt_root"},
		{&l.Mount.Instance, "mount", "mnt_instance"},
		{&l.Mount.NS, "mount", "mnt_ns"},
		{&l.NSProxyMount, "nsproxy", "mnt_ns"},
		{&l.MappingFlags, "address_space", "i_pages.xa_flags"},
		{&l.IattrValid, "iattr", "ia_valid"},
		{&l.KiocbFile, "kiocb", "ki_filp"},
		{&l.Rename.OldDentry, "renamedata", "old_dentry"},
		{&l.Rename.NewDentry, "renamedata", "new_dentry"},
		{&l.Rename.Flags, "renamedata", "flags"},
	}
}
