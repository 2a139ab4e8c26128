package lab

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMachineSources(t *testing.T) {
	etc := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		files map[string]string
		want  map[string]source
	}{
		"one-line": {
			map[string]string{"sources.list": "# deb http://x/old bookworm main\n" +
				"deb [arch=amd64 signed-by=/k.gpg] http://x/debian bookworm main contrib\n" +
				"deb http://x/debian bookworm-updates main\ndeb-src http://y/src bookworm main\n" +
				"deb http://x/security bookworm-security main\n"},
			map[string]source{"": {"http://x/debian", "/k.gpg"}, "-security": {"http://x/security", ""}},
		},
		"deb822": {
			map[string]string{"sources.list.d/debian.sources": "Types: deb\n# a comment\nURIs: http://x/debian\n" +
				"Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n\n" +
				"Types: deb\nURIs: http://x/security\nSuites: bookworm-security\nComponents: main\n"},
			map[string]source{"": {"http://x/debian", "/k.gpg"}, "-security": {"http://x/security", ""}},
		},
		"others and disabled ones": {
			map[string]string{
				"sources.list.d/a.list":     "deb http://vendor/apt nodistro main\n",
				"sources.list.d/b.sources":  "Enabled: no\nTypes: deb\nURIs: http://off/debian\nSuites: bookworm\n",
				"sources.list.d/c.disabled": "deb http://off/debian bookworm main\n",
			},
			map[string]source{},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(etc); err != nil {
				t.Fatal(err)
			}
			for file, text := range test.files {
				write(file, text)
			}
			got, err := machineSources(etc)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(source{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRecipeKeyFollowsTheRecipe(t *testing.T) {
	base := newRecipe(kernels[DefaultKernel])
	if base.key() != newRecipe(kernels[DefaultKernel]).key() {
		t.Error("one recipe, two keys")
	}
	changes := map[string]func(*recipe){
		"kernel":     func(r *recipe) { r.Kernel.Flavour = "cloud-amd64" },
		"package":    func(r *recipe) { r.Packages = append(r.Packages, "hello") },
		"command":    func(r *recipe) { r.Cmdline[UKIOther] += " x" },
		"guest file": func(r *recipe) { r.Files["boot"] = "" },
		"size":       func(r *recipe) { r.RootMiB++ },
	}
	for name, change := range changes {
		r := newRecipe(kernels[DefaultKernel])
		change(&r)
		if r.key() == base.key() {
			t.Errorf("another %s, the same key", name)
		}
	}
}

func TestCachedBuildsOnce(t *testing.T) {
	cache := t.TempDir()
	var builds atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			dir, err := cached(t.Context(), cache, "a/b", func(dir string) error {
				builds.Add(1)
				return os.WriteFile(filepath.Join(dir, "done"), nil, 0o644)
			})
			if err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "done")); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if builds.Load() != 1 {
		t.Errorf("built %d times", builds.Load())
	}
}

func TestCachedKeepsNoFailure(t *testing.T) {
	cache := t.TempDir()
	boom := errors.New("boom")
	if _, err := cached(t.Context(), cache, "x", func(string) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
	if dirs, _ := filepath.Glob(filepath.Join(cache, "x*")); len(dirs) != 1 { // the lock
		t.Errorf("left behind: %v", dirs)
	}
	if _, err := cached(t.Context(), cache, "x", func(string) error { return nil }); err != nil {
		t.Errorf("second try: %v", err)
	}
}

func TestLockGivesUpWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := lockFile(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("held lock: %v", err)
	}
	unlock()
	if unlock, err = lockFile(t.Context(), path); err != nil {
		t.Errorf("free lock: %v", err)
	} else {
		unlock()
	}
}

func TestProcessIsNotItsSuccessor(t *testing.T) {
	p, err := startProcess("sleep", filepath.Join(t.TempDir(), "log"), "sleep", "60")
	if err != nil {
		t.Fatal(err)
	}
	other := p
	other.Start++
	if other.alive() {
		t.Error("another start time counts as the same process")
	}
	if err := other.end(time.Second); err != nil || !p.alive() {
		t.Errorf("ending the process of another start time: %v; alive %v", err, p.alive())
	}
	if err := p.end(5 * time.Second); err != nil || p.alive() {
		t.Errorf("end: %v; alive %v", err, p.alive())
	}
	if err := p.end(time.Second); err != nil {
		t.Errorf("ending twice: %v", err)
	}
}

func TestCPIOIsReadByOthers(t *testing.T) {
	var archive bytes.Buffer
	c := &cpioWriter{w: &archive}
	c.dir("bin")
	c.file("bin/a", 0o755, []byte("12345"))
	c.file("b", 0o644, nil)
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	list := exec.Command("cpio", "--list", "--quiet")
	list.Stdin = &archive
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	if diff := cmp.Diff("bin\nbin/a\nb\n", string(out)); diff != "" {
		t.Error(diff)
	}
}

func TestTampersHaveNamesAndWords(t *testing.T) {
	seen := make(map[string]bool)
	for _, tamper := range Tampers() {
		if seen[tamper.Name] {
			t.Errorf("two tampers named %s", tamper.Name)
		}
		seen[tamper.Name] = true
		if tamper.Doc == "" || tamper.Benign == (tamper.Check != "") {
			t.Errorf("%+v: wants words, and a check unless it is benign", tamper.Name)
		}
	}
	for _, name := range []string{"kernel-text", "kvm-amd-text", "kvm-ops", "syscall-table", "idt-gate",
		"file-content", "file-setuid", "file-deleted"} {
		if !seen[name] {
			t.Errorf("no tamper %s", name)
		}
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	for name, o := range map[string]Options{
		"kernel": {Kernel: "plan9"},
		"UKI":    {UKI: "evil"},
		"memory": {Memory: 1000},
		"CPUs":   {CPUs: -1},
	} {
		if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzMachineSources(f *testing.F) {
	f.Add("deb [signed-by=/k] http://x/debian bookworm main", "Types: deb\nURIs: u\nSuites: bookworm\n")
	f.Fuzz(func(t *testing.T, list, deb822 string) {
		archives := make(map[string]source)
		readOneLineSources(list, archives)
		readDeb822Sources(deb822, archives)
		for kind, s := range archives {
			if kind != "" && kind != "-security" || s.uri == "" {
				t.Errorf("%q: %+v", kind, s)
			}
		}
	})
}

func TestListensIsMoreThanBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if got, err := listens(path); got || err != nil {
		t.Errorf("bound only: %v, %v", got, err)
	}
	if err := syscall.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	if got, err := listens(path); !got || err != nil {
		t.Errorf("listening: %v, %v", got, err)
	}
}

// What is stored is stored there and nowhere else, in one piece or not.
func TestStoresInRAM(t *testing.T) {
	const size = 3 * 4096
	file, err := os.Create(filepath.Join(t.TempDir(), "ram"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	g, want := guestMemory{file: file, size: size}, make([]byte, size)
	for off, data := range map[int64][]byte{0: word(1), 4088: word(^uint64(2)), 4096 + 16: word(3), size - 8: word(4),
		4096 + 36: word(5), 8192 - 4: word(6), 8192 + 64: {7, 8}} {
		if err := g.writePhys(uint64(off), data); err != nil {
			t.Fatal(err)
		}
		copy(want[off:], data)
	}
	got, err := os.ReadFile(file.Name())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file differs: %v", err)
	}
}
