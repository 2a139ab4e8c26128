package check

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// address is a virtual address as observations hold it: "0x..." in JSON,
// because JSON numbers of other readers lose bits past 2^53.
type address mem.Virt

func (a address) String() string { return string(a.append(nil)) }

// MarshalText implements encoding.TextMarshaler.
func (a address) MarshalText() ([]byte, error) { return a.append(make([]byte, 0, addressDigits)), nil }

// addressDigits is how many bytes the longest takes.
const addressDigits = len("0xffffffffffffffff")

func (a address) append(b []byte) []byte {
	return strconv.AppendUint(append(b, "0x"...), uint64(a), 16)
}

// MarshalJSONTo is MarshalText for the many there are in observations.
func (a address) MarshalJSONTo(e *jsontext.Encoder) error {
	b := append(e.AvailableBuffer(), '"')
	return e.WriteValue(append(a.append(b), '"'))
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *address) UnmarshalText(text []byte) error {
	digits, ok := bytes.CutPrefix(text, []byte("0x"))
	if !ok {
		return fmt.Errorf("address %q does not start with 0x", text)
	}
	v, err := strconv.ParseUint(string(digits), 16, 64)
	if err != nil {
		return err
	}
	*a = address(v)
	return nil
}

// UnmarshalJSONFrom is UnmarshalText for the many there are in observations.
func (a *address) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	if n := len(v); v.Kind() == '"' && bytes.IndexByte(v, '\\') < 0 {
		return a.UnmarshalText(v[1 : n-1])
	}
	return json.Unmarshal(v, a)
}
