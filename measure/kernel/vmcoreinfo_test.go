package kernel

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
)

// description is what a kernel of Debian 12 says of itself, in part.
const description = `OSRELEASE=6.1.0-56-amd64
BUILD-ID=eb4fbcd037e7253717950bf2b93bd5566f47c56f
PAGESIZE=4096
SYMBOL(init_uts_ns)=ffffffffaea1b4a0
SYMBOL(swapper_pg_dir)=ffffffffaea10000
SYMBOL(_stext)=ffffffffad000000
NUMBER(phys_base)=-75497472
SYMBOL(init_top_pgt)=ffffffffaea10000
NUMBER(pgtable_l5_enabled)=1
KERNELOFFSET=2c000000
`

func TestParseCoreInfo(t *testing.T) {
	tests := map[string]struct {
		text string
		want coreInfo
		ok   bool
	}{
		"as it is":                      {description, coreInfo{0x2a210000, 5}, true},
		"what follows it in its page":   {description + "\x00SYMBOL(swapper_pg_dir)=0", coreInfo{0x2a210000, 5}, true},
		"four levels":                   {strings.Replace(description, "enabled)=1", "enabled)=0", 1), coreInfo{0x2a210000, 4}, true},
		"x86's own name":                {strings.Replace(description, "SYMBOL(swapper_pg_dir)=ffffffffaea10000\n", "", 1), coreInfo{0x2a210000, 5}, true},
		"said twice":                    {description + "SYMBOL(swapper_pg_dir)=ffffffff81000000\n", coreInfo{0x2a210000, 5}, true},
		"no release":                    {strings.Replace(description, "OSRELEASE", "RELEASE", 1), coreInfo{}, false},
		"no page tables":                {strings.NewReplacer("swapper_pg_dir", "x", "init_top_pgt", "y").Replace(description), coreInfo{}, false},
		"page tables outside the image": {strings.Replace(description, "=ffffffffaea10000", "=ffff888000000000", 1), coreInfo{}, false},
		"page tables between pages":     {strings.Replace(description, "=ffffffffaea10000", "=ffffffffaea10008", 1), coreInfo{}, false},
		"no base":                       {strings.Replace(description, "phys_base", "x", 1), coreInfo{}, false},
		"a base that is no number":      {strings.Replace(description, "-75497472", "0x10", 1), coreInfo{}, false},
		"empty":                         {"", coreInfo{}, false},
	}
	for name, tt := range tests {
		got, err := parseCoreInfo([]byte(tt.text))
		if (err == nil) != tt.ok || got != tt.want || err != nil && !errors.Is(err, ErrNoKernel) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestFindsDescriptionsInMemory(t *testing.T) {
	other := strings.Replace(description, "enabled)=1", "enabled)=0", 1)
	m := make(memtest.Pages)
	m.Write(0x5000, []byte(description)...)
	m.Write(0x9000+8, []byte(description)...)              // the copy in the note
	m.Write(0x1000+searchChunk-20, []byte(other)...)       // across the end of what is read at once
	m.Write(0x1000+2*searchChunk, []byte("OSRELEASE=")...) // a string of some program
	for at := mem.Phys(0x1000); at < 0x1000+2*searchChunk; at += mem.PageSize {
		m.Write(at, 1) // one piece of RAM
	}
	got, err := coreInfos(m)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]coreInfo{{0x2a210000, 5}, {0x2a210000, 4}}, got, cmp.AllowUnexported(coreInfo{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A target that fills its memory with descriptions is given up, soon.
func TestRefusesManyDescriptions(t *testing.T) {
	m := make(memtest.Pages)
	for i := range maxCoreInfos + 1 {
		text := strings.Replace(description, "-75497472", fmt.Sprint(i*mem.PageSize), 1)
		m.Write(mem.Phys(i+1)*mem.PageSize, []byte(text)...)
	}
	if _, err := NewProfile(m, nil); !errors.Is(err, ErrNoKernel) || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
}

// A description that leads to no kernel gives none, and says why.
func TestDescriptionIsNotBelieved(t *testing.T) {
	m := make(memtest.Pages)
	m.Write(0x5000, []byte(description)...)
	if _, err := NewProfile(m, nil); !errors.Is(err, ErrNoKernel) || !errors.Is(err, ErrNoRegisters) {
		t.Error(err)
	}
	if _, err := NewProfile(make(memtest.Pages), nil); !errors.Is(err, ErrNoKernel) || !errors.Is(err, ErrNoRegisters) {
		t.Error(err)
	}
}

func FuzzParseCoreInfo(f *testing.F) {
	f.Add([]byte(description))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := parseCoreInfo(b)
		if (err == nil) != (info.levels != 0) || info.root%mem.PageSize != 0 {
			t.Fatalf("%+v and error %v", info, err)
		}
	})
}
