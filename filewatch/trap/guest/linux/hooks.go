package linux

import "github.com/plumbline-sec/plumbline/filewatch/trap"

// Kind says what a hook means. The numbers travel in a Layout.
type Kind uint8

// The kinds, with the parameters each needs.
const (
	FileOpen    Kind = iota + 1 // file
	Create                      // dentry
	Mkdir                       // dentry
	Mknod                       // dentry
	Symlink                     // dentry, target
	Link                        // old dentry, new dentry
	Unlink                      // dentry
	Rmdir                       // dentry
	Rename                      // renamedata
	SetAttr                     // dentry, iattr
	SetXattr                    // dentry, name
	FileAttr                    // dentry
	Fallocate                   // file, mode
	Modified                    // file
	ModifiedIO                  // kiocb
	FinalPut                    // file
	CreateCheck                 // dentry
)

// function is a kernel function to hook. Params are the names that its
// prototype has for what the kind needs; at are their positions where the BTF
// lacks the function (compilers drop some static ones), -1 for none.
type function struct {
	name   string
	kind   Kind
	params []string
	at     [3]int8
	blind  string // what is not seen without it; "" makes it required
}

// The functions, in the kernels that have them. vfs_* took their first
// parameter, a user namespace, in 5.12, and an idmap in its place in 6.3.
var functions = []function{
	{"security_file_open", FileOpen, []string{"file"}, [3]int8{0}, ""},
	{"vfs_create", Create, []string{"dentry"}, [3]int8{2}, ""},
	{"vfs_mkdir", Mkdir, []string{"dentry"}, [3]int8{2}, ""},
	{"vfs_mknod", Mknod, []string{"dentry"}, [3]int8{2}, ""},
	{"vfs_symlink", Symlink, []string{"dentry", "oldname"}, [3]int8{2, 3}, ""},
	{"vfs_link", Link, []string{"old_dentry", "new_dentry"}, [3]int8{0, 3}, ""},
	{"vfs_unlink", Unlink, []string{"dentry"}, [3]int8{2}, ""},
	{"vfs_rmdir", Rmdir, []string{"dentry"}, [3]int8{2}, ""},
	{"vfs_rename", Rename, []string{"rd"}, [3]int8{0}, ""},
	{"notify_change", SetAttr, []string{"dentry", "attr"}, [3]int8{1, 2}, ""},
	{"vfs_setxattr", SetXattr, []string{"dentry", "name"}, [3]int8{1, 2}, ""},
	{"vfs_removexattr", SetXattr, []string{"dentry", "name"}, [3]int8{1, 2}, ""},
	// From 6.2; before, ACLs pass vfs_setxattr.
	{"vfs_set_acl", SetXattr, []string{"dentry", "acl_name"}, [3]int8{1, 2}, "-"},
	{"vfs_remove_acl", SetXattr, []string{"dentry", "acl_name"}, [3]int8{1, 2}, "-"},
	{"vfs_fileattr_set", FileAttr, []string{"dentry"}, [3]int8{1}, "changes of inode flags (chattr)"},
	{"vfs_fallocate", Fallocate, []string{"file", "mode"}, [3]int8{0, 1}, "fallocate"},
	// Each write path updates the file's time through one of these before it
	// writes, the first store into a clean page of a shared mapping included.
	{"file_update_time", Modified, []string{"file"}, [3]int8{0}, ""},
	{"file_modified", Modified, []string{"file"}, [3]int8{0}, ""},
	{"kiocb_modified", ModifiedIO, []string{"iocb"}, [3]int8{0}, "-"}, // from 6.0
	// Only the protect level needs it: opening with O_CREAT has no other hook
	// before the file exists.
	{"security_inode_create", CreateCheck, []string{"dentry"}, [3]int8{1}, "-"},
	{"__fput", FinalPut, []string{"file"}, [3]int8{0}, ""},
}

func (l *Layout) resolveHooks(symbols trap.Symbols, types trap.Types) (missing []string) {
	for _, f := range functions {
		addr, ok := symbols.Address(f.name)
		if !ok {
			switch f.blind {
			case "":
				missing = append(missing, f.name)
			case "-":
			default:
				l.Missing = append(l.Missing, f.blind)
			}
			continue
		}
		h := Hook{Kind: f.kind, Addr: addr, Args: f.at}
		for i, name := range f.params {
			if at, ok := types.Param(f.name, name); ok {
				h.Args[i] = int8(at)
			}
		}
		l.Hooks = append(l.Hooks, h)
	}
	return missing
}
