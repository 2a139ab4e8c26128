package check

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// address is a virtual address as observations hold it: "0x..." in JSON,
// because JSON numbers of other readers lose bits past 2^53.
type address mem.Virt

func (a address) String() string { return mem.Virt(a).String() }

// MarshalText implements encoding.TextMarshaler.
func (a address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *address) UnmarshalText(text []byte) error {
	digits, ok := strings.CutPrefix(string(text), "0x")
	if !ok {
		return fmt.Errorf("address %q does not start with 0x", text)
	}
	v, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return err
	}
	*a = address(v)
	return nil
}
