package verifier

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen/xentest"
)

// A reference kernel is Xen's file or Linux' by its content, whatever it is
// called, and found by its build-id.
func TestReferenceOfXen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(path, xentest.File(), 0o644); err != nil {
		t.Fatal(err)
	}
	r := &references{images: map[string]*openedImage{path: {}}}
	source := imagesOf{r, []string{path}}
	const buildID = "6275696c642d69642d6f662d32302d6279746573"
	if img, err := source.Xen(buildID); err != nil || img.BuildID != buildID {
		t.Errorf("Xen of its build: %v, %v", img, err)
	}
	if img, err := source.Xen("00"); !errors.Is(err, kernel.ErrOtherBuild) {
		t.Errorf("Xen of another build: %v, %v", img, err)
	}
	if img, err := source.Image(buildID); err == nil {
		t.Errorf("a Linux kernel in Xen's file: %v", img)
	}
}
