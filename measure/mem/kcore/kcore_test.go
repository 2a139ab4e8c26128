package kcore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/dump"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
)

// loaded is a segment as the kernel shows it.
type loaded struct {
	virt, phys uint64
	bytes      []byte
}

const coreInfo = "OSRELEASE=6.1.0-56-amd64\n"

// core writes a file like /proc/kcore (Linux 6.1, fs/proc/kcore.c).
func core(segments ...loaded) []byte {
	note := binary.LittleEndian.AppendUint32(nil, 11)
	note = binary.LittleEndian.AppendUint32(note, uint32(len(coreInfo)))
	note = append(binary.LittleEndian.AppendUint32(note, 0), "VMCOREINFO\x00\x00"+coreInfo+"\x00\x00\x00"...)
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
				panic(err)
			}
		}
	}
	b.WriteString("\x7fELF\x02\x01\x01" + string(make([]byte, 9)))
	put(uint16(4), uint16(62), uint32(1), uint64(0), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1+len(segments)), [6]byte{})
	at := uint64(64 + 56*(1+len(segments)))
	put(uint32(4), uint32(0), at, uint64(0), uint64(0), uint64(len(note)), uint64(0), uint64(0))
	at += uint64(len(note))
	for _, s := range segments {
		put(uint32(1), uint32(7), at, s.virt, s.phys, uint64(len(s.bytes)), uint64(len(s.bytes)), uint64(4096))
		at += uint64(len(s.bytes))
	}
	b.Write(note)
	for _, s := range segments {
		b.Write(s.bytes)
	}
	return b.Bytes()
}

const none = ^uint64(0) // the physical address of what is mapped page by page

func TestKcoreConforms(t *testing.T) {
	low, high := bytes.Repeat([]byte("low."), 2048), bytes.Repeat([]byte("high"), 4096)
	b := core(
		loaded{0xffffffff81000000, 0x1000, bytes.Repeat([]byte("text"), 1024)}, // lies in RAM that is listed too
		loaded{0xffffc90000000000, none, bytes.Repeat([]byte("vmap"), 1024)},
		loaded{0xffffffffff600000, none, bytes.Repeat([]byte("vsys"), 1024)},
		loaded{0xffff888100000000, 0x1_0000_0000, high},
		loaded{0xffff888000001000, 0x1000, low},
	)
	h, err := New(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	memtest.Test(t, h.Memory(), memtest.Options{
		Extents: []mem.Extent{{Start: 0x1000, Size: 0x2000}, {Start: 0x1_0000_0000, Size: 0x4000}},
		Bytes:   map[mem.Phys][]byte{0x1000: low, 0x1_0000_0000: high},
	})
	described, ok := h.Memory().(interface{ VMCoreInfo() []byte })
	if !ok || !bytes.HasPrefix(described.VMCoreInfo(), []byte(coreInfo)) {
		t.Error("the kernel's description is not handed on")
	}
	if regs, err := h.Registers(t.Context()); len(regs) > 0 || err != nil {
		t.Errorf("registers %v, %v", regs, err)
	}
}

// oneBuffer is a file that, like the kernel's, reads by way of one buffer.
type oneBuffer struct {
	r      *bytes.Reader
	buffer []byte
}

func (o *oneBuffer) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.r.ReadAt(o.buffer[:min(len(p), len(o.buffer))], off)
	time.Sleep(time.Millisecond)
	copy(p, o.buffer[:n])
	return n, err
}

func TestReadsOneAtATime(t *testing.T) {
	low, high := bytes.Repeat([]byte("low."), 1024), bytes.Repeat([]byte("high"), 1024)
	b := core(loaded{0xffff888000001000, 0x1000, low}, loaded{0xffff888100000000, 0x1_0000_0000, high})
	h, err := New(&oneBuffer{bytes.NewReader(b), make([]byte, 1<<20)}, int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for at, want := range map[mem.Phys][]byte{0x1000: low, 0x1_0000_0000: high} {
		readers.Go(func() {
			for range 20 {
				got := make([]byte, 4096)
				if err := h.Memory().ReadPhys(got, at); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%v reads %q, %v", at, got[:4], err)
				}
			}
		})
	}
	readers.Wait()
}

func TestRefusesOtherFiles(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":      {},
		"raw memory": make([]byte, 1<<20),
		"no RAM":     core(loaded{0xffffc90000000000, none, make([]byte, 4096)}),
	} {
		if _, err := New(bytes.NewReader(b), int64(len(b))); !errors.Is(err, dump.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	missing := &fs.PathError{Op: "open", Path: kcorePath, Err: syscall.ENOENT}
	if err := openError(missing, ""); !errors.Is(err, ErrNoKcore) {
		t.Error(err)
	}
	denied := &fs.PathError{Op: "open", Path: kcorePath, Err: syscall.EACCES}
	for mode, want := range map[string]bool{"": false, "none [integrity] confidentiality\n": false, "none integrity [confidentiality]\n": true} {
		err := openError(denied, mode)
		if !errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrNoKcore) || errors.Is(err, ErrLockdown) != want {
			t.Errorf("%q: %v", mode, err)
		}
	}
}

func TestReadsMSRs(t *testing.T) {
	dir := t.TempDir()
	h := &Host{msrs: filepath.Join(dir, "cpu"), cpus: filepath.Join(dir, "online")}
	if _, err := h.SystemCalls(t.Context()); !errors.Is(err, ErrNoMSRs) {
		t.Errorf("without the msr module: %v", err)
	}
	if err := os.WriteFile(h.cpus, []byte("0,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cpu := range []int{0, 1, 2} { // CPU 1 is off line
		path := filepath.Join(h.msrs, strconv.Itoa(cpu))
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(path, "msr"))
		if err != nil {
			t.Fatal(err)
		}
		for number, value := range map[int64]uint64{0x174: 0x10, 0x176: 7, 0xc0000082: 0xffffffff81c00080} {
			if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, value), number); err != nil {
				t.Fatal(err)
			}
		}
		// The device answers at any offset; a file must be long enough.
		if err := errors.Join(f.Truncate(0xc0000084+8), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	got, err := h.SystemCalls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, cpu := range []int{0, 2} {
		if got[i].CPU != cpu || got[i].LSTAR != 0xffffffff81c00080 {
			t.Errorf("%+v", got[i])
		}
	}
	if err := os.RemoveAll(filepath.Join(h.msrs, "2")); err != nil {
		t.Fatal(err)
	}
	if got, err := h.SystemCalls(t.Context()); err == nil {
		t.Errorf("a CPU without a device: %+v", got)
	}
}

func TestParseCPUs(t *testing.T) {
	for list, want := range map[string][]int{
		"0": {0}, "0-3": {0, 1, 2, 3}, "0-1,3,6-7": {0, 1, 3, 6, 7},
		"": nil, "x": nil, "3-1": nil, "0-99999999": nil, "0,0": nil, "1-2,2": nil, "-1": nil, "0,": nil,
	} {
		got, err := parseCPUs(list)
		if diff := cmp.Diff(want, got); diff != "" || (err == nil) != (want != nil) {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
}

func FuzzParseCPUs(f *testing.F) {
	f.Add("0-3,5")
	f.Fuzz(func(t *testing.T, list string) {
		if cpus, err := parseCPUs(list); (err == nil) == (cpus == nil) || !slices.IsSorted(cpus) || len(cpus) > maxCPUs {
			t.Fatalf("%v, %v", cpus, err)
		}
	})
}
