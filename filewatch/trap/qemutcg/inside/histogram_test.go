package inside

import (
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	var h histogram
	if h.median() != 0 {
		t.Error("median of nothing")
	}
	for i := range 101 {
		h.add(time.Duration(900 + i)) // 1000 stands for the quarter from 896 to 1023
	}
	h.add(time.Hour)
	h.add(-1)
	if got := h.median(); got != 896 {
		t.Errorf("median %v", got)
	}
}
