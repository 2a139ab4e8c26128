package qemutcg

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/filewatch/trap/guest/linux"
)

// Protocol is the version of the control protocol. Both sides refuse another.
const Protocol = 1

// FrameType says what a frame holds. A frame is the 32-bit little-endian length
// of what follows, the type, and the payload.
type FrameType uint8

// The frames. All but FrameRecord are JSON.
const (
	FrameHello  FrameType = iota + 1 // plugin, on connect: Hello
	FrameBind                        // client: Bind
	FrameBound                       // plugin: the hooks are in place
	FrameRecord                      // plugin: trap.AppendRecord
	FrameLost                        // plugin: Lost
	FrameReset                       // plugin: the machine was reset, the hooks are gone
	FrameError                       // plugin: Failure; the connection ends
	FrameStatus                      // client asks with an empty one; plugin: Status
	FrameLook                        // client: Look; plugin: Looked
)

// maxFrame bounds a frame: a bind with a layout is the largest, about 8 KiB.
const maxFrame = 1 << 20

// Hello is what the plugin says first.
type Hello struct {
	Protocol int    `json:"protocol"`
	PID      int    `json:"pid"`     // of QEMU
	CPUs     int    `json:"cpus"`    // at the time
	Problem  string `json:"problem"` // why nothing can be trapped here; empty when all is well
}

// Bind asks for hooks in the guest's kernel.
type Bind struct {
	Linux   *linux.Layout `json:"linux"`
	Options linux.Options `json:"options"`
	// Enforce is the text of rules (TOML) whose level protect is to be
	// enforced: an operation on a path of that level is refused with EACCES.
	Enforce string `json:"enforce,omitempty"`
}

// Lost follows when records did not fit: those up to Through that have not come
// will not.
type Lost struct {
	Through uint64 `json:"through"`
}

// Look asks for what the kernel has of an object in memory now.
type Look struct {
	ID         uint64 `json:"id"` // of the question
	Address    uint64 `json:"address"`
	Inode      uint64 `json:"inode"`
	Generation uint32 `json:"generation"`
}

// Looked answers the Look of the same ID.
type Looked struct {
	ID uint64 `json:"id"`
	trap.Live
}

// Failure ends a connection.
type Failure struct {
	Message string `json:"message"`
}

// Status are counters since the hooks were put in place.
type Status struct {
	Hooks     int    `json:"hooks"`
	Stops     uint64 `json:"stops"`     // times a CPU was stopped at a hook
	StopNanos uint64 `json:"stop_ns"`   // what half of them took at most, without QEMU's own part
	Records   uint64 `json:"records"`   // made for this client, lost ones included
	Lost      uint64 `json:"lost"`      // of those, not delivered
	Unsettled uint64 `json:"unsettled"` // calls whose return was not seen
	Blind     uint64 `json:"blind"`     // hooks translated where they cannot stop
}

// ErrBadFrame is returned for bytes that are not the protocol's.
var ErrBadFrame = errors.New("malformed frame on the trap control socket")

// AppendFrame appends a frame to b.
func AppendFrame(b []byte, t FrameType, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)+1))
	b = append(b, byte(t))
	return append(b, payload...)
}

// WriteFrame writes v as a JSON frame in one write.
func WriteFrame(w io.Writer, t FrameType, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(AppendFrame(nil, t, payload))
	return err
}

// ReadFrame reads one frame. The payload is the caller's.
func ReadFrame(r *bufio.Reader) (FrameType, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return 0, nil, err // io.EOF between frames is the peer leaving
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return 0, nil, fmt.Errorf("read frame: %w", io.ErrUnexpectedEOF)
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n < 1 || n > maxFrame {
		return 0, nil, fmt.Errorf("%w: %d bytes", ErrBadFrame, n)
	}
	t := FrameType(head[4])
	if t < FrameHello || t > FrameLook || t == FrameRecord && n-1 > trap.MaxRecord {
		return 0, nil, fmt.Errorf("%w: type %d with %d bytes", ErrBadFrame, t, n)
	}
	payload := make([]byte, n-1)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("read frame: %w", io.ErrUnexpectedEOF)
	}
	return t, payload, nil
}
