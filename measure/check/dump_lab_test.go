//go:build lab

package check_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/mem/dump"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// TestDumpsAgree measures one stop of the machine through QEMU and through
// dumps of it: what is observed is the same, digests included, and so are the
// verdicts, of a clean machine and of one whose system call table is hooked.
func TestDumpsAgree(t *testing.T) {
	m := sharedMachine(t)
	s := newScanner(t, m)
	t.Run("clean", func(t *testing.T) { s.dumpsAgree(t, m) })
	t.Run("syscall hook", func(t *testing.T) {
		if err := m.Tamper(t.Context(), "syscall-table"); err != nil {
			t.Fatal(err)
		}
		s.dumpsAgree(t, m, "linux.syscalls", "linux.rodata")
		if err := m.Restore(t.Context(), "syscall-table"); err != nil {
			t.Fatal(err)
		}
	})
}

// dumpsAgree compares; failing are the checks that fail in all reports.
func (s *scanner) dumpsAgree(t *testing.T, m *lab.Machine, failing ...string) {
	monitor, err := qmp.Dial(t.Context(), m.LabQMP)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	if err := monitor.Execute(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := monitor.Execute(t.Context(), "cont", nil, nil); err != nil {
			t.Error(err)
		}
	}()
	vm, err := qemu.Open(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	live, want := s.observe(t, vm)
	for _, d := range s.dumps(t, m, monitor) {
		observed, got := s.observe(t, d.dump)
		for _, item := range live.Items {
			name := item.Check
			if slices.Contains(d.lacks, name) {
				if c := find(t, got, name); c.Outcome != measure.NotMeasured {
					t.Errorf("%s: %s: %s", d.name, name, c.Outcome)
				}
				continue
			}
			if diff := cmp.Diff(live.Item(name), observed.Item(name)); diff != "" && !slices.Contains(d.otherwise, name) {
				t.Errorf("%s: %s differs from the live machine: %s", d.name, name, diff)
			}
			outcome := measure.Pass
			if slices.Contains(failing, name) {
				outcome = measure.Fail
			}
			if a, b := find(t, want, name).Outcome, find(t, got, name).Outcome; a != outcome || b != outcome {
				t.Errorf("%s: %s is %s of the live machine and %s of the dump, want %s", d.name, name, a, b, outcome)
			}
		}
		if err := d.dump.Close(); err != nil {
			t.Error(err)
		}
	}
}

// dumped is a dump of the machine as it stands still.
type dumped struct {
	name      string
	dump      *dump.Dump
	lacks     []string // checks that it has too little for
	otherwise []string // checks whose facts say that there were no registers
}

// dumps are those that QEMU writes, and two without registers: the RAM file as it
// is, which is what "pmemsave" of the whole of RAM writes, and the same as LiME
// would.
func (s *scanner) dumps(t *testing.T, m *lab.Machine, monitor *qmp.Client) []dumped {
	var out []dumped
	for _, format := range []string{"elf", "kdump-zlib"} {
		path := filepath.Join(t.TempDir(), format)
		arguments := map[string]any{"paging": false, "protocol": "file:" + path, "format": format}
		if err := monitor.Execute(t.Context(), "dump-guest-memory", arguments, nil); err != nil {
			t.Fatal(err)
		}
		d, err := dump.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, dumped{format, d, []string{"linux.registers", "linux.msrs"}, nil})
	}
	bare := []string{"linux.registers", "linux.msrs", "linux.gdt"}
	otherwise := []string{"linux.idt", "linux.pagetables"}
	raw, err := dump.Open(m.RAM)
	if err != nil {
		t.Fatal(err)
	}
	lime, err := dump.New(asLiME(t, m))
	if err != nil || raw.Format != "raw" || lime.Format != "lime" {
		t.Fatalf("%s, %s: %v", raw.Format, lime.Format, err)
	}
	return append(out, dumped{"raw", raw, bare, otherwise}, dumped{"lime", lime, bare, otherwise})
}

// asLiME shows the machine's RAM file as a file of LiME with two ranges, as of a
// PC: up to the video memory, and from 1 MiB on.
func asLiME(t *testing.T, m *lab.Machine) (io.ReaderAt, int64) {
	ram, err := os.Open(m.RAM)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ram.Close() })
	var parts []part
	for _, r := range [][2]int64{{0, 0xa_0000}, {0x10_0000, m.Memory}} {
		header := binary.LittleEndian.AppendUint32([]byte("EMiL"), 1)
		for _, v := range []int64{r[0], r[1] - 1, 0} {
			header = binary.LittleEndian.AppendUint64(header, uint64(v))
		}
		parts = append(parts, part{bytes.NewReader(header), 0, int64(len(header))}, part{ram, r[0], r[1] - r[0]})
	}
	var size int64
	for _, p := range parts {
		size += p.size
	}
	return joined(parts), size
}

// joined is parts of files, one after the other.
type joined []part

type part struct {
	file     io.ReaderAt
	at, size int64
}

func (j joined) ReadAt(b []byte, off int64) (done int, err error) {
	for _, p := range j {
		if n := min(int64(len(b)-done), p.size-off); n > 0 && off >= 0 {
			if _, err := p.file.ReadAt(b[done:done+int(n)], p.at+off); err != nil {
				return done, err
			}
			done += int(n)
			off += n
		}
		off -= p.size
	}
	if done < len(b) {
		return done, io.EOF
	}
	return done, nil
}

// observe scans and judges with the kernel's files.
func (s *scanner) observe(t *testing.T, target check.Machine) (*measure.Observations, *measure.Report) {
	t.Helper()
	result, err := check.Scan(t.Context(), target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return result.Observations, judge(t, result.Observations, &check.References{Images: s, Modules: s, Pages: result.Pages})
}
