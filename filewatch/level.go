package filewatch

import "fmt"

// Level is how much a rule cares. Higher is stricter.
type Level uint8

const (
	// Ignore: not taken into a baseline, not reported.
	Ignore Level = iota
	// Record: taken and reported, never a failure.
	Record
	// Verify: any difference from the baseline is a failure.
	Verify
	// Protect: as Verify, and an operation on the object is an alert the moment
	// it is seen, before its content can be compared.
	Protect
)

var levels = [...]string{"ignore", "record", "verify", "protect"}

func (l Level) String() string {
	if int(l) < len(levels) {
		return levels[l]
	}
	return fmt.Sprintf("level(%d)", uint8(l))
}

// MarshalText gives the level's name.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText accepts the names that MarshalText gives.
func (l *Level) UnmarshalText(b []byte) error {
	for i, name := range levels {
		if name == string(b) {
			*l = Level(i)
			return nil
		}
	}
	return fmt.Errorf("unknown level %q: want protect, verify, record or ignore", b)
}
