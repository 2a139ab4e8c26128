package qemu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// window is a piece of a RAM file mapped into this process, which makes a read
// cost nanoseconds instead of a system call. To touch a page of it that the file
// has no data for would allocate that page, so a page is read through the window
// only once the file is known to hold it; all others are read with pread, which
// allocates nothing. A page that the guest gives back while the window is open
// (a balloon does so) is the exception: reading it once more allocates a page of
// zeros.
type window struct {
	file   *os.File
	offset int64 // of the window in the file
	data   []byte
	known  []atomic.Uint64 // a bit for each page: the file holds it
}

// read fills p and returns true, or false if the file does not hold all of it.
// Both p and where it is read from lie within the window.
func (w *window) read(p []byte, into uint64) (bool, error) {
	if !w.holdsAll(into, len(p)) {
		return false, nil
	}
	return true, w.copy(p, into)
}

// equal compares p with what lies there, or is not done if the file does not hold all
// of that.
func (w *window) equal(p []byte, into uint64) (same, done bool, err error) {
	if !w.holdsAll(into, len(p)) {
		return false, false, nil
	}
	defer catch(debug.SetPanicOnFault(true), &err)
	return bytes.Equal(p, w.data[into:][:len(p)]), true, nil
}

// holdsAll reports whether the file holds all pages of n bytes, of one at least.
func (w *window) holdsAll(into uint64, n int) bool {
	if w == nil || n == 0 {
		return false
	}
	for page := into / mem.PageSize; page <= (into+uint64(n)-1)/mem.PageSize; page++ {
		if !w.holds(page) {
			return false
		}
	}
	return true
}

// u64 reads a little-endian word that lies in one page.
func (w *window) u64(into uint64) (v uint64, ok bool, err error) {
	if w == nil || !w.holds(into/mem.PageSize) {
		return 0, false, nil
	}
	defer catch(debug.SetPanicOnFault(true), &err)
	return binary.LittleEndian.Uint64(w.data[into:]), true, nil
}

// copy reads from the mapping. A file that shrank under it faults: that is an
// error of this read and no more.
func (w *window) copy(p []byte, into uint64) (err error) {
	defer catch(debug.SetPanicOnFault(true), &err)
	copy(p, w.data[into:])
	return nil
}

// catch is deferred around reads of the mapping.
func catch(before bool, err *error) {
	debug.SetPanicOnFault(before)
	if r := recover(); r != nil {
		*err = fmt.Errorf("read mapped RAM: %v", r)
	}
}

// holds reports whether the file holds a page, and looks if it did not before.
func (w *window) holds(page uint64) bool {
	word, bit := &w.known[page/64], uint64(1)<<(page%64)
	if word.Load()&bit != 0 {
		return true
	}
	if !w.held(page) {
		return false
	}
	word.Or(bit)
	return true
}
