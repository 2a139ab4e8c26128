package volumetest

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// Line is all that is compared of one name of an object, as one line of text:
// what the command kernel beside this package writes about a mounted tree, and
// what [Lines] says about a volume.
func Line(path string, o *filewatch.Object, sum string) string {
	size := o.Size
	if o.Type == filewatch.TypeDir {
		size = 0
	}
	b := fmt.Appendf(nil, "%q %s %04o %d:%d %d %d %s %d:%d %q %s", path, o.Type, o.Mode, o.UID, o.GID, o.Nlink, size,
		o.Mtime.UTC().Format("2006-01-02T15:04:05.999999999"), o.Major, o.Minor, o.Link, sum)
	for _, x := range o.Xattrs {
		value := hex.EncodeToString(x.Value)
		if len(x.Value) > 32 {
			s := blake3.Sum256(x.Value)
			value = "blake3:" + hex.EncodeToString(s[:])
		}
		b = fmt.Appendf(b, " %s=%s", x.Name, value)
	}
	return string(b)
}

// Lines are the lines of a whole volume, sorted. Damage fails the test.
func Lines(t testing.TB, v *volume.Volume) []string {
	t.Helper()
	s, err := Read(context.Background(), v)
	if err != nil || len(s.Damage) > 0 {
		t.Fatalf("read volume: %v, damage %v", err, s.Damage)
	}
	sums := map[uint64]string{}
	var mu sync.Mutex
	err = v.Scan(context.Background(), nil, func(o *filewatch.Object, _ []string, c *volume.Content, damage error) error {
		if c == nil {
			return damage
		}
		h := blake3.New()
		if _, err := io.Copy(h, c); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		sums[o.Inode] = hex.EncodeToString(h.Sum(nil))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for p, inode := range s.Names {
		if o := s.Objects[inode]; o == nil {
			t.Errorf("%q is inode %d, which Objects did not report", p, inode)
		} else if p != "lost+found" {
			out = append(out, Line(p, o, sums[inode]))
		}
	}
	slices.Sort(out)
	return out
}

// CheckLines compares a volume with a listing that the kernel made, but for the
// paths that are known to differ.
func CheckLines(t *testing.T, v *volume.Volume, name string, except ...string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	got := Lines(t, v)
	known := func(line string) bool {
		return slices.ContainsFunc(except, func(p string) bool { return strings.HasPrefix(line, fmt.Sprintf("%q ", p)) })
	}
	want, got = slices.DeleteFunc(want, known), slices.DeleteFunc(got, known)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("volume (-kernel +got):\n%s", d)
	}
}
