package parttab_test

import (
	"bytes"
	"encoding/json"
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
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parttab.Read(bytes.NewReader(b), int64(len(b)))
		if got == nil && err == nil {
			t.Fatal("neither a table nor an error")
		}
		if got == nil {
			return
		}
		for _, p := range got.Partitions {
			if p.Offset < 0 || p.Size < 0 || p.Offset+p.Size > int64(len(b)) {
				t.Fatalf("partition %+v of a disk of %d bytes", p, len(b))
			}
		}
	})
}
