package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/disk/nbd"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// openForeign has qemu-nbd read an image format. The format is always named to
// it, and an image that refers to other files is refused: which files those are
// would be the choice of whoever wrote the image's first bytes, which on a raw
// disk is the guest.
func (s *Set) openForeign(ctx context.Context, path, format string, head []byte) error {
	fail := func(err error) error { return fmt.Errorf("open disk %s (%s): %w", path, format, err) }
	if err := errors.Join(selfContained(format, head), whole(format, head)); err != nil {
		return fail(err)
	}
	client, err := s.serve(ctx, path, format, "backing=", nil)
	if err != nil {
		return fail(err)
	}
	s.Disks = append(s.Disks, &Disk{client, path, client.Size})
	return nil
}

// serve starts a qemu-nbd for an image and connects to it. backing is the option
// that says what lies below the image.
func (s *Set) serve(ctx context.Context, path, format, backing string, options []string, contexts ...string) (*nbd.Client, error) {
	program, err := exec.LookPath("qemu-nbd")
	if err != nil {
		return nil, fmt.Errorf("%w without qemu-nbd (Debian package qemu-utils)", ErrNotSupported)
	}
	dir, err := os.MkdirTemp("", "plumbline-nbd-*")
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { return os.RemoveAll(dir) })
	socket := filepath.Join(dir, "nbd.sock")
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	var complaint tail
	cmd := exec.Command(program, append(options, "--read-only", "--persistent", "--shared=4", "--socket="+socket, "--image-opts",
		fmt.Sprintf("driver=%s,file.driver=file,file.locking=off,file.filename=%s,%s", format, escapeOption(absolute), backing))...)
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	s.closers = append(s.closers, func() error {
		cmd.Process.Kill()
		<-ended
		return nil
	})
	client, err := dialWhenUp(ctx, socket, ended, contexts...)
	if err != nil {
		ended <- nil // for the closer
		return nil, errors.Join(err, complaint.err())
	}
	s.closers = append(s.closers, client.Close)
	return client, nil
}

// ErrRefersElsewhere: the image's own bytes name other files to read.
var ErrRefersElsewhere = errors.New("the image refers to other files")

// selfContained refuses images that keep their data in files they name. (Backing
// files are left out by the option "backing=".)
func selfContained(format string, head []byte) error {
	switch format {
	case "qcow2":
		// incompatible_features at 0x48 of a version 3 header, bit 2: external
		// data file (QEMU docs/interop/qcow2.txt).
		c := bin.Big(head)
		c.Seek(4)
		version := c.U32()
		c.Seek(0x48)
		if features := c.U64(); c.Err() != nil || version >= 3 && features&(1<<2) != 0 {
			return ErrRefersElsewhere
		}
	case "vmdk":
		// A descriptor lists extents by file name; an embedded one is used when
		// the header's capacity (sectors at 0x0c) is 0 (QEMU block/vmdk.c).
		c := bin.Little(head)
		c.Seek(0x0c)
		if capacity := c.U64(); head[0] == '#' || c.Err() != nil || capacity == 0 {
			return ErrRefersElsewhere
		}
	}
	return nil
}

// ErrOverlay: the image holds only what differs from another one, which it names.
var ErrOverlay = errors.New("the image is an overlay over another one, which is not followed: a guest may have written its name")

// whole refuses an image that is an overlay: without what is below it, what it
// does not hold itself would read as zeros.
func whole(format string, head []byte) error {
	if format != "qcow2" {
		return nil
	}
	// backing_file_offset at 0x08, 0 without one (QEMU docs/interop/qcow2.txt).
	c := bin.Big(head)
	c.Seek(8)
	if at := c.U64(); c.Err() == nil && at != 0 {
		return ErrOverlay
	}
	return nil
}

// escapeOption doubles the commas of a QEMU option's value.
func escapeOption(s string) string {
	var out []byte
	for i := range len(s) {
		if s[i] == ',' {
			out = append(out, ',')
		}
		out = append(out, s[i])
	}
	return string(out)
}

// dialWhenUp waits for a server that is starting.
func dialWhenUp(ctx context.Context, socket string, ended chan error, contexts ...string) (*nbd.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		client, err := nbd.Dial(ctx, socket, "", contexts...)
		if err == nil {
			return client, nil
		}
		select {
		case exit := <-ended:
			return nil, fmt.Errorf("qemu-nbd ended: %v", exit)
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tail keeps the last of what a program complains about.
type tail struct{ text []byte }

func (t *tail) Write(b []byte) (int, error) {
	const most = 2048
	t.text = append(t.text, b...)
	if len(t.text) > most {
		t.text = t.text[len(t.text)-most:]
	}
	return len(b), nil
}

func (t *tail) err() error {
	if len(t.text) == 0 {
		return nil
	}
	return fmt.Errorf("%q", t.text)
}
