package disk

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// A QEMU that does not show what was written is refused for what it says it is.
func TestOldQEMUIsRefused(t *testing.T) {
	for version, old := range map[string]bool{"6.2": true, "7.0": true, "7.1": false, "10.0": false} {
		socket := filepath.Join(t.TempDir(), "qmp")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		major, minor, _ := strings.Cut(version, ".")
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			fmt.Fprintf(c, `{"QMP":{"version":{"qemu":{"major":%s,"minor":%s,"micro":0},"package":""},"capabilities":[]}}`+"\n", major, minor)
			for lines := bufio.NewScanner(c); lines.Scan(); {
				var asked struct {
					ID json.RawMessage `json:"id"`
				}
				if json.Unmarshal(lines.Bytes(), &asked) == nil {
					fmt.Fprintf(c, `{"return":{},"id":%s}`+"\n", asked.ID)
				}
			}
		}()
		if err := (Running{Socket: socket}).ShowsChanges(t.Context()); errors.Is(err, ErrTooOld) != old || !old && err != nil {
			t.Errorf("QEMU %s: %v", version, err)
		}
	}
}
