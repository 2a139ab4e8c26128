package span_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

func TestDeviceReadsAcrossPieces(t *testing.T) {
	disk := bytes.NewReader([]byte("0123456789abcdef"))
	d, err := span.New([]span.Piece{{Start: 0, From: 10, Length: 4, Below: disk}, {Start: 4, From: 2, Length: 3, Below: disk}})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 7)
	if _, err := d.ReadAt(b, 0); err != nil || string(b) != "abcd234" {
		t.Errorf("read %q, %v", b, err)
	}
	if n, err := d.ReadAt(b, 5); n != 2 || err != io.EOF || string(b[:n]) != "34" {
		t.Errorf("at the end %q, %v", b[:n], err)
	}
	want := []filewatch.Extent{{Logical: 2, Physical: 12, Length: 2}, {Logical: 4, Physical: 2, Length: 1}}
	if diff := cmp.Diff(want, d.Map(2, 3)); diff != "" {
		t.Errorf("map (-want +got):\n%s", diff)
	}
}

func TestStripes(t *testing.T) {
	a, b := bytes.NewReader([]byte("AAaaBBbb")), bytes.NewReader([]byte("CCccDDdd"))
	s, err := span.NewStripes([]*span.Device{span.Section(a, 0, 8), span.Section(b, 0, 8)}, 2)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 16)
	if _, err := s.ReadAt(got, 0); err != nil || string(got) != "AACCaaccBBDDbbdd" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A piece that is missing is an error and not zeros.
func TestMissingPiece(t *testing.T) {
	d, err := span.New([]span.Piece{{Length: 4, Missing: "disk two is not here"}})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := d.ReadAt(make([]byte, 4), 0); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

func TestPiecesMustFollowEachOther(t *testing.T) {
	if _, err := span.New([]span.Piece{{Start: 1, Length: 4}}); !errors.Is(err, filewatch.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}

// sparse knows that only one range holds data.
type sparse struct {
	io.ReaderAt
	from, to int64
}

func (s sparse) NextData(off int64) (int64, error) {
	if off >= s.to {
		return 0, io.EOF
	}
	return max(off, s.from), nil
}

func TestHolesShowThrough(t *testing.T) {
	d := span.Section(sparse{bytes.NewReader(make([]byte, 100)), 50, 60}, 40, 30)
	if next, err := d.NextData(0); next != 10 || err != nil {
		t.Errorf("data at %d, %v; want 10", next, err)
	}
	if _, err := d.NextData(20); err != io.EOF {
		t.Errorf("behind the data: %v", err)
	}
}
