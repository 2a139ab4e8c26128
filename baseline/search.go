package baseline

import "github.com/zeebo/blake3"

// search looks which old contents of a log one content begins with. It costs one more
// pass over the content up to the longest of them, and one digest for each size.
type search struct {
	log   *movedLog
	left  []wantedLog // that end behind what went by, the shortest first
	found []*prefix
}

// search begins in a content of which the bytes are as packed says.
func (l *movedLog) search(packed string) search {
	l.all()
	return search{log: l, left: l.bySize[packed]}
}

// goesOn looks for those that end in piece or at its end. sum has what came before,
// read bytes.
func (s *search) goesOn(sum *blake3.Hasher, read int64, piece []byte) {
	end := read + int64(len(piece))
	if len(s.left) == 0 || s.left[0].size > end {
		return
	}
	at := sum.Clone()
	for len(s.left) > 0 && s.left[0].size <= end {
		if s.log.sums.Add(1) > maxSums {
			s.left = nil
			return
		}
		size := s.left[0].size
		at.Write(piece[:size-read])
		piece, read = piece[size-read:], size
		var got Digest
		at.Sum(got[:0])
		for ; len(s.left) > 0 && s.left[0].size == size; s.left = s.left[1:] {
			if s.left[0].want == got {
				s.found = append(s.found, s.left[0].prefix)
			}
		}
	}
}
