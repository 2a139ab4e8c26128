package kernel

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

var errNoBuildID = errors.New("no GNU build-id note")

// buildIDOf finds the GNU build-id in ELF notes (System V gABI, "Note Section";
// NT_GNU_BUILD_ID is 3) and returns it as lower-case hex.
func buildIDOf(notes []byte) (string, error) {
	c := bin.Little(notes)
	for c.Len() >= 12 {
		nameSize, descSize, kind := c.U32(), c.U32(), c.U32()
		if nameSize > 256 || descSize > 1<<16 {
			return "", fmt.Errorf("%w: note of %d and %d bytes", errNoBuildID, nameSize, descSize)
		}
		name := c.Bytes(int(nameSize+3) &^ 3)
		desc := c.Bytes(int(descSize+3) &^ 3)
		if c.Err() != nil {
			return "", fmt.Errorf("%w: %w", errNoBuildID, c.Err())
		}
		if kind == 3 && nameSize == 4 && string(name) == "GNU\x00" && descSize > 0 && descSize <= 64 {
			return hex.EncodeToString(desc[:descSize]), nil
		}
	}
	return "", errNoBuildID
}
