package kernel

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// rbTree are offsets in struct rb_node (include/linux/rbtree_types.h).
type rbTree struct {
	parent, right, left mem.Virt
}

func (t *Types) rbTree() (rbTree, error) {
	parent, err1 := t.Offset("rb_node", "__rb_parent_color")
	right, err2 := t.Offset("rb_node", "rb_right")
	left, err3 := t.Offset("rb_node", "rb_left")
	return rbTree{mem.Virt(parent), mem.Virt(right), mem.Virt(left)}, errors.Join(err1, err2, err3)
}

// nodes returns the addresses of all struct rb_node below a struct rb_root, in no
// order. Each must name the one above as its parent, and the two below it must
// not be one: what stands still and keeps to that has no node twice. What does not
// is an error with the nodes found so far, as is a tree of more than limit nodes.
func (t rbTree) nodes(s *paging.Space, root mem.Virt, limit int) ([]mem.Virt, error) {
	top, err := s.U64(root)
	if err != nil {
		return nil, fmt.Errorf("tree at %v: %w", root, err)
	}
	type step struct{ at, parent uint64 }
	var nodes []mem.Virt
	for todo := []step{{top, 0}}; len(todo) > 0; {
		next := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if next.at == 0 {
			continue
		}
		if len(nodes) >= limit {
			return nodes, fmt.Errorf("tree at %v: %w", root, ErrListTooLong)
		}
		at := mem.Virt(next.at)
		parent, err1 := s.U64(at + t.parent)
		right, err2 := s.U64(at + t.right)
		left, err3 := s.U64(at + t.left)
		if err := errors.Join(err1, err2, err3); err != nil {
			return nodes, fmt.Errorf("tree at %v: node %v: %w", root, at, err)
		}
		// The lowest bits are the colour.
		if parent&^3 != next.parent || left == right && left != 0 {
			return nodes, fmt.Errorf("tree at %v: node %v: %w", root, at, ErrListBroken)
		}
		nodes = append(nodes, at)
		todo = append(todo, step{right, next.at}, step{left, next.at})
	}
	return nodes, nil
}
