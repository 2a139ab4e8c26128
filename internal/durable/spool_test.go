package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func open(t *testing.T, dir string, opt SpoolOptions) *Spool {
	t.Helper()
	s, err := OpenSpool(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func fill(t *testing.T, s *Spool, n int) {
	t.Helper()
	for i := range n {
		if _, err := s.Append(fmt.Appendf(nil, "record %d", i)); err != nil {
			t.Fatal(err)
		}
	}
}

func numbers(t *testing.T, s *Spool, from uint64) (out []uint64) {
	t.Helper()
	entries, err := s.Read(from, 1000, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Seq)
	}
	return out
}

func TestSpoolKeepsOrderAcrossRestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, SpoolOptions{SegmentBytes: 64})
	name := s.Name()
	fill(t, s, 10)
	if err := s.Ack(4); err != nil {
		t.Fatal(err)
	}
	s.Close()

	s = open(t, dir, SpoolOptions{SegmentBytes: 64})
	if s.Name() != name || s.Acked() != 4 || s.Pending() != 6 {
		t.Fatalf("name %q, acked %d, pending %d", s.Name(), s.Acked(), s.Pending())
	}
	if got := fmt.Sprint(numbers(t, s, 5)); got != "[5 6 7 8 9 10]" {
		t.Fatalf("read %s", got)
	}
	if seq, err := s.Append([]byte("next")); err != nil || seq != 11 {
		t.Fatalf("next number %d, %v", seq, err)
	}
	s.Ack(11)
	if segments, _ := filepath.Glob(filepath.Join(dir, "*.seg")); len(segments) != 1 {
		t.Errorf("%d segments left after everything was acknowledged", len(segments))
	}
	s.Close()
	if s = open(t, dir, SpoolOptions{}); s.next != 12 {
		t.Errorf("numbers restart at %d", s.next)
	}
}

// TestSpoolCutsTornRecord cuts the last segment at every length a crash may
// leave: all records before the cut stay, and the next one is readable.
func TestSpoolCutsTornRecord(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, SpoolOptions{})
	fill(t, s, 3)
	path, whole := s.segments[0].path, s.size
	s.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	record := int(whole) / 3
	for cut := range len(content) {
		if err := os.WriteFile(path, content[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, SpoolOptions{})
		kept := cut / record
		seq, err := s.Append([]byte("after the crash"))
		if err != nil || seq != uint64(kept+1) {
			t.Fatalf("cut at %d: number %d, %v", cut, seq, err)
		}
		if got := numbers(t, s, 1); len(got) != kept+1 {
			t.Fatalf("cut at %d: records %v", cut, got)
		}
		s.Close()
	}
}

func TestSpoolShowsDamageAsGap(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, SpoolOptions{SegmentBytes: 1}) // a segment per record
	fill(t, s, 3)
	path := s.segments[1].path
	content, _ := os.ReadFile(path)
	content[recordHeader] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(numbers(t, s, 1)); got != "[1 3]" {
		t.Fatalf("read %s", got)
	}
}

// TestSpoolGoesOnBehindDamage damages each byte of the second record, of a middle
// segment and of the last one: what stands behind it is there all the same, also
// after a restart, and no number is given twice.
func TestSpoolGoesOnBehindDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, SpoolOptions{SegmentBytes: 70}) // three records of 24 or 25 bytes
	fill(t, s, 6)
	segments := s.segments
	s.Close()
	if len(segments) != 2 {
		t.Fatalf("%d segments", len(segments))
	}
	for i, want := range []string{"[1 3 4 5 6]", "[1 2 3 4 6]"} {
		path := segments[i].path
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		record := len(whole) / 3
		for at := record; at < 2*record; at++ {
			content := bytes.Clone(whole)
			content[at] ^= 0x55
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir, SpoolOptions{})
			if got := fmt.Sprint(numbers(t, s, 1)); got != want || s.next != 7 {
				t.Errorf("segment %d, byte %d: read %s, want %s; the next is %d", i, at, got, want, s.next)
			}
			s.Close()
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSpoolLimits(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, SpoolOptions{MaxBytes: 100})
	if _, err := s.Append(bytes.Repeat([]byte{1}, 60)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(bytes.Repeat([]byte{1}, 60)); !errors.Is(err, ErrFull) {
		t.Errorf("past the limit: %v", err)
	}
	if got := fmt.Sprint(numbers(t, s, 1)); got != "[1]" {
		t.Errorf("a refused record is there: %s", got)
	}
	if _, err := OpenSpool(dir, SpoolOptions{}); !errors.Is(err, ErrLocked) {
		t.Errorf("second process: %v", err)
	}
}

func TestReplaceLeavesOldFileOnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("half way")
	err := Replace(path, 0o600, func(w io.Writer) error {
		w.Write([]byte("ne"))
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("old file reads %q", got)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("temporary files stay: %v", left)
	}
}

func FuzzReadRecord(f *testing.F) {
	f.Add(appendRecord(appendRecord(nil, 1, []byte("a")), 2, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for off := int64(0); ; {
			e, next, err := readRecord(r, off, int64(len(data)))
			if errors.Is(err, errTorn) && e.Payload == nil {
				e, next, err = nextWhole(r, off, int64(len(data)), 1)
			}
			if err != nil {
				if e.Payload != nil {
					t.Fatal("both a record and an error")
				}
				return
			}
			if next <= off {
				t.Fatal("no progress")
			}
			off = next
		}
	})
}

// unreadable has the segment that holds record from give errors, as a disk does that
// lost a sector: a directory opens and does not read.
func unreadable(t *testing.T, s *Spool, from uint64) {
	t.Helper()
	path := s.segments[0].path
	for _, seg := range s.segments {
		if seg.first <= from {
			path = seg.path
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestSpoolAbandonsWhatTheDiskKeeps(t *testing.T) {
	for name, test := range map[string]struct{ segment, bad uint64 }{
		"one of many segments": {64, 1}, "the one that is written to": {1 << 20, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), SpoolOptions{SegmentBytes: int64(test.segment)})
			fill(t, s, 12)
			unreadable(t, s, test.bad)
			if entries, err := s.Read(test.bad, 100, 1<<20); !errors.Is(err, ErrUnreadable) || len(entries) != 0 {
				t.Fatalf("Read gives %d entries, %v", len(entries), err)
			}
			next, err := s.Abandon(test.bad)
			if err != nil || next <= test.bad {
				t.Fatalf("Abandon: %d, %v", next, err)
			}
			fill(t, s, 1)
			if got := numbers(t, s, next); len(got) == 0 || got[0] != next || got[len(got)-1] != 13 {
				t.Errorf("behind it are %v, want %d to 13", got, next)
			}
			if again, err := s.Abandon(14); err != nil || again != 14 {
				t.Errorf("Abandon where nothing is: %d, %v", again, err)
			}
		})
	}
}

// Root could replace a device by a file, and the whole machine would have that.
func TestReplaceLeavesWhatIsNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := WriteFile(path, []byte("x"), 0o600); !errors.Is(err, ErrNotRegular) {
		t.Errorf("WriteFile to a socket: %v", err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != os.ModeSocket {
		t.Errorf("the socket: %v, %v", info, err)
	}
}
