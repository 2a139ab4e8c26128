package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Layer is one image of a chain.
type Layer struct {
	// Path is how the image was named: what it names itself is relative to it.
	Path string
	// Format is what the image above says it is; the first one's is told by its
	// first bytes.
	Format string

	file string // what Path leads to
}

// Chain is an image and those below it: each is an overlay over the next, and has
// what it does not hold itself from there.
type Chain []Layer

// maxChain bounds a chain. Operators' snapshots are fewer; each is an open file.
const maxChain = 32

// ErrChain: what lies below an image cannot be followed.
var ErrChain = errors.New("the images below cannot be followed")

// Below says which images may lie below others. A name in an image is bytes that a
// guest may have written: where the guest's disk is raw, all of the header is. So
// nothing is followed that nobody asked for, and then only plain names of files, in
// Dirs, in the format that the image above states.
type Below struct {
	// Template, if not "", is an image that lies below.
	Template string
	// Dirs are the directories in which images that others name may lie, those
	// below them among it. With a Template its own and that of the first image are.
	Dirs []string
}

// Chain finds what an image is read over, and at which index the template is: 0
// without one.
func (b Below) Chain(path string) (Chain, int, error) {
	w := &chainWalk{Below: b}
	if err := w.walk(path); err != nil {
		return nil, 0, fmt.Errorf("open disk %s: %w", path, err)
	}
	return w.chain, w.at, nil
}

// chainWalk goes down a chain.
type chainWalk struct {
	Below
	dirs     []string    // resolved
	template os.FileInfo // of Template
	at       int
	chain    Chain
	seen     []os.FileInfo
}

func (w *chainWalk) walk(path string) error {
	head, format, err := headOf(path)
	if err != nil {
		return err
	}
	if err := w.prepare(path, format); err != nil {
		return err
	}
	next := Layer{Path: path, Format: format}
	for {
		if err := w.add(next); err != nil {
			return err
		}
		h, err := refersTo(next.Format, head)
		if err != nil {
			return w.told(err)
		}
		if h.below == "" {
			break
		}
		if next, err = w.below(next, h); err != nil {
			return w.told(err)
		}
		if head, next.Format, err = w.open(next, h.format); err != nil {
			return w.told(err)
		}
	}
	switch {
	case w.template == nil || w.at > 0:
		return nil
	case len(w.chain) == 1:
		return fmt.Errorf("%w: it is no overlay, and holds everything itself", ErrChain)
	}
	return fmt.Errorf("%w: they end in %q, and the template is none of them", ErrChain, w.chain[len(w.chain)-1].Path)
}

// told says of an image below the first one which it is.
func (w *chainWalk) told(err error) error {
	if n := len(w.chain); n > 1 {
		return fmt.Errorf("%q below it: %w", w.chain[n-1].Path, err)
	}
	return err
}

// prepare finds the template and the directories.
func (w *chainWalk) prepare(path, format string) (err error) {
	dirs := w.Dirs
	if w.Template != "" {
		if format != "qcow2" {
			return fmt.Errorf("%w: a clone is a qcow2 image, this is %s", ErrNotSupported, format)
		}
		if w.template, err = os.Stat(w.Template); err != nil {
			return fmt.Errorf("template: %w", err)
		}
		dirs = append(slices.Clone(dirs), filepath.Dir(path), filepath.Dir(w.Template))
	}
	for _, dir := range dirs {
		if dir, err = real(dir); err != nil {
			return err
		}
		w.dirs = append(w.dirs, dir)
	}
	return nil
}

// add takes an image into the chain.
func (w *chainWalk) add(l Layer) (err error) {
	if l.file, err = real(l.Path); err != nil {
		return err
	}
	info, err := os.Stat(l.file)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(w.seen, func(other os.FileInfo) bool { return os.SameFile(info, other) }) {
		return w.told(fmt.Errorf("%w: %q is below itself", ErrChain, l.Path))
	}
	if len(w.chain) == maxChain {
		return fmt.Errorf("%w: they are more than %d", ErrChain, maxChain)
	}
	w.chain, w.seen = append(w.chain, l), append(w.seen, info)
	return nil
}

// below finds the image that one names as what is below it.
func (w *chainWalk) below(above Layer, h *qcow2) (Layer, error) {
	if w.template == nil && len(w.dirs) == 0 {
		return Layer{}, ErrOverlay
	}
	if err := plain(h.below); err != nil {
		return Layer{}, fmt.Errorf("%w: it names %q: %w", ErrChain, h.below, err)
	}
	path := h.below
	if !filepath.IsAbs(path) { // as QEMU joins them: ".." of a link is where it leads to
		path = above.Path[:strings.LastIndexByte(above.Path, '/')+1] + path
	}
	info, err := os.Stat(path)
	if w.template != nil && w.at == 0 && w.isTemplate(path, info, err) {
		w.at = len(w.chain)
		return Layer{Path: w.Template}, nil
	}
	if err != nil {
		return Layer{}, fmt.Errorf("%w: it names %q: %w", ErrChain, h.below, err)
	}
	file, err := real(path)
	if err != nil {
		return Layer{}, err
	}
	if !slices.ContainsFunc(w.dirs, func(dir string) bool { return within(dir, file) }) {
		return Layer{}, fmt.Errorf("%w: it names %q, which is in none of %q", ErrChain, h.below, w.dirs)
	}
	if !info.Mode().IsRegular() {
		return Layer{}, fmt.Errorf("%w: it names %q, which is not a file", ErrChain, h.below)
	}
	return Layer{Path: path}, nil
}

// isTemplate says whether a name, which leads to info or an error, is the
// template's. One that leads nowhere is if the last part is the same: images are
// looked at elsewhere than where they were made.
func (w *chainWalk) isTemplate(path string, info os.FileInfo, err error) bool {
	if err == nil {
		return os.SameFile(info, w.template)
	}
	return errors.Is(err, fs.ErrNotExist) && filepath.Base(path) == filepath.Base(w.Template)
}

// open reads the beginning of an image that lies below another, which states its
// format: what is raw is never looked at for another one, as its first bytes are
// the guest's.
func (w *chainWalk) open(l Layer, stated string) ([]byte, string, error) {
	isTemplate := w.at == len(w.chain) && w.at > 0
	switch {
	case stated == "raw":
		return nil, stated, nil
	case stated == "" && !isTemplate:
		return nil, "", fmt.Errorf("%w: it does not say in which format %q is", ErrChain, l.Path)
	}
	head, format, err := headOf(l.Path)
	if err == nil && stated != "" && format != stated {
		err = fmt.Errorf("%w: it says that %q is %q, which it is not", ErrChain, l.Path, stated)
	}
	return head, format, err
}

// plain refuses what QEMU would take for something else than the name of a file
// (path_has_protocol in its block.c, 7.2).
func plain(name string) error {
	if i := strings.IndexAny(name, ":/"); i >= 0 && name[i] == ':' {
		return fmt.Errorf("%q is no file of this host: %w", name[:i+1], ErrNotSupported)
	}
	if strings.ContainsRune(name, 0) {
		return fmt.Errorf("a name with a zero byte: %w", ErrNotSupported)
	}
	return nil
}

// real is the absolute path without symbolic links.
func real(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

// within says whether a file is below a directory; both are real paths.
func within(dir, file string) bool {
	rel, err := filepath.Rel(dir, file)
	return err == nil && filepath.IsLocal(rel)
}
