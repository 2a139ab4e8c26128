//go:build unix

package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What a killed scan left is taken away, and nothing else.
func TestClearAbandoned(t *testing.T) {
	parent := t.TempDir()
	make := func(name string) string {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "nbd"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	left, used, others := make(scratchPrefix+"1"), make(scratchPrefix+"2"), make("something")
	linked := filepath.Join(parent, scratchPrefix+"3")
	if err := os.Symlink(others, linked); err != nil {
		t.Fatal(err)
	}
	f, err := occupy(used)
	if err != nil || f == nil {
		t.Fatalf("%v, %v", f, err)
	}
	clearAbandoned(parent, scratchPrefix, os.Geteuid())
	for path, want := range map[string]bool{left: false, filepath.Join(used, "nbd"): true, filepath.Join(others, "nbd"): true, linked: true} {
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) == want {
			t.Errorf("%s is there: %v, want %v", filepath.Base(path), !want, want)
		}
	}
	f.Close() // as when its process ends
	clearAbandoned(parent, scratchPrefix, os.Geteuid())
	if _, err := os.Lstat(used); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one whose process has ended is there: %v", err)
	}
}
