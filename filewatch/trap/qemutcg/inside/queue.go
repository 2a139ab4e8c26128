package inside

import (
	"encoding/binary"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch/trap/qemutcg"
)

// queueBytes is the room for records that a client has not read yet: about
// 10,000 of them.
const queueBytes = 4 << 20

// queue holds encoded frames for one client. What does not fit is counted.
type queue struct {
	mu    sync.Mutex
	bytes []byte // frames, whole
	spare []byte // the other buffer, taken turn by turn
	seq   uint64 // of the last record, queued or lost
	lost  uint64
	fresh bool // something was lost since the last batch
	wake  chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// push numbers an encoded record and queues it. It never waits for the reader.
func (q *queue) push(record []byte) {
	q.mu.Lock()
	q.seq++
	if len(q.bytes)+len(record)+5 > queueBytes {
		q.lost++
		q.fresh = true
	} else {
		at := len(q.bytes) + 5 // the number is the record's first field
		q.bytes = qemutcg.AppendFrame(q.bytes, qemutcg.FrameRecord, record)
		binary.LittleEndian.PutUint64(q.bytes[at:], q.seq)
	}
	q.mu.Unlock()
	q.signal()
}

// frame queues a frame that is not a record, whatever the room.
func (q *queue) frame(t qemutcg.FrameType, payload []byte) {
	q.mu.Lock()
	q.bytes = qemutcg.AppendFrame(q.bytes, t, payload)
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take gives all that is queued and, when something was lost, the number up to
// which everything has been queued or lost. The bytes are good until the next
// take.
func (q *queue) take() (frames []byte, lost qemutcg.Lost) {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames = q.bytes
	q.bytes, q.spare = q.spare[:0], frames
	if q.fresh {
		lost.Through, q.fresh = q.seq, false
	}
	return frames, lost
}

func (q *queue) counts() (records, lost uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.seq, q.lost
}
