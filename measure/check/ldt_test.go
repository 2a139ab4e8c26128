package check

import "testing"

// TestLocalDescriptors: what is not a segment of user mode is found.
func TestLocalDescriptors(t *testing.T) {
	for name, tt := range map[string]struct {
		entry uint64
		bad   bool
	}{
		"nothing":               {0, false},
		"data":                  {0x00cff3000000ffff, false},
		"code":                  {0x00cffb000000ffff, false},
		"not present":           {0x00cf73000000ffff, false},
		"data of the kernel's":  {0x00cf93000000ffff, true},
		"a call gate":           {0x8100ec0000101234, true},
		"an interrupt gate":     {0x8100ee0000101234, true},
		"a task state segment":  {0x0000e90000000067, true},
		"a local table":         {0x0000e20000000007, true},
		"half of a gate's base": {0x00000000ffffffff, true},
	} {
		table := localTable{Task: "task 1 (x)", At: 0x1000, Entries: []uint64{0, tt.entry}}
		found := table.judge()
		if (len(found) > 0) != tt.bad || len(found) > 0 && found[0].Address != "0x1008" {
			t.Errorf("%s: %+v", name, found)
		}
	}
}
