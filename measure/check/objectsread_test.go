package check

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel/graph"
)

// Which walks find a pointer that looks wrong, and whether that makes it one.
func TestObjectReadings(t *testing.T) {
	const found, torn, nothing, limited, both, going = 'f', 't', '-', 'l', 'b', 'g'
	place := graph.Place{At: 0x1000, Value: 0x2000}
	tests := []struct {
		walks     string // of as many as are possible
		used      int
		confirmed bool
		undecided bool // not measured
	}{
		{"-----", 1, false, false},
		{"fffff", 3, true, false},
		{"ttttt", 3, false, false}, // never by a way that held
		{"t----", 2, false, false},
		{"f----", 2, false, false},
		{"ff-ff", 3, false, false},
		{"-ffff", 1, false, false}, // for the next scan
		{"tffff", 4, true, false},  // another way led there
		{"ttfff", 5, true, false},
		{"ftftf", 5, true, false},
		{"ffttt", 5, false, false},
		{"l----", 2, false, false},
		{"lllll", 4, false, false},
		{"lffff", 4, true, false}, // the first was cut short
		{"llfff", 5, true, false},
		{"bbbbb", 5, true, false}, // of a target that is over a limit
		// Through a module that is not live: looked at again until that has gone.
		{"ggggg", 5, false, true},
		{"gg---", 3, false, false},
		{"gfff-", 4, true, false}, // it has become live
		{"fffgg", 3, true, false},
		{"ffggg", 5, false, true},
		{"ggggf", 5, false, true},
		{"gtttt", 5, false, true},
	}
	for _, tt := range tests {
		o := objectsReader{data: &objectsData{}}
		used := 0
		for left := objectReadings - 1; ; left-- {
			o.last = &graph.Result{}
			switch tt.walks[used] {
			case found:
				o.last.Odd, o.last.Suspects = []graph.Place{place}, []graph.Suspect{{Place: place}}
			case torn:
				o.last.Odd = []graph.Place{place}
			case both:
				o.last.Limited, o.last.Odd, o.last.Suspects = true, []graph.Place{place}, []graph.Suspect{{Place: place}}
			case limited:
				o.last.Limited = true
			case going:
				o.last.Odd, o.last.Going = []graph.Place{place}, []graph.Suspect{{Place: place}}
			case nothing:
			}
			used++
			o.count(left)
			if o.settled(left) {
				break
			}
		}
		if used != tt.used || (len(o.confirmed()) == 1) != tt.confirmed {
			t.Errorf("%s: %d walks, confirmed %v; want %d, %v", tt.walks, used, o.confirmed(), tt.used, tt.confirmed)
		}
		if got := len(o.undecided()) == 1; got != tt.undecided {
			t.Errorf("%s: undecided %v", tt.walks, o.undecided())
		}
	}
}

// Pointers found once each at different places are none, however many.
func TestObjectReadingsElsewhere(t *testing.T) {
	o := objectsReader{data: &objectsData{}}
	for walk := range uint64(objectReadings) {
		at := []graph.Place{{At: 0x1000 * walk, Value: 0x2000}, {At: 0x1000, Value: 0x2000 * walk}, {At: 0x1000, Value: 0x2000, Table: walk%2 == 0}}
		o.last = &graph.Result{}
		for _, place := range at {
			o.last.Odd, o.last.Suspects = append(o.last.Odd, place), append(o.last.Suspects, graph.Suspect{Place: place})
		}
		o.count(objectReadings - 1 - int(walk))
	}
	if all := o.confirmed(); len(all) != 0 {
		t.Errorf("confirmed %+v", all)
	}
}
