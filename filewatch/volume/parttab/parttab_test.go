package parttab_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch/volume/parttab"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// layouts are scripts of sfdisk(8).
var layouts = map[string]string{
	"gpt": "label: gpt\nlabel-id: 6F1C3A2E-0000-4000-8000-000000000001\n" +
		"start=2048,size=2048,type=C12A7328-F81F-11D2-BA4B-00C04FC93EC9,name=\"EFI system\"\nstart=8192,size=4096,name=ünï\nstart=4096,size=1024\n",
	"mbr": "label: dos\nlabel-id: 0xdeadbeef\nstart=2048,size=2048,type=83\nstart=4096,size=2048,type=c\n",
	"logical": "label: dos\nlabel-id: 0x12345678\nstart=2048,size=2048,type=83\nstart=4096,size=28000,type=5\n" +
		"start=6144,size=2048,type=83\nstart=10240,size=2048,type=82\nstart=14336,size=4096,type=83\n",
}

func disk(t testing.TB, script string) string {
	t.Helper()
	path := filepath.Join(volumetest.Dir(t), "disk")
	if err := os.WriteFile(path, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sfdisk", "-q", path)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C.UTF-8")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	return path
}

// The tables are compared with what sfdisk reads of them.
func TestAgainstSfdisk(t *testing.T) {
	for name, script := range layouts {
		t.Run(name, func(t *testing.T) {
			path := disk(t, script)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parttab.Read(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(sfdisk(t, path), got.Partitions); diff != "" {
				t.Errorf("partitions (-sfdisk +got):\n%s", diff)
			}
		})
	}
}

func sfdisk(t *testing.T, path string) []parttab.Partition {
	t.Helper()
	var out struct {
		Partitiontable struct {
			ID         string
			Label      string
			Partitions []struct {
				Node, Type, UUID, Name string
				Start, Size            int64
			}
		}
	}
	if err := json.Unmarshal([]byte(volumetest.Tool(t, "sfdisk", "-J", path)), &out); err != nil {
		t.Fatal(err)
	}
	var want []parttab.Partition
	for _, p := range out.Partitiontable.Partitions {
		number := 0
		for _, c := range strings.TrimPrefix(p.Node, path) {
			number = number*10 + int(c-'0')
		}
		q := parttab.Partition{Number: number, Offset: p.Start * 512, Size: p.Size * 512, Type: strings.ToLower(p.Type), UUID: strings.ToLower(p.UUID), Name: p.Name}
		if out.Partitiontable.Label == "dos" {
			if p.Type == "5" {
				continue // the extended partition is not one of its own
			}
			q.Type = "0x" + strings.Repeat("0", 2-len(p.Type)) + p.Type
			q.UUID = strings.TrimPrefix(out.Partitiontable.ID, "0x") + "-" + string(rune('0'+number/10)) + string(rune('0'+number%10))
		}
		want = append(want, q)
	}
	return want
}

// A damaged primary table is replaced by the backup; with both damaged the
// partitions come with the error.
func TestDamagedGPT(t *testing.T) {
	b, err := os.ReadFile(disk(t, layouts["gpt"]))
	if err != nil {
		t.Fatal(err)
	}
	b[512+0x20] ^= 1
	if got, err := parttab.Read(bytes.NewReader(b), int64(len(b))); err != nil || len(got.Partitions) != 3 {
		t.Errorf("backup: %+v, %v", got, err)
	}
	b[len(b)-512+0x20] ^= 1
	if _, err := parttab.Read(bytes.NewReader(b), int64(len(b))); err == nil {
		t.Error("both tables damaged and no error")
	}
}

// Tables damaged under their checksums: every partition lies on the disk or the
// damage is reported.
func TestDamage(t *testing.T) {
	for name, script := range layouts {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(disk(t, script))
			if err != nil {
				t.Fatal(err)
			}
			size := int64(len(b))
			volumetest.DamageDisk(t, bytes.NewReader(b), size, volumetest.Variants(len(layouts)), crc32.IEEE, volumetest.Listing(size))
		})
	}
}

func FuzzRead(f *testing.F) {
	for _, script := range layouts {
		b, err := os.ReadFile(disk(f, script))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:64<<10])
	}
	for _, label := range []string{"sun", "sgi"} {
		b, err := os.ReadFile(disk(f, "label: "+label+"\n"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:64<<10])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parttab.Read(bytes.NewReader(b), int64(len(b)))
		if got == nil && err == nil {
			t.Fatal("neither a table nor an error")
		}
		if got == nil {
			return
		}
		all := got.Partitions
		if got.Wide != nil {
			all = append(all, got.Wide.Partitions...)
		}
		for _, p := range all {
			if p.Offset < 0 || p.Size < 0 || p.Offset+p.Size > int64(len(b)) {
				t.Fatalf("partition %+v of a disk of %d bytes", p, len(b))
			}
		}
	})
}

// A guest can write a second table, to show other partitions than it uses: what Linux
// goes by is read, and the other one told.
func TestSecondTables(t *testing.T) {
	read := func(script string) []byte {
		b, err := os.ReadFile(disk(t, script))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	mbr, gpt := read(layouts["mbr"]), read(layouts["gpt"])
	// Of a disk with sectors of 4 KiB, the table and its array, moved and numbered.
	wide := func(b []byte) {
		copy(b[4096:], gpt[512:1024])
		head := b[4096:4608]
		put := binary.LittleEndian.PutUint64
		put(head[0x18:], 1)
		put(head[0x20:], uint64(len(b)/4096-1))
		put(head[0x28:], 6)
		put(head[0x30:], uint64(len(b)/4096-6))
		put(head[0x48:], 2)
		copy(b[8192:], gpt[1024:1024+16<<10])
		binary.LittleEndian.PutUint32(head[0x10:], 0)
		binary.LittleEndian.PutUint32(head[0x10:], crc32.ChecksumIEEE(head[:92]))
	}
	resum := func(head []byte) {
		binary.LittleEndian.PutUint32(head[0x10:], 0)
		binary.LittleEndian.PutUint32(head[0x10:], crc32.ChecksumIEEE(head[:92]))
	}
	for name, c := range map[string]struct {
		from   []byte
		change func([]byte)
		kind   parttab.Kind
		sector int64
		want   error
	}{
		"as made":                        {gpt, func([]byte) {}, parttab.GPT, 512, nil},
		"GPT put behind an MBR":          {mbr, func(b []byte) { copy(b[512:34*512], gpt[512:]) }, parttab.MBR, 512, parttab.ErrAmbiguous},
		"protective entry not at 1":      {gpt, func(b []byte) { b[446+8] = 2 }, parttab.MBR, 512, parttab.ErrAmbiguous},
		"nothing announces it":           {gpt, func(b []byte) { clear(b[446:510]) }, parttab.None, 0, parttab.ErrAmbiguous},
		"remains of a GPT behind an MBR": {mbr, func(b []byte) { copy(b[512:1024], gpt[512:]); b[600] ^= 1 }, parttab.MBR, 512, nil},
		"backup of a GPT on an MBR's":    {mbr, func(b []byte) { copy(b[len(b)-33*512:], gpt[len(gpt)-33*512:]) }, parttab.MBR, 512, nil},
		"for sectors of 4 KiB":           {gpt, func(b []byte) { clear(b[512:1024]); clear(b[len(b)-512:]); wide(b) }, parttab.GPT, 4096, nil},
		"remains beside that":            {gpt, func(b []byte) { wide(b); clear(b[len(b)-512:]) }, parttab.GPT, 4096, nil},
		"both":                           {gpt, func(b []byte) { wide(b); copy(b[8192:], make([]byte, 16<<10)); emptyArray(b[4096:], resum) }, parttab.GPT, 512, parttab.ErrAmbiguous},
		"header of another sector":       {gpt, func(b []byte) { b[512+0x18] = 9; resum(b[512:]) }, parttab.GPT, 512, nil},
		"boot sector of FAT":             {mbr, func(b []byte) { copy(b, "\xEB\x3C\x90"); copy(b[54:], "FAT16") }, parttab.MBR, 512, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(c.from)
			c.change(b)
			got, err := parttab.Read(bytes.NewReader(b), int64(len(b)))
			if got == nil || got.Kind != c.kind || got.SectorSize != c.sector || !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("%+v, %v, want %q of %d, %v", got, err, c.kind, c.sector, c.want)
			}
		})
	}
}

// emptyArray makes the header at head that of an array of zeros.
func emptyArray(head []byte, resum func([]byte)) {
	binary.LittleEndian.PutUint32(head[0x58:], crc32.ChecksumIEEE(make([]byte, 16<<10)))
	resum(head)
}
