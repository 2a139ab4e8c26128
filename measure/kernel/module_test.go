package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

const (
	testModuleText   = 0xffffffffc0400000
	testModuleRodata = 0xffffffffc0401000
	testModuleData   = 0xffffffffc0402000
)

// testModule is a module whose init calls fn1 of the test kernel, refers to its
// own data and per-CPU data, and is traced.
func testModule(name string) []byte {
	text := make([]byte, 64)
	copy(text, call(0, 0))                          // __fentry__, patched at 0
	copy(text[5:], call(0, 0))                      // fn1
	copy(text[10:], []byte{0x48, 0xc7, 0xc0})       // mov $data+8, %rax
	copy(text[17:], []byte{0x65, 0x8b, 0x04, 0x25}) // mov %gs:percpu, %eax
	names := append([]byte{0}, "fn1\x00__fentry__\x00module_function\x00"...)
	symbol := func(name string, info byte, section uint16, value uint64) []byte {
		at := max(bytes.Index(names, append([]byte(name), 0)), 0)
		if name == "" {
			at = 0
		}
		b := binary.LittleEndian.AppendUint32(nil, uint32(at))
		b = binary.LittleEndian.AppendUint16(append(b, info, 0), section)
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, value), 8)
	}
	symtab := bytes.Join([][]byte{make([]byte, 24), symbol("fn1", 0x10, 0, 0), symbol("__fentry__", 0x10, 0, 0),
		symbol("module_function", 0x12, 1, 0), symbol("", 3, 3, 0), symbol("", 3, 4, 0), symbol("", 3, 1, 0), symbol("", 3, 11, 0)}, nil)
	rela := func(list ...uint64) []byte { // offset, symbol, type, addend
		var b []byte
		for ; len(list) >= 4; list = list[4:] {
			b = binary.LittleEndian.AppendUint64(b, list[0])
			b = binary.LittleEndian.AppendUint64(b, list[1]<<32|list[2])
			b = binary.LittleEndian.AppendUint64(b, list[3])
		}
		return b
	}
	minus4 := ^uint64(3)
	return encodeELF([]elfSection{
		{},
		{name: ".text", kind: 1, flags: shfAlloc | shfExec, data: text, align: 16},
		{name: ".rela.text", kind: shtRela, info: 1, link: 8, data: rela(1, 2, relocPLT32, minus4, 6, 1, relocPLT32, minus4,
			13, 4, reloc32S, 8, 21, 5, reloc32S, 4)},
		{name: ".data", kind: 1, flags: shfAlloc | shfWrite, data: make([]byte, 16), align: 8},
		{name: ".data..percpu", kind: 1, flags: shfAlloc | shfWrite, data: make([]byte, 16), align: 8},
		{name: "__mcount_loc", kind: 1, flags: shfAlloc, data: make([]byte, 8)},
		{name: ".rela__mcount_loc", kind: shtRela, info: 5, link: 8, data: rela(0, 6, reloc64, 0)},
		{name: ".modinfo", kind: 1, flags: shfAlloc, data: []byte("license=GPL\x00name=" + name + "\x00")},
		{name: ".symtab", kind: shtSymtab, link: 9, data: symtab},
		{name: ".strtab", kind: 3, data: names},
		{name: ".note.gnu.build-id", kind: 7, flags: shfAlloc, data: []byte("\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x00abcdefghijklmnopqrst")},
		{name: ".rodata", kind: 1, flags: shfAlloc, data: []byte("constant")},
		{name: "__ex_table", kind: 1, flags: shfAlloc, data: []byte("sorted")},
	})
}

func loadedTestModule() *LoadedModule {
	return &LoadedModule{Name: "test_module", Live: true, PerCPU: 0x3b000,
		Areas:    []Area{{AreaText, testModuleText, 4096}, {AreaRodata, testModuleRodata, 4096}},
		Sections: []ModuleSection{{".text", testModuleText}, {".rodata", testModuleRodata + 16}, {"__ex_table", testModuleRodata + 64}, {".data", testModuleData}, {"__mcount_loc", testModuleData + 0x800}}}
}

// exportingKernel is the test kernel with fn1 and __fentry__ exported.
func exportingKernel(t testing.TB) *Expected {
	k := newTestKernel()
	names := k.section("__ksymtab_strings", []byte("fn1\x00__fentry__\x00"))
	var table []byte
	for i, target := range []uint64{fn(1), fn(3)} {
		at := k.next + uint64(len(table))
		table = append(table, relative(at, target, names+uint64(i*4), 0)...)
	}
	k.section("__ksymtab", table)
	return NewExpected(k.image(t), testSlide, PatchFacts{})
}

// withTestModule is that kernel with the test module loaded.
func withTestModule(t *testing.T) (*Expected, *Text) {
	t.Helper()
	e := exportingKernel(t)
	file, err := NewModule(testModule("test_module"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := e.AddModule(file, loadedTestModule())
	if err != nil {
		t.Fatal(err)
	}
	return e, text
}

func TestAddModule(t *testing.T) {
	e, text := withTestModule(t)
	want := make([]byte, 4096)
	copy(want, branch(opCall, testModuleText, fn(3)+testSlide))
	copy(want[5:], branch(opCall, testModuleText+5, fn(1)+testSlide))
	copy(want[10:], []byte{0x48, 0xc7, 0xc0, 0x08, 0x20, 0x40, 0xc0, 0x65, 0x8b, 0x04, 0x25, 0x04, 0xb0, 0x03, 0x00})
	copy(want[17:], []byte{0x65, 0x8b, 0x04, 0x25, 0x04, 0xb0, 0x03, 0x00})
	explain := func() *Explanation { return e.Explain(text, []int{0}, func(int) []byte { return want }) }
	if x := explain(); len(x.Findings) != 0 {
		t.Errorf("as linked: %+v", x.Findings)
	}
	copy(want, branch(opCall, testModuleText, testModuleText+200))
	if x := explain(); len(x.Findings) != 1 || !x.Findings[0].Follows {
		t.Errorf("traced by nobody: %+v", x.Findings)
	}
	copy(want, nop(5))
	if x := explain(); len(x.Findings) != 0 {
		t.Errorf("with tracing off: %+v", x.Findings)
	}
	want[100] = 0x90
	x := explain()
	if len(x.Findings) != 1 || x.Findings[0].Addr != testModuleText+100 || x.Findings[0].Follows {
		t.Errorf("a byte after the code: %+v", x.Findings)
	}
	if name, offset, _ := e.Lookup(testModuleText + 100); name != "test_module:module_function" || offset != 100 {
		t.Errorf("it is at %s+%d", name, offset)
	}
	if !e.approved(testModuleText) || e.approved(testModuleText+4) {
		t.Error("approved are the starts of the module's functions")
	}
}

func TestModuleRodata(t *testing.T) {
	_, text := withTestModule(t)
	sections, err := text.Rodata()
	if err != nil || len(sections) != 1 || sections[0].At != testModuleRodata+16 || string(sections[0].Want) != "constant" {
		t.Fatalf("sections %+v, %v", sections, err)
	}
	if d := sections[0].Compare([]byte("constant")); len(d) != 0 {
		t.Errorf("as in the file: %+v", d)
	}
	if d := sections[0].Compare([]byte("constent")); len(d) != 1 || d[0].Addr != testModuleRodata+21 {
		t.Errorf("changed: %+v", d)
	}
}

func TestAddModuleRefuses(t *testing.T) {
	file, err := NewModule(testModule("test_module"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(m *LoadedModule)
		want   error
	}{
		"another build":   {func(m *LoadedModule) { m.BuildID = "00" }, ErrOtherBuild},
		"no text":         {func(m *LoadedModule) { m.Areas = nil }, ErrRelocation},
		"no sections":     {func(m *LoadedModule) { m.Sections = nil }, ErrRelocation},
		"text elsewhere":  {func(m *LoadedModule) { m.Sections[0].Addr = testModuleData }, ErrRelocation},
		"huge text":       {func(m *LoadedModule) { m.Areas[0].Size = 1 << 40 }, ErrRelocation},
		"more text":       {func(m *LoadedModule) { m.Areas[0].Size = 1 << 20 }, ErrRelocation},
		"data is missing": {func(m *LoadedModule) { m.Sections = m.Sections[:1] }, ErrRelocation},
	} {
		t.Run(name, func(t *testing.T) {
			m := loadedTestModule()
			tt.change(m)
			if text, err := exportingKernel(t).AddModule(file, m); text != nil || !errors.Is(err, tt.want) {
				t.Errorf("got %v, %v; want %v", text, err, tt.want)
			}
		})
	}
	t.Run("kernel that exports nothing", func(t *testing.T) {
		e := NewExpected(newTestKernel().image(t), 0, PatchFacts{})
		if text, err := e.AddModule(file, loadedTestModule()); text != nil || !errors.Is(err, ErrRelocation) {
			t.Errorf("got %v, %v", text, err)
		}
	})
}

func TestModuleTree(t *testing.T) {
	dir := t.TempDir()
	for path, compress := range map[string]string{"kernel/a/plain-one.ko": "", "kernel/b/two.ko.xz": "xz", "extra/three.ko.zst": "zstd"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		b := testModule("some_name")
		if compress != "" {
			b = compressors[compress](t, b)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := OpenModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"plain_one", "two", "three"} {
		if m, err := tree.Module(name, ""); err != nil || m.Name != "some_name" || m.BuildID[:4] != "6162" {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	if m, err := tree.Module("four", ""); m != nil || !errors.Is(err, ErrNoModule) {
		t.Errorf("missing module: %v, %v", m, err)
	}
	if m, err := tree.Module("two", "00"); m != nil || !errors.Is(err, ErrOtherBuild) {
		t.Errorf("other build: %v, %v", m, err)
	}
	if _, err := OpenModules(t.TempDir()); !errors.Is(err, ErrNoModule) {
		t.Errorf("empty tree: %v", err)
	}
}

// What was built on the machine stands beside the kernel's own module of its name.
func TestModuleTreeTwoFiles(t *testing.T) {
	ours := testModule("two")
	theirs := bytes.Replace(ours, []byte("abcd"), []byte("wxyz"), 1)
	if bytes.Equal(ours, theirs) {
		t.Fatal("the build-id is not where it was")
	}
	for name, tt := range map[string]struct {
		own, built []byte
		buildID    string
		want       string
		err        error
	}{
		"the kernel's":              {ours, theirs, "61626364", "61626364", nil},
		"the one built":             {ours, theirs, "7778797a", "7778797a", nil},
		"any":                       {ours, theirs, "", "7778797a", nil},
		"neither":                   {ours, theirs, "00", "", ErrOtherBuild},
		"the other cannot be read":  {ours, []byte("\x7fELF"), "61626364", "61626364", nil},
		"it cannot be read":         {ours, []byte("\x7fELF"), "7778797a", "", ErrFormat},
		"any, the last is damaged":  {ours, []byte("\x7fELF"), "", "", ErrFormat},
		"any, the first is damaged": {[]byte("\x7fELF"), theirs, "", "7778797a", nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for path, file := range map[string][]byte{"kernel/drivers/two.ko": tt.own, "updates/dkms/two.ko": tt.built} {
				path = filepath.Join(dir, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, file, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			tree, err := OpenModules(dir)
			if err != nil {
				t.Fatal(err)
			}
			build := tt.buildID
			if len(build) == 8 {
				build += buildIDTail(t, ours)
			}
			m, err := tree.Module("two", build)
			if !errors.Is(err, tt.err) || (m == nil) == (err == nil) {
				t.Fatalf("%v, %v", m, err)
			}
			if m != nil && m.BuildID[:8] != tt.want {
				t.Errorf("build-id %s", m.BuildID)
			}
		})
	}
}

// buildIDTail is a module's build-id without its first four bytes.
func buildIDTail(t *testing.T, file []byte) string {
	t.Helper()
	m, err := NewModule(file)
	if err != nil {
		t.Fatal(err)
	}
	return m.BuildID[8:]
}

func FuzzAddModule(f *testing.F) {
	f.Add(testModule("test_module"))
	e := exportingKernel(f)
	page := make([]byte, mem.PageSize)
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := NewModule(in)
		if (m == nil) == (err == nil) {
			t.Fatalf("value %v and error %v", m, err)
		}
		if m == nil {
			return
		}
		laidOut := loadedTestModule()
		laidOut.Sections, laidOut.Areas = nil, append(laidOut.Areas, Area{AreaData, testModuleData, 4096})
		for _, at := range []*LoadedModule{loadedTestModule(), laidOut} {
			e.modules, e.callsAfterInit = nil, nil
			text, err := e.AddModule(m, at)
			if (text == nil) == (err == nil) {
				t.Fatalf("text %v and error %v", text, err)
			}
			if text != nil {
				e.Explain(text, []int{0}, func(int) []byte { return page })
			}
		}
	})
}

func TestPlaceOfModuleObject(t *testing.T) {
	e, text := withTestModule(t)
	found := 0
	for s := range text.symbols.All() {
		if at, _, ok := text.Place(s.Name); ok && at == mem.Virt(s.Addr) {
			found++
		}
	}
	if _, _, ok := text.Place("no such symbol"); ok || found == 0 {
		t.Errorf("%d objects are where the symbols are; one that does not exist: %v", found, ok)
	}
	if _, _, ok := e.Kernel().Place("_text"); ok {
		t.Error("the kernel is no module")
	}
}

// TestAddModuleWithoutCode: a module may have tables only, and then has no text. One
// whose file has code does not pass for such.
func TestAddModuleWithoutCode(t *testing.T) {
	const symbols = "\x00table\x00"
	tables := func(more ...elfSection) []byte {
		symbol := append([]byte{1, 0, 0, 0, 0x11, 0, 1, 0}, make([]byte, 16)...)
		return encodeELF(append([]elfSection{
			{},
			{name: ".rodata", kind: 1, flags: shfAlloc, data: []byte("constant")},
			{name: ".modinfo", kind: 1, flags: shfAlloc, data: []byte("license=GPL\x00name=tables\x00")},
			{name: ".symtab", kind: shtSymtab, link: 4, data: append(make([]byte, 24), symbol...)},
			{name: ".strtab", kind: 3, data: []byte(symbols)},
			{name: ".text", kind: 1, flags: shfAlloc | shfExec},
			{name: ".note.gnu.build-id", kind: 7, flags: shfAlloc, data: []byte("\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x00abcdefghijklmnopqrst")},
		}, more...))
	}
	at := &LoadedModule{Name: "tables", Live: true, Areas: []Area{{AreaRodata, testModuleRodata, 4096}},
		Sections: []ModuleSection{{".rodata", testModuleRodata + 16}}}
	for name, tt := range map[string]struct {
		file []byte
		fits bool
	}{
		"tables":                      {tables(), true},
		"tables, and code of loading": {tables(elfSection{name: ".init.text", kind: 1, flags: shfAlloc | shfExec, data: make([]byte, 16)}), true},
		"code":                        {tables(elfSection{name: ".text.other", kind: 1, flags: shfAlloc | shfExec, data: make([]byte, 16)}), false},
	} {
		file, err := NewModule(tt.file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		e := exportingKernel(t)
		text, err := e.AddModule(file, at)
		if (err == nil) != tt.fits || err != nil && !errors.Is(err, ErrRelocation) {
			t.Errorf("%s: %v", name, err)
		}
		if tt.fits && (text.Pages != 0 || text.exports["table"] != testModuleRodata+16 || e.approved(0)) {
			t.Errorf("%s: %d pages of text, exports %x", name, text.Pages, text.exports)
		}
	}
}
