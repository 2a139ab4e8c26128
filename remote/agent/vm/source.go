package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
)

// Place is where a machine's files are read from: the disks of the running
// machine behind a QMP socket, or images of them.
type Place struct {
	// Name is the machine's name.
	Name string
	QMP  string
	// Monitor, if not nil, is held while QEMU's monitor is.
	Monitor sync.Locker
	// Images are files or block devices.
	Images []string
	// Template is the image that the only one of Images is a copy of.
	Template string
	// Backing are the directories in which images may lie that Images name as what
	// is below them; see [disk.Below].
	Backing []string
}

// chains finds what each image is read over, and where in the only one's chain the
// template is, 0 for none.
func (p *Place) chains() (chains []disk.Chain, template int, err error) {
	if p.Template != "" && len(p.Images) != 1 {
		return nil, 0, errors.New("one image is a copy of a template")
	}
	for _, path := range p.Images {
		c, at, err := disk.Below{Template: p.Template, Dirs: p.Backing}.Chain(path)
		if err != nil {
			return nil, 0, err
		}
		chains, template = append(chains, c), at
	}
	return chains, template, nil
}

// String tells places apart.
func (p *Place) String() string {
	if p.QMP != "" {
		return "vm:" + absolute(p.QMP)
	}
	images := p.Images
	if p.Template != "" {
		images = []string{p.Template} // its state is that of the template
	}
	text := "disk"
	for _, path := range images {
		text += fmt.Sprintf(":%q", absolute(path))
	}
	return text
}

func absolute(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// sourceState is what is kept with the state of a scan to tell what changed on the
// disks since.
type sourceState struct {
	Track  *disk.Track  `json:"track,omitempty"`
	Images []imageState `json:"images,omitempty"`
}

// imageState is what tells that an image file was not written to since.
type imageState struct {
	Path   string    `json:"path"`
	Device uint64    `json:"device"`
	Inode  uint64    `json:"inode"`
	Size   int64     `json:"size"`
	Mtime  time.Time `json:"mtime"`
	Ctime  time.Time `json:"ctime"`
	Seen   time.Time `json:"seen"`
}

// settled is how long an image must not have been written to before its times say
// that it was not written to since: clocks of file systems are coarse.
const settled = 2 * time.Second

// since says why it is not certain that the image is as it was at old, "" when it
// is.
func (s imageState) since(old imageState) string {
	seen := old.Seen
	now := s
	now.Seen = seen
	switch {
	case s.Path != old.Path || s.Inode != old.Inode || s.Device != old.Device:
		return s.Path + " is another file than at the last scan"
	case s.Size != old.Size || !s.Mtime.Equal(old.Mtime) || !s.Ctime.Equal(old.Ctime):
		return s.Path + " was written to since the last scan"
	case seen.Sub(old.Mtime) < settled || seen.Sub(old.Ctime) < settled:
		return s.Path + " was written to just before the last scan"
	}
	return ""
}

// opened is the disks of a place with what is known of their changes.
type opened struct {
	set   *disk.Set
	state sourceState // to keep with the scan
	// reason says why set.Changed is not known.
	reason string
	// images are the files that the disks are read from: those of state and, where
	// one is a template, the copy of it. unknown says why one is not among them.
	images  []imageState
	copied  bool
	unknown string
	at      time.Time
	kept    bool
}

// keep says that the scan is stored with state.
func (o *opened) keep() {
	o.kept = true
	o.set.Keep()
}

// openSince opens the disks. raw is what an earlier scan kept; nil for none. key
// names whoever keeps it. running opens the disks of a running machine.
func (p *Place) openSince(ctx context.Context, raw json.RawMessage, key string, running openRunning) (*opened, error) {
	var last sourceState
	if raw != nil {
		if err := json.Unmarshal(raw, &last); err != nil {
			return nil, fmt.Errorf("the last scan's source: %w", err)
		}
	}
	if p.QMP != "" {
		return p.openRunning(ctx, last.Track, key, running)
	}
	return p.openImages(ctx, last.Images)
}

// machine is what is behind the QMP socket.
func (p *Place) machine() disk.Running { return disk.Running{Socket: p.QMP, Monitor: p.Monitor} }

// openRunning is OpenSince or OpenChanged of [disk.Running].
type openRunning func(machine disk.Running, ctx context.Context, last disk.Track) (*disk.Set, error)

func (p *Place) openRunning(ctx context.Context, last *disk.Track, key string, open openRunning) (*opened, error) {
	track := disk.Track{ID: trackID(key)}
	if last != nil && last.ID == track.ID {
		track = *last
	}
	set, err := open(p.machine(), ctx, track)
	if err != nil {
		return nil, err
	}
	return &opened{set: set, state: sourceState{Track: &set.Track}, reason: set.Lost, at: time.Now()}, nil
}

// trackID tells the keepers of bitmaps apart.
func trackID(key string) string {
	sum := blake3.Sum256([]byte(key))
	return fmt.Sprintf("%x", sum[:5])
}

func (p *Place) openImages(ctx context.Context, last []imageState) (*opened, error) {
	chains, template, err := p.chains()
	if err != nil {
		return nil, err
	}
	o := &opened{at: time.Now()}
	var files []string // that the state is of: of a copy, the template's
	for _, c := range chains {
		for _, l := range c[template:] {
			files = append(files, l.Path)
		}
	}
	for i, path := range files {
		s, ok := o.look(path)
		if !ok {
			o.reason = o.unknown
			continue
		}
		o.state.Images = append(o.state.Images, s)
		switch {
		case len(last) == 0:
			o.reason = "there is no earlier scan of " + path
		case i >= len(last) || len(last) != len(files):
			o.reason = "the images below the disks are not those of the last scan"
		case o.reason == "":
			o.reason = s.since(last[i])
		}
	}
	if o.copied = template > 0; o.copied {
		for _, l := range chains[0][:template] {
			o.look(l.Path)
		}
		o.set, err = disk.OpenCopy(ctx, chains[0], template)
	} else {
		o.set, err = disk.OpenChains(ctx, chains)
	}
	if err != nil {
		return nil, err
	}
	if !o.copied {
		o.set.Unchanged()
	}
	return o, nil
}

// look takes an image file among those that the disks are read from.
func (o *opened) look(path string) (s imageState, ok bool) {
	s, err := stateOf(path, o.at)
	if err != nil {
		o.unknown = err.Error()
		return s, false
	}
	o.images = append(o.images, s)
	return s, true
}

// changedSince is what may have changed since an interrupted scan of the images, or
// why that is not known.
func (o *opened) changedSince(images []imageState) (changed map[int][]filewatch.Extent, reason string) {
	if !o.copied { // openSince was asked
		return o.set.Changed, o.reason
	}
	if len(images) != len(o.images) {
		return nil, "the interrupted scan was of other images"
	}
	for i, s := range o.images {
		if reason := s.since(images[i]); reason != "" {
			return nil, reason
		}
	}
	return map[int][]filewatch.Extent{0: nil}, ""
}

// quiet says that nothing at all changed on any disk.
func (o *opened) quiet() bool {
	if o.set.Same {
		return true
	}
	if o.reason != "" || len(o.set.Changed) != len(o.set.Disks) {
		return false
	}
	for i := range o.set.Disks {
		if runs, ok := o.set.Changed[i]; !ok || len(runs) > 0 {
			return false
		}
	}
	return true
}

// still says whether the images are as they were when they were opened.
func (o *opened) still() bool {
	return !slices.ContainsFunc(o.images, func(s imageState) bool {
		now, err := stateOf(s.Path, s.Seen)
		return err != nil || now != s
	})
}
