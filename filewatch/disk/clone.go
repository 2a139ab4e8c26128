package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// depthContext is QEMU's metadata context that says how deep in a chain of images
// a run lies: 1 in the image itself (QEMU docs/interop/nbd.txt).
const depthContext = "qemu:allocation-depth"

// OpenClone opens a qcow2 image as a copy of a template: what it does not hold
// itself is read from the template. Set.Changed are the runs that it holds
// itself, so the only ones that can differ from the template.
//
// The template is the one named here. What the image says its backing file is
// are bytes that a guest may have written, and not looked at.
func OpenClone(ctx context.Context, path, template string) (*Set, error) {
	s := &Set{}
	if err := s.openClone(ctx, path, template); err != nil {
		s.Close()
		return nil, fmt.Errorf("open disk %s over %s: %w", path, template, err)
	}
	return s, nil
}

func (s *Set) openClone(ctx context.Context, path, template string) error {
	head, format, err := headOf(path)
	if err != nil {
		return err
	}
	if format != "qcow2" {
		return fmt.Errorf("%w: a clone is a qcow2 image, this is %s", ErrNotSupported, format)
	}
	if err := selfContained(format, head); err != nil {
		return err
	}
	below, belowFormat, err := headOf(template)
	if err != nil {
		return err
	}
	if err := errors.Join(selfContained(belowFormat, below), whole(belowFormat, below)); err != nil {
		return fmt.Errorf("template: %w", err)
	}
	if template, err = filepath.Abs(template); err != nil {
		return err
	}
	backing := fmt.Sprintf("backing.driver=%s,backing.file.driver=file,backing.file.locking=off,backing.file.filename=%s", belowFormat, escapeOption(template))
	if belowFormat != "raw" {
		backing += ",backing.backing="
	}
	client, err := s.serve(ctx, path, format, backing, []string{"--allocation-depth"}, depthContext)
	if err != nil {
		return err
	}
	s.Disks = append(s.Disks, &Disk{client, path, client.Size})
	runs, err := dirtyRuns(client, depthContext, func(depth uint32) bool { return depth == 1 })
	if err != nil {
		return err
	}
	s.Changed = map[int][]filewatch.Extent{0: runs}
	return nil
}

// headOf reads the beginning of an image and tells its format.
func headOf(path string) ([]byte, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := f.ReadAt(head, 0)
	if n == 0 && err != nil {
		return nil, "", fmt.Errorf("read disk: %w", err)
	}
	return head[:n], formatOf(head[:n]), nil
}
