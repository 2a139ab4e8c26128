package trap

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

func record() *Record {
	r := &Record{
		Sequence: 7, Time: 1e18, CPU: 3, Op: filewatch.OpRename, Stage: Closed, Marks: Unlinked | NoMount,
		Actor:    Task{PID: 1, TID: 2, UID: 3, GID: 4, RealUID: 5, Comm: "a\x00b"},
		Volume:   Volume{UUID: [16]byte{1, 2}, Device: 8 << 20, Type: "ext4", Name: "vda"},
		Object:   Inode{Address: 1 << 63, Number: 12, Generation: 9, Mode: 0o100644, Size: -1, Mtime: 5, Ctime: -6},
		Replaced: Inode{Number: 13},
		Path:     Name{Mount: "/mnt", Path: "/\xff\n"}, NewPath: Name{Path: "/" + strings.Repeat("x", MaxPath-1)},
		Detail: "d", Flags: 1 << 40, Writes: 2,
	}
	for i := range r.Parent {
		r.Parent[i] = Task{PID: uint32(i + 1), TID: uint32(i + 1), Comm: "parent"}
	}
	return r
}

func TestRecordSurvivesItsEncoding(t *testing.T) {
	for _, want := range []*Record{{}, record()} {
		b := AppendRecord(nil, want)
		if len(b) > MaxRecord {
			t.Fatalf("%d bytes, more than MaxRecord", len(b))
		}
		got, err := DecodeRecord(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestEveryPartOfARecordIsAnError(t *testing.T) {
	b := AppendRecord(nil, record())
	for n := range b {
		if _, err := DecodeRecord(b[:n]); !errors.Is(err, ErrBadRecord) {
			t.Fatalf("%d of %d bytes: error %v", n, len(b), err)
		}
	}
	if _, err := DecodeRecord(append(b, 0)); !errors.Is(err, ErrBadRecord) {
		t.Errorf("one byte too many: error %v", err)
	}
}

func TestAppendRecordAllocatesNothing(t *testing.T) {
	r, b := record(), make([]byte, 0, MaxRecord)
	if n := testing.AllocsPerRun(100, func() { b = AppendRecord(b[:0], r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(AppendRecord(nil, record()))
	f.Add(AppendRecord(nil, new(Record)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if (r == nil) == (err == nil) {
			t.Fatalf("record %v, error %v", r, err)
		}
		if r == nil {
			return
		}
		r2, err := DecodeRecord(AppendRecord(nil, r))
		if err != nil {
			t.Fatalf("what was decoded does not decode again: %v", err)
		}
		// Ancestors end at the first without a thread, strings at PATH_MAX.
		if r2.Sequence != r.Sequence || r2.Path.Mount != r.Path.Mount[:min(len(r.Path.Mount), MaxPath)] {
			t.Errorf("%+v became %+v", r, r2)
		}
	})
}
