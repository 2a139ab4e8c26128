package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// root is an open directory; every path is resolved below it, without symbolic
// links, by the kernel (openat2(2), Linux 5.6).
type root struct{ dir *os.File }

// Open opens a directory as the root of a machine.
func Open(path string) (*Tree, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open tree: %w", err)
	}
	t := &Tree{root: root{f}}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		f.Close()
		return nil, fmt.Errorf("open tree %s: %w", path, err)
	}
	t.addVolume(volumeOf(int(f.Fd()), &fs))
	return t, nil
}

// Close closes the directory.
func (t *Tree) Close() error { return t.root.dir.Close() }

// at opens an object below the root. name starts with "/".
func (r root) at(name string, flags int) (*os.File, error) {
	rel := strings.TrimPrefix(name, "/")
	if rel == "" {
		rel = "."
	}
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(int(r.dir.Fd()), rel, how)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

const machineIDSize = 64

func (r root) machineID() string {
	f, err := r.at("/etc/machine-id", unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, machineIDSize))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// open gives the content of a regular file, if it still is the object that was
// seen. Access times stay as they are where the kernel allows it.
func (r root) open(o *filewatch.Object, name string) (io.ReadCloser, error) {
	f, err := r.at(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) { // O_NOATIME is the owner's only
		f, err = r.at(name, unix.O_RDONLY|unix.O_NONBLOCK)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("stat %s: %w", name, err)
	}
	if st.Ino != o.Inode || st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil, fmt.Errorf("%s was replaced while it was read", name)
	}
	return contentOf(f, &st), nil
}

// walk calls add for every object, directories before what is in them.
func (r root) walk(ctx context.Context, t *Tree, add func(*item) error) error {
	w := &walker{root: r, tree: t, add: add, known: map[uint64]string{}}
	return w.dir(ctx, "/", 0)
}

// maxDepth bounds the recursion; Linux has no limit of its own.
const maxDepth = 2048

type walker struct {
	root  root
	tree  *Tree
	add   func(*item) error
	known map[uint64]string // device number to volume
}

func (w *walker) dir(ctx context.Context, name string, depth int) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	f, err := w.root.at(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		f, err = w.root.at(name, unix.O_RDONLY|unix.O_DIRECTORY)
	}
	if err != nil {
		if depth == 0 {
			return err
		}
		w.tree.gap("", name, err)
		return nil
	}
	defer f.Close()
	volume, enter, err := w.volume(f)
	if err != nil || !enter && depth > 0 {
		if err != nil {
			w.tree.gap(volume, name, err)
		}
		return nil
	}
	if depth == 0 {
		if err := w.object(f, ".", "/", volume); err != nil {
			return err
		}
	}
	if depth == maxDepth {
		w.tree.gap(volume, name, fmt.Errorf("more than %d directories deep", maxDepth))
		return nil
	}
	entries, err := f.Readdirnames(-1)
	if err != nil {
		w.tree.gap(volume, name, err)
	}
	slices.Sort(entries)
	for _, entry := range entries {
		if err := w.entry(ctx, f, name, entry, volume, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(ctx context.Context, dir *os.File, parent, entry, volume string, depth int) error {
	name := parent + "/" + entry
	if parent == "/" {
		name = "/" + entry
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), entry, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if !errors.Is(err, unix.ENOENT) { // gone meanwhile
			w.tree.gap(volume, name, err)
		}
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return w.object(dir, entry, name, volume)
	}
	var own unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &own); err == nil && own.Dev != st.Dev {
		// A mount point: the object is the root of the other file system, unless
		// that is one of those that hold no files.
		f, err := w.root.at(name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			w.tree.gap("", name, err)
			return nil
		}
		other, enter, err := w.volume(f)
		f.Close()
		if err != nil || !enter {
			return nil
		}
		volume = other
	}
	if err := w.object(dir, entry, name, volume); err != nil {
		return err
	}
	return w.dir(ctx, name, depth+1)
}

// object makes an item of one directory entry.
func (w *walker) object(dir *os.File, entry, name, volume string) error {
	it, err := readObject(int(dir.Fd()), entry, volume)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	it.names = []string{name}
	it.damage = err
	return w.add(it)
}

// volume gives the identity of the file system f is on, and whether it holds
// files at rest.
func (w *walker) volume(f *os.File) (id string, enter bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", false, err
	}
	if id, ok := w.known[st.Dev]; ok {
		return id, id != "", nil
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return "", false, err
	}
	if !inKernelOnly[fs.Type] || len(w.known) == 0 {
		id = volumeOf(int(f.Fd()), &fs)
		w.tree.addVolume(id)
	}
	w.known[st.Dev] = id
	return id, id != "", nil
}

// inKernelOnly are the file systems that hold no files at rest (linux/magic.h).
var inKernelOnly = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.DEVPTS_SUPER_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true,
	unix.CGROUP2_SUPER_MAGIC: true, unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true, unix.SECURITYFS_MAGIC: true,
	unix.BPF_FS_MAGIC: true, unix.PSTOREFS_MAGIC: true, unix.EFIVARFS_MAGIC: true, unix.HUGETLBFS_MAGIC: true,
	unix.SELINUX_MAGIC: true, unix.BINFMTFS_MAGIC: true, unix.NSFS_MAGIC: true, unix.RDTGROUP_SUPER_MAGIC: true,
	unix.TMPFS_MAGIC: true, unix.RAMFS_MAGIC: true, unix.AUTOFS_SUPER_MAGIC: true, 0x62656570: true, // configfs
	0x19800202: true, // mqueue
	0x65735543: true, // fusectl
}
