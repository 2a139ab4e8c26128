package qemu

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// testdata was taken from QEMU 7.2.22 (Debian 12): a machine of 512 MiB with
// two CPUs, running Linux 6.1; regenerate with
// "info registers -a" and "info mtree -f" on such a machine's monitor.
func golden(t testing.TB, name string) string {
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParseRegisters(t *testing.T) {
	regs, err := ParseRegisters(golden(t, "registers.txt"))
	if err != nil {
		t.Fatal(err)
	}
	want := mem.Registers{
		CPU: 1, RIP: 0xffffffff81a592eb, RSP: 0xffffc9000009bed8, RFLAGS: 0x246,
		CR0: 0x80050033, CR2: 0x4f0215, CR3: 0x5e5e000, CR4: 0x750ee0, EFER: 0xd01,
		GSBase: 0xffff88801f300000,
		IDT:    mem.Table{Base: 0xfffffe0000000000, Limit: 0xfff},
		GDT:    mem.Table{Base: 0xfffffe000003c000, Limit: 0x7f},
		TR:     mem.Segment{Selector: 0x40, Base: 0xfffffe000003e000, Limit: 0x4087, Flags: 0x8900},
		LDT:    mem.Segment{Flags: 0x8200},
		CS:     mem.Segment{Selector: 0x10, Limit: 0xffffffff, Flags: 0xaf9b00},
		DR:     [8]uint64{6: 0xffff0ff0, 7: 0x400},
	}
	if len(regs) != 2 {
		t.Fatalf("%d CPUs", len(regs))
	}
	if diff := cmp.Diff(want, regs[1]); diff != "" {
		t.Errorf("CPU 1 (-want +got):\n%s", diff)
	}
}

// A register that is not shown must not be read as zero.
func TestParseRegistersMissing(t *testing.T) {
	text := golden(t, "registers.txt")
	for _, name := range []string{"CR3", "IDT", "GDT", "CR0", "CR4"} {
		broken := strings.ReplaceAll(text, name+"=", "X"+name+"=")
		if regs, err := ParseRegisters(broken); err == nil {
			t.Errorf("without %s: %+v", name, regs)
		}
	}
	regs, err := ParseRegisters(strings.ReplaceAll(text, "EFER=", "xEFER="))
	if err != nil || regs[0].Known("EFER") || !regs[0].Known("TR") {
		t.Errorf("without EFER: %+v, %v", regs, err)
	}
}

func TestParseMtree(t *testing.T) {
	blocks, err := parseMtree(golden(t, "mtree.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var got []block
	for _, b := range blocks {
		if b.region == "ram" {
			got = append(got, b)
		}
	}
	at := func(start, end uint64) block {
		return block{mem.Extent{Start: mem.Phys(start), Size: end - start}, "ram"}
	}
	want := []block{at(0, 0xc3000), at(0xc3000, 0xe8000), at(0xe8000, 0xf0000), at(0xf0000, 0x100000), at(0x100000, 0x20000000)}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(block{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseMapping(t *testing.T) {
	tests := map[string]struct {
		line string
		want mapping
		ok   bool
	}{
		"shared": {"7f6247fff000-7f6267fff000 rw-s 00001000 00:1b 12    /dev/shm/a b",
			mapping{0x7f6247fff000, 0x7f6267fff000, "rw-s", true, 0x1b, 12, 0x1000}, true},
		"private":   {"1000-2000 rw-p 0 103:02 0 ", mapping{0x1000, 0x2000, "rw-p", false, makedev(0x103, 2), 0, 0}, true},
		"no device": {"1000-2000 rw-p 0 1 0", mapping{}, false},
		"not hex":   {"zz-2000 rw-p 0 1:1 0", mapping{}, false},
		"empty":     {"", mapping{}, false},
	}
	for name, tt := range tests {
		got, err := parseMapping(tt.line)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
		if tt.ok && got != tt.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tt.want)
		}
	}
}

func FuzzParseRegisters(f *testing.F) {
	f.Add(golden(f, "registers.txt"))
	f.Fuzz(func(t *testing.T, text string) {
		if regs, err := ParseRegisters(text); (len(regs) == 0) == (err == nil) {
			t.Fatalf("%d CPUs and error %v", len(regs), err)
		}
	})
}

func FuzzParseMtree(f *testing.F) {
	f.Add(golden(f, "mtree.txt"))
	f.Fuzz(func(t *testing.T, text string) {
		blocks, err := parseMtree(text)
		if err != nil && blocks != nil {
			t.Fatalf("%d blocks and error %v", len(blocks), err)
		}
		for i, b := range blocks {
			if b.Size == 0 || i > 0 && b.Start < blocks[i-1].End() {
				t.Fatalf("blocks overlap: %+v", blocks)
			}
		}
	})
}
