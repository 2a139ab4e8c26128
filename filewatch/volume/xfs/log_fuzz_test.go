package xfs_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/xfs"
)

// dirtyImage is an image copied in the middle of writes, and the transactions of
// its log.
func dirtyImage(tb testing.TB, name string) (*xfs.Replayed, [][]byte) {
	tb.Helper()
	f, size := volumetest.File(tb, volumetest.Unpack(tb, "testdata/"+name+".img.zst"))
	var transactions [][]byte
	r, err := xfs.OpenReplayed(f, size, func(ops []byte) { transactions = append(transactions, ops) })
	if err != nil {
		tb.Fatal(err)
	}
	return r, transactions
}

// Each transaction alone is read as what it is: the seeds of the fuzzer say
// something.
func TestTransactionsAlone(t *testing.T) {
	for _, name := range []string{"small-blocks", "v4"} {
		r, transactions := dirtyImage(t, name)
		sound := 0
		for _, ops := range transactions {
			n, inodes, err, broken := r.Replay(ops, 1<<40)
			if n != 1 || broken != nil {
				t.Fatalf("%s: %d transactions, %v, %v", name, n, err, broken)
			}
			sound += inodes
		}
		if len(transactions) < 20 || sound < len(transactions)/2 {
			t.Errorf("%s: %d transactions with %d sound inodes", name, len(transactions), sound)
		}
	}
}

// A log that changes a buffer of no sectors is damage.
func TestEmptyBuffer(t *testing.T) {
	r, _ := dirtyImage(t, "small-blocks")
	if n, _, err, _ := r.Replay(xfs.EmptyBuffer(), 1<<40); n != 1 || !errors.Is(err, filewatch.ErrCorrupt) {
		t.Errorf("%d transactions, %v", n, err)
	}
}

// FuzzTransactions starts from the transactions of a real log: whatever their
// operations and items say, each inode they change is read or an error.
func FuzzTransactions(f *testing.F) { fuzzTransactions(f, "small-blocks") }

// FuzzTransactionsV4 is the same of version 4, whose items have no checksums and LSNs.
func FuzzTransactionsV4(f *testing.F) { fuzzTransactions(f, "v4") }

func fuzzTransactions(f *testing.F, name string) {
	r, transactions := dirtyImage(f, name)
	for i := 0; i < len(transactions); i += max(1, len(transactions)/100) {
		f.Add(transactions[i])
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		if _, _, _, broken := r.Replay(ops, 1<<40); broken != nil {
			t.Fatal(broken)
		}
	})
}

// Records that were packed into a ring come out of it.
func TestRing(t *testing.T) {
	want := [][]byte{bytes.Repeat([]byte("first"), 300), bytes.Repeat([]byte("second"), 90)}
	b := xfs.Ring(32, want...)
	if got, err := xfs.Records(bytes.NewReader(b), 32); err != nil || !cmp.Equal(want, got) {
		t.Errorf("%q, %v", got, err)
	}
	b[700]++
	if got, err := xfs.Records(bytes.NewReader(b), 32); err == nil {
		t.Errorf("a damaged first record reads %q", got)
	}
}

// FuzzRing starts from small rings: the records that recovery would read, or an
// error, with all checksums right.
func FuzzRing(f *testing.F) {
	_, transactions := dirtyImage(f, "small-blocks")
	for i, ops := range transactions {
		if len(ops) < 4<<10 && i+1 < len(transactions) && len(transactions[i+1]) < 4<<10 && i%8 == 0 {
			f.Add(xfs.Ring(32, ops, transactions[i+1]))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sectors := len(b) / 512
		if sectors == 0 || sectors > 1<<12 {
			return
		}
		log := bytes.Clone(b[:sectors*512])
		xfs.SealRing(log)
		records, err := xfs.Records(bytes.NewReader(log), int64(sectors))
		size := 0
		for _, r := range records {
			size += len(r)
		}
		if err == nil && size > len(log) {
			t.Fatalf("records of %d bytes in a ring of %d", size, len(log))
		}
	})
}
