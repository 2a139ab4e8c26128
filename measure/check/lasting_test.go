package check

import (
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"
)

// What is different in each comparison is of no matter, however long a comparison
// takes: on a machine within a machine one took longer than the time that a
// difference has to last, and a task that was made meanwhile was a finding.
func TestLasting(t *testing.T) {
	broken := errors.New("cut while it was walked")
	tests := map[string]struct {
		takes   time.Duration
		compare func(look int) (map[int]bool, error)
		want    map[int]bool
		err     error
	}{
		"tasks come and go, slowly": {
			5 * time.Second, func(look int) (map[int]bool, error) { return map[int]bool{look: true}, nil }, map[int]bool{}, nil,
		},
		"one stays, slowly": {
			5 * time.Second, func(look int) (map[int]bool, error) { return map[int]bool{-1: true, look: true}, nil }, map[int]bool{-1: true}, nil,
		},
		"one stays": {
			time.Millisecond, func(int) (map[int]bool, error) { return map[int]bool{-1: true}, nil }, map[int]bool{-1: true}, nil,
		},
		"one stays in every other comparison, others are cut short": {
			5 * time.Second, func(look int) (map[int]bool, error) {
				if look%2 == 0 {
					return nil, broken
				}
				return map[int]bool{-1: true}, nil
			}, map[int]bool{-1: true}, nil,
		},
		"one comparison, all others are cut short": {
			time.Second, func(look int) (map[int]bool, error) {
				if look > 1 {
					return nil, broken
				}
				return map[int]bool{-1: true}, nil
			}, nil, broken,
		},
		"all are cut short": {
			time.Second, func(int) (map[int]bool, error) { return nil, broken }, nil, broken,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				look := 0
				got, err := lasting(t.Context(), func() (map[int]bool, error) {
					look++
					time.Sleep(tt.takes)
					return tt.compare(look)
				})
				if !maps.Equal(got, tt.want) || !errors.Is(err, tt.err) {
					t.Errorf("%v %v, want %v %v", got, err, tt.want, tt.err)
				}
			})
		})
	}
}
