package kernel

import "github.com/plumbline-sec/plumbline/measure/mem"

// What measuring Xen shares with measuring Linux.

// BuildIDOf finds the GNU build-id in ELF notes and returns it as lower-case hex.
func BuildIDOf(notes []byte) (string, error) { return buildIDOf(notes) }

// IsPadding reports whether executing code from its start does nothing but
// reach its end.
func IsPadding(code []byte) bool { return isPadding(code) }

// Runs returns a difference for each run of bytes in which seen is not want,
// at an address; runs that are less than 8 bytes apart are one.
func Runs(at mem.Virt, seen, want []byte, explanation string) []Difference {
	return runs(at, seen, want, explanation)
}
