package sorted

import (
	"fmt"
	"os"
	"path/filepath"
)

// Dir is a directory of files.
type Dir string

// NewFile is a file that is being written.
type NewFile struct {
	*Writer
	file *os.File
}

// Create makes a file whose name begins so.
func (d Dir) Create(prefix string) (*NewFile, error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(string(d), prefix+"-*")
	if err != nil {
		return nil, err
	}
	return &NewFile{NewWriter(f), f}, nil
}

// Close ends the file and names it.
func (f *NewFile) Close() (Ref, error) {
	ref, err := f.Finish()
	ref.Name = filepath.Base(f.file.Name())
	if e := f.file.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(f.file.Name())
		err = fmt.Errorf("write %s: %w", ref.Name, err)
	}
	return ref, err
}

// Abandon removes the file.
func (f *NewFile) Abandon() {
	f.file.Close()
	os.Remove(f.file.Name())
}

// Open opens a file of the directory. It stays open as long as it is used: the
// garbage collector closes it.
func (d Dir) Open(ref Ref) (*File, error) {
	f, err := os.Open(filepath.Join(string(d), filepath.Base(ref.Name)))
	if err != nil {
		return nil, err
	}
	out, err := Open(f, ref)
	if err != nil {
		f.Close()
	}
	return out, err
}
