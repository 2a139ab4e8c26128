package kernel

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// Errors of [List].
var (
	ErrListTooLong = errors.New("list is too long or loops")
	ErrListBroken  = errors.New("list does not link back")
)

// List walks a circular struct list_head (include/linux/list.h) from its head
// and returns the addresses of the entries' list_head, the head left out. Each
// entry must link back to the one before: what does not is an error with the
// entries found so far, as is a list of more than limit entries.
func List(s *paging.Space, head mem.Virt, limit int) ([]mem.Virt, error) {
	var entries []mem.Virt
	for before := head; ; {
		at, err := s.U64(before)
		if err != nil {
			return entries, fmt.Errorf("list at %v: %w", head, err)
		}
		back, err := s.U64(mem.Virt(at) + 8)
		if err != nil {
			return entries, fmt.Errorf("list at %v: entry %d: %w", head, len(entries), err)
		}
		if mem.Virt(back) != before {
			return entries, fmt.Errorf("list at %v: entry %d at %#x: %w", head, len(entries), at, ErrListBroken)
		}
		if mem.Virt(at) == head {
			return entries, nil
		}
		if len(entries) == limit {
			return entries, fmt.Errorf("list at %v: %w", head, ErrListTooLong)
		}
		entries = append(entries, mem.Virt(at))
		before = mem.Virt(at)
	}
}
