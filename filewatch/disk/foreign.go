package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/disk/nbd"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// openChain has qemu-nbd read an image and those below it. The format is always
// named to it, as are the images, and nothing else: which files an image refers to
// would be the choice of whoever wrote its first bytes, which on a raw disk is the
// guest.
func (s *Set) openChain(ctx context.Context, c Chain, options []string, contexts ...string) (*nbd.Client, error) {
	image, err := c.imageOptions()
	if err != nil {
		return nil, err
	}
	client, err := s.serve(ctx, image, options, contexts...)
	if err != nil {
		return nil, err
	}
	s.Disks = append(s.Disks, &Disk{client, c[0].Path, client.Size})
	return client, nil
}

// imageOptions describe a chain as QEMU's --image-opts have it.
func (c Chain) imageOptions() (string, error) {
	var all []string
	prefix := ""
	for _, l := range c {
		driver, err := driverOf(l.file)
		if err != nil {
			return "", err
		}
		for _, option := range []string{"driver=" + l.Format, "file.driver=" + driver, "file.locking=off", "file.filename=" + escapeOption(l.file)} {
			all = append(all, prefix+option)
		}
		prefix += "backing."
	}
	if c[len(c)-1].Format != "raw" { // else it would go on by itself
		all = append(all, prefix[:len(prefix)-1]+"=")
	}
	return strings.Join(all, ","), nil
}

// driverOf is what QEMU opens a file by.
func driverOf(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode()&fs.ModeDevice != 0 {
		return "host_device", nil
	}
	return "file", nil
}

// serve starts a qemu-nbd for the image that the options describe, and connects to
// it.
func (s *Set) serve(ctx context.Context, image string, options []string, contexts ...string) (*nbd.Client, error) {
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
	var complaint tail
	cmd := exec.Command(program, append(options, "--read-only", "--persistent", "--shared=4", "--socket="+socket, "--image-opts", image)...)
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

// ErrOverlay: the image holds only what differs from another one, which it names.
var ErrOverlay = errors.New("the image is an overlay over another one, which is not followed: a guest may have written its name")

// refersTo is what an image says lies below it; one that keeps its data in files
// that it names is refused. Of formats other than qcow2 nothing below is read.
func refersTo(format string, head []byte) (*qcow2, error) {
	switch format {
	case "qcow2":
		h, err := parseQcow2(head)
		if err == nil && h.external {
			return nil, ErrRefersElsewhere
		}
		return h, err
	case "vmdk":
		// A descriptor lists extents by file name; an embedded one is used when
		// the header's capacity (sectors at 0x0c) is 0 (QEMU block/vmdk.c).
		c := bin.Little(head)
		c.Seek(0x0c)
		if capacity := c.U64(); head[0] == '#' || c.Err() != nil || capacity == 0 {
			return nil, ErrRefersElsewhere
		}
	}
	return &qcow2{}, nil
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
