package lvm

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// maxSegments bounds the pieces of one logical volume.
const maxSegments = 1 << 16

// Logical is one logical volume that the guest can use.
type Logical struct {
	// Group and Name are its names, UUID its identity as LVM writes it.
	Group, Name, UUID string
	// Size is its length in bytes.
	Size int64
	// Device is its content, nil when it cannot be mapped.
	Device *span.Device
	// Reason says why Device is nil.
	Reason string
}

// Group maps the logical volumes of a group from its metadata text. Disks are
// the devices of its physical volumes by UUID; a volume on one that is missing
// has no device. The error is for the whole group.
func Group(text string, disks map[string]io.ReaderAt) ([]Logical, error) {
	root, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("lvm: %w", err)
	}
	for _, name := range root.order {
		g := root.sections[name]
		if g.str("id") == "" {
			continue
		}
		m := mapper{name: name, extent: g.num("extent_size") * sector, disks: disks, pvs: g.sub("physical_volumes")}
		if m.extent <= 0 || m.extent > 1<<40 {
			return nil, fmt.Errorf("lvm: group %s has extents of %d bytes: %w", name, m.extent, filewatch.ErrCorrupt)
		}
		var out []Logical
		lvs := g.sub("logical_volumes")
		for _, lv := range lvs.order {
			if s := lvs.sections[lv]; slices.Contains(s.list("status"), any("VISIBLE")) {
				out = append(out, m.logical(lv, s))
			}
		}
		return out, nil
	}
	return nil, fmt.Errorf("lvm: metadata names no group: %w", filewatch.ErrCorrupt)
}

// Identity is what tells groups and copies of their metadata apart.
type Identity struct {
	Name, UUID string
	// Sequence is highest in the newest copy.
	Sequence int64
}

// Identify reads a group's identity in a metadata text.
func Identify(text string) (Identity, error) {
	root, err := parse(text)
	if err != nil {
		return Identity{}, fmt.Errorf("lvm: %w", err)
	}
	for _, name := range root.order {
		if g := root.sections[name]; g.str("id") != "" {
			return Identity{name, g.str("id"), g.num("seqno")}, nil
		}
	}
	return Identity{}, fmt.Errorf("lvm: metadata names no group: %w", filewatch.ErrCorrupt)
}

// Same says whether two metadata texts say the same of their group; who wrote them
// and when stands beside that.
func Same(a, b string) bool {
	return reflect.DeepEqual(groupOf(a), groupOf(b))
}

func groupOf(text string) *section {
	root, err := parse(text)
	if err != nil {
		return nil
	}
	for _, name := range root.order {
		if g := root.sections[name]; g.str("id") != "" {
			return g
		}
	}
	return nil
}

type mapper struct {
	name   string
	extent int64
	pvs    *section
	disks  map[string]io.ReaderAt
}

func (m *mapper) logical(name string, s *section) Logical {
	l := Logical{Group: m.name, Name: name, UUID: s.str("id")}
	var pieces []span.Piece
	count := s.num("segment_count")
	if count <= 0 || count > maxSegments {
		l.Reason = fmt.Sprintf("%d segments", count)
		return l
	}
	for i := range count {
		seg := s.sub(fmt.Sprintf("segment%d", i+1))
		extents := seg.num("extent_count")
		if seg.num("start_extent")*m.extent != l.Size || extents <= 0 || extents > 1<<40/sector {
			l.Reason = fmt.Sprintf("segment %d does not follow the one before", i+1)
			return l
		}
		piece, reason := m.segment(seg, extents*m.extent)
		if reason != "" {
			l.Reason = reason
		}
		piece.Start, piece.Length = l.Size, extents*m.extent
		l.Size += piece.Length
		pieces = append(pieces, piece)
	}
	if l.Reason != "" {
		return l
	}
	var err error
	if l.Device, err = span.New(pieces); err != nil {
		l.Reason = err.Error()
	}
	return l
}

// segment maps one segment of size bytes.
func (m *mapper) segment(s *section, size int64) (span.Piece, string) {
	if kind := s.str("type"); kind != "striped" && kind != "linear" {
		return span.Piece{}, fmt.Sprintf("LVM volume of type %s", kind)
	}
	stripes, n := s.list("stripes"), s.num("stripe_count")
	if n <= 0 || int64(len(stripes)) != 2*n || size%n != 0 {
		return span.Piece{}, fmt.Sprintf("%d stripes in a list of %d", n, len(stripes))
	}
	var legs []*span.Device
	for i := 0; i < len(stripes); i += 2 {
		name, _ := stripes[i].(string)
		first, _ := stripes[i+1].(int64)
		pv := m.pvs.sub(name)
		disk := m.disks[strings.ReplaceAll(pv.str("id"), "-", "")]
		if disk == nil {
			return span.Piece{}, fmt.Sprintf("physical volume %s of group %s is missing", name, m.name)
		}
		if first < 0 || first > 1<<40/sector || pv.num("pe_start") < 0 || pv.num("pe_start") > 1<<40 {
			return span.Piece{}, fmt.Sprintf("stripe at extent %d of %s", first, name)
		}
		legs = append(legs, span.Section(disk, pv.num("pe_start")*sector+first*m.extent, size/n))
	}
	if len(legs) == 1 {
		return span.Piece{Below: legs[0]}, ""
	}
	st, err := span.NewStripes(legs, s.num("stripe_size")*sector)
	if err != nil {
		return span.Piece{}, err.Error()
	}
	return span.Piece{Below: st}, ""
}
