package ext4

import "github.com/plumbline-sec/plumbline/filewatch"

// fastCommits is what fast commits changed.
type fastCommits struct{}

// rangeChange is one change of an inode's block map.
type rangeChange struct{}

func (f *fastCommits) inode(n uint32, raw []byte) ([]byte, []rangeChange) { return raw, nil }
func (f *fastCommits) wrote(n uint32) bool                                { return false }
func (f *fastCommits) wroteDir(n uint32) bool                             { return false }
func (f *fastCommits) skip(n uint32, raw []byte) bool {
	return le.Uint16(raw[0x1A:]) == 0 && le.Uint16(raw) == 0
}
func (f *fastCommits) created(v *Volume, s *scratch, fn func(*inode, error) error) error { return nil }
func (f *fastCommits) filter(n uint32, fn func(filewatch.Name) error) func(filewatch.Name) error {
	return fn
}
func (f *fastCommits) added(n uint32, fn func(filewatch.Name) error) error { return nil }

func applyChanges(es []filewatch.Extent, c []rangeChange, bs int64) []filewatch.Extent { return es }
