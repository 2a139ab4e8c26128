package tree

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// readObject reads everything about one directory entry but its content. An
// object comes with its error, as far as it could be read.
func readObject(dir int, entry, volume string) (*item, error) {
	it := &item{obj: filewatch.Object{Volume: volume}}
	o := &it.obj
	var st unix.Stat_t
	if err := unix.Fstatat(dir, entry, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return it, fmt.Errorf("stat: %w", err)
	}
	o.Inode, o.Type, o.Mode = st.Ino, filewatch.TypeOf(st.Mode), uint16(st.Mode&0o7777)
	o.UID, o.GID, o.Nlink, o.Size = st.Uid, st.Gid, uint32(st.Nlink), st.Size
	o.Mtime = time.Unix(st.Mtim.Unix()).UTC()
	o.Ctime = time.Unix(st.Ctim.Unix()).UTC()
	var err error
	switch o.Type {
	case filewatch.TypeSymlink:
		o.Link, err = readlink(dir, entry)
	case filewatch.TypeChar, filewatch.TypeBlock:
		o.Major, o.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case filewatch.TypeFile, filewatch.TypeDir:
		readFlags(dir, entry, o)
	}
	if err != nil {
		return it, err
	}
	o.Xattrs, err = readXattrs(dir, entry)
	return it, err
}

func readlink(dir int, entry string) (string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(dir, entry, buf)
	if err != nil {
		return "", fmt.Errorf("readlink: %w", err)
	}
	return string(buf[:n]), nil
}

// FS_IOC_GETVERSION (linux/fs.h): the inode's generation.
const fsIocGetVersion = 0x80087601

// readFlags fills flags and generation where the file system has them; not
// having them is no error.
func readFlags(dir int, entry string, o *filewatch.Object) {
	fd, err := unix.Openat(dir, entry, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		if fd, err = unix.Openat(dir, entry, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return
		}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Ino != o.Inode {
		return
	}
	if flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS); err == nil {
		o.Flags = flags
	}
	if generation, err := unix.IoctlGetUint32(fd, fsIocGetVersion); err == nil {
		o.Generation = generation
	}
}

// readXattrs uses the path of the directory's descriptor, because there is no
// lgetxattrat(2) before Linux 6.13.
func readXattrs(dir int, entry string) ([]filewatch.Xattr, error) {
	path := fmt.Sprintf("/proc/self/fd/%d/%s", dir, entry)
	list := make([]byte, 1024)
	n, err := unix.Llistxattr(path, list)
	if errors.Is(err, unix.ERANGE) {
		list = make([]byte, 64<<10)
		n, err = unix.Llistxattr(path, list)
	}
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list xattrs: %w", err)
	}
	var out []filewatch.Xattr
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		value := make([]byte, 256)
		n, err := unix.Lgetxattr(path, name, value)
		if errors.Is(err, unix.ERANGE) {
			value = make([]byte, 64<<10)
			n, err = unix.Lgetxattr(path, name, value)
		}
		if err != nil {
			return out, fmt.Errorf("read xattr %s: %w", name, err)
		}
		out = append(out, filewatch.Xattr{Name: name, Value: slices.Clone(value[:n])})
	}
	slices.SortFunc(out, func(a, b filewatch.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// fsUUID2 is struct fsuuid2 of FS_IOC_GETFSUUID (linux/fs.h, Linux 6.9).
type fsUUID2 struct {
	Len  uint8
	UUID [16]byte
}

const fsIocGetFSUUID = 0x80111500

// volumeOf is the file system's UUID as blkid prints it, or the hexadecimal
// statfs(2) id where the kernel does not tell.
func volumeOf(fd int, fs *unix.Statfs_t) string {
	var u fsUUID2
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fsIocGetFSUUID, uintptr(unsafe.Pointer(&u)))
	if errno == 0 && u.Len == 16 && u.UUID != [16]byte{} {
		h := hex.EncodeToString(u.UUID[:])
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	}
	return fmt.Sprintf("fsid-%08x%08x", uint32(fs.Fsid.Val[0]), uint32(fs.Fsid.Val[1]))
}
