package volume

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// maxLinks is how many symbolic links a path may lead through, as in Linux.
const maxLinks = 40

// tree is a volume as an [fs.FS].
type tree struct{ v *Volume }

// Open follows symbolic links within the volume.
func (t *tree) Open(name string) (fs.File, error) {
	info, where, err := t.walk("open", name, true)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return &dir{t: t, name: name, info: info}, nil
	}
	return &file{info: info, content: t.v.Open(info.obj, where)}, nil
}

// Stat follows symbolic links, Lstat does not.
func (t *tree) Stat(name string) (fs.FileInfo, error) {
	info, _, err := t.walk("stat", name, true)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// Lstat implements [fs.ReadLinkFS].
func (t *tree) Lstat(name string) (fs.FileInfo, error) {
	info, _, err := t.walk("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// ReadLink implements [fs.ReadLinkFS].
func (t *tree) ReadLink(name string) (string, error) {
	info, _, err := t.walk("readlink", name, false)
	if err != nil {
		return "", err
	}
	if info.obj.Type != filewatch.TypeSymlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return info.obj.Link, nil
}

// ReadDir implements [fs.ReadDirFS]. Entries come sorted by name; what is
// damaged comes as a joined error with the entries that could be read.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	info, _, err := t.walk("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	return t.list(name, info.obj.Inode)
}

func (t *tree) list(name string, inode uint64) ([]fs.DirEntry, error) {
	var out []fs.DirEntry
	err := t.v.reader.List(inode, func(n filewatch.Name) error {
		out = append(out, entry{t: t, name: string(n.Name), inode: n.Inode})
		return nil
	})
	slices.SortFunc(out, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	if err != nil {
		err = &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return out, err
}

// walk resolves a path, and its last element too if follow is set.
func (t *tree) walk(op, name string, follow bool) (*info, filewatch.Content, error) {
	var none filewatch.Content
	if t.v.reader == nil {
		return nil, none, &fs.PathError{Op: op, Path: name, Err: t.v.unreadable()}
	}
	if !validPath(name) {
		return nil, none, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	rest, links := split(name), 0
	stack := []uint64{t.v.reader.Root()}
	for {
		at := stack[len(stack)-1]
		obj, where, err := t.v.reader.Object(at)
		if err != nil {
			return nil, none, &fs.PathError{Op: op, Path: name, Err: err}
		}
		if obj.Type == filewatch.TypeSymlink && (follow || len(rest) > 0) {
			if links++; links > maxLinks {
				return nil, none, &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("more than %d symbolic links", maxLinks)}
			}
			stack = stack[:len(stack)-1]
			if strings.HasPrefix(obj.Link, "/") {
				stack = stack[:1]
			}
			rest = append(split(obj.Link), rest...)
		} else if len(rest) == 0 {
			return &info{name: path.Base(name), obj: obj}, where, nil
		}
		if len(rest) == 0 {
			continue
		}
		if stack, err = t.step(stack, rest[0]); err != nil {
			return nil, none, &fs.PathError{Op: op, Path: name, Err: err}
		}
		rest = rest[1:]
	}
}

// step goes from the directory on top of the stack to one of its entries.
func (t *tree) step(stack []uint64, elem string) ([]uint64, error) {
	if elem == ".." {
		return stack[:max(1, len(stack)-1)], nil
	}
	inode, err := t.lookup(stack[len(stack)-1], elem)
	return append(slices.Clip(stack), inode), err
}

func (t *tree) lookup(inode uint64, elem string) (uint64, error) {
	var found uint64
	stop := io.EOF
	err := t.v.reader.List(inode, func(n filewatch.Name) error {
		if string(n.Name) == elem {
			found = n.Inode
			return stop
		}
		return nil
	})
	if found != 0 {
		return found, nil
	}
	if err == nil {
		err = fs.ErrNotExist
	}
	return 0, err
}

func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(e string) bool { return e == "" || e == "." })
}

// validPath is [fs.ValidPath] without the demand for UTF-8.
func validPath(name string) bool {
	if name == "." {
		return true
	}
	for e := range strings.SplitSeq(name, "/") {
		if e == "" || e == "." || e == ".." {
			return false
		}
	}
	return true
}

type info struct {
	name string
	obj  *filewatch.Object
}

func (i *info) Name() string       { return i.name }
func (i *info) Size() int64        { return i.obj.Size }
func (i *info) Mode() fs.FileMode  { return mode(i.obj) }
func (i *info) ModTime() time.Time { return i.obj.Mtime }
func (i *info) IsDir() bool        { return i.obj.Type == filewatch.TypeDir }
func (i *info) Sys() any           { return i.obj }

func mode(o *filewatch.Object) fs.FileMode {
	m := fs.FileMode(o.Mode & 0o777)
	for bit, to := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if o.Mode&bit != 0 {
			m |= to
		}
	}
	switch o.Type {
	case filewatch.TypeDir:
		m |= fs.ModeDir
	case filewatch.TypeSymlink:
		m |= fs.ModeSymlink
	case filewatch.TypeChar:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case filewatch.TypeBlock:
		m |= fs.ModeDevice
	case filewatch.TypeFIFO:
		m |= fs.ModeNamedPipe
	case filewatch.TypeSocket:
		m |= fs.ModeSocket
	case filewatch.TypeUnknown:
		m |= fs.ModeIrregular
	}
	return m
}

type entry struct {
	t     *tree
	name  string
	inode uint64
}

func (e entry) Name() string { return e.name }
func (e entry) IsDir() bool  { return e.Type().IsDir() }

func (e entry) Type() fs.FileMode {
	i, err := e.Info()
	if err != nil {
		return fs.ModeIrregular
	}
	return i.Mode().Type()
}

func (e entry) Info() (fs.FileInfo, error) {
	obj, _, err := e.t.v.reader.Object(e.inode)
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: e.name, Err: err}
	}
	return &info{name: e.name, obj: obj}, nil
}

type file struct {
	info    *info
	content *Content
}

func (f *file) Stat() (fs.FileInfo, error)              { return f.info, nil }
func (f *file) Read(b []byte) (int, error)              { return f.content.Read(b) }
func (f *file) ReadAt(b []byte, off int64) (int, error) { return f.content.ReadAt(b, off) }
func (f *file) WriteTo(w io.Writer) (int64, error)      { return f.content.WriteTo(w) }
func (f *file) Close() error                            { return nil }

type dir struct {
	t       *tree
	name    string
	info    *info
	entries []fs.DirEntry
	err     error
	read    bool
}

func (d *dir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *dir) Close() error               { return nil }

func (d *dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: fs.ErrInvalid}
}

// ReadDir implements [fs.ReadDirFile].
func (d *dir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		d.entries, d.err = d.t.list(d.name, d.info.obj.Inode)
		d.read = true
	}
	if n <= 0 {
		out, err := d.entries, d.err
		d.entries, d.err = nil, nil
		return out, err
	}
	if len(d.entries) == 0 {
		if d.err != nil {
			return nil, d.err
		}
		return nil, io.EOF
	}
	out := d.entries[:min(n, len(d.entries))]
	d.entries = d.entries[len(out):]
	return out, nil
}
