package baseline

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// The file: magic, nonce (16 bytes), binding (32), then records, each as length of
// the body (4 bytes, little-endian), body, MAC (16 bytes). The first record is
// empty: it is the header's MAC. A body starts with its kind.
//
// A MAC is BLAKE3 under a key that depends on the file's key, nonce and binding, of
// the body's offset (8 bytes, little-endian) and the body. So no record can be
// moved, left out or taken from another file, but for the last ones.
const (
	progressMagic = "plumbline progress 1\n"
	progressHead  = len(progressMagic) + 16 + 32
	macSize       = 16
)

// Kinds of records.
const (
	headRecord    = 'h'
	partRecord    = 'p' // JSON of a ProgressPart
	contentRecord = 'c'
)

// What is held back of a file's records before they are written: so much is lost
// at most when the process is killed.
const (
	progressBytes = 64 << 10
	progressTime  = 500 * time.Millisecond
)

func bindingOf(parts []string) [32]byte {
	var b []byte
	for _, part := range parts {
		b = appendBytes(b, part)
	}
	return blake3.Sum256(b)
}

type progressMAC struct {
	h   *blake3.Hasher
	sum [32]byte
}

func newProgressMAC(key ProgressKey, nonce, bind []byte) *progressMAC {
	var derived [32]byte
	outer, _ := blake3.NewKeyed(key[:]) // fails for other lengths only
	outer.Write(nonce)
	outer.Write(bind)
	outer.Sum(derived[:0])
	inner, _ := blake3.NewKeyed(derived[:])
	return &progressMAC{h: inner}
}

// of is valid until the next call.
func (m *progressMAC) of(at int64, body []byte) []byte {
	m.h.Reset()
	m.h.Write(binary.LittleEndian.AppendUint64(nil, uint64(at)))
	m.h.Write(body)
	return m.h.Sum(m.sum[:0])[:macSize]
}

// start begins a new file, which Begin writes.
func (p *Progress) start() {
	p.out = append(p.out[:0], progressMagic...)
	p.out = append(p.out, make([]byte, 16)...)
	nonce := p.out[len(progressMagic):]
	rand.Read(nonce)
	p.mac = newProgressMAC(p.key, nonce, p.bind[:])
	p.out = append(p.out, p.bind[:]...)
	p.end = 0
	p.append(headRecord, nil)
}

// append adds a record; p.mu is held.
func (p *Progress) append(kind byte, text []byte) {
	if p.err != nil || p.file == nil {
		return
	}
	at := p.end + int64(len(p.out))
	body := append([]byte{kind}, text...)
	p.out = binary.LittleEndian.AppendUint32(p.out, uint32(len(body)))
	p.out = append(append(p.out, body...), p.mac.of(at, body)...)
	if len(p.out) >= progressBytes || time.Since(p.flushed) > progressTime {
		p.flush()
	}
}

// flush writes what is held back; p.mu is held.
func (p *Progress) flush() {
	p.flushed = time.Now()
	if p.err != nil || len(p.out) == 0 {
		return
	}
	_, p.err = p.file.WriteAt(p.out, p.end)
	p.end += int64(len(p.out))
	p.out = p.out[:0]
}

// load reads what an earlier scan left. The error says why it is of no use.
func (p *Progress) load(size int64) error {
	if size == 0 {
		return nil
	}
	r := progressReader{r: bufio.NewReaderSize(io.NewSectionReader(p.file, 0, size), 256<<10), left: size}
	if err := r.head(p); err != nil {
		return err
	}
	for {
		at := r.at
		body, err := r.next(p.mac)
		if errors.Is(err, errTornEnd) {
			break
		}
		if err == nil {
			err = p.take(at, body)
		}
		if err != nil {
			return err
		}
		p.end = r.at
	}
	if len(p.parts) == 0 {
		p.Drop("")
		return nil
	}
	slices.SortFunc(p.index, compareProgress)
	return nil
}

// take takes one record of an earlier scan.
func (p *Progress) take(at int64, body []byte) error {
	switch kind, text := body[0], body[1:]; {
	case at == int64(progressHead):
		if kind != headRecord || len(text) > 0 {
			return ErrDamaged
		}
	case kind == partRecord:
		var part ProgressPart
		if err := json.Unmarshal(text, &part); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		p.parts = append(p.parts, part)
	case kind == contentRecord && len(p.parts) > 0:
		c, err := decodeContent(text)
		if err != nil {
			return err
		}
		volume, ok := p.volumes[c.record.Volume]
		if !ok {
			volume = uint32(len(p.volumes))
			p.volumes[c.record.Volume] = volume
		}
		p.index = append(p.index, progressEntry{volume, c.record.Inode, at})
	default:
		return ErrDamaged
	}
	return nil
}

func compareProgress(a, b progressEntry) int {
	return cmp.Or(cmp.Compare(a.volume, b.volume), cmp.Compare(a.inode, b.inode), cmp.Compare(a.at, b.at))
}

// readAt reads a content's record once more, and verifies it once more.
func (p *Progress) readAt(at int64) ([]byte, error) {
	r := progressReader{r: io.NewSectionReader(p.file, at, math.MaxInt64-at), at: at, left: math.MaxInt64 - at}
	p.mu.Lock()
	defer p.mu.Unlock()
	body, err := r.next(p.mac)
	if err != nil || body[0] != contentRecord {
		return nil, errors.Join(err, ErrDamaged)
	}
	return body[1:], nil
}

// errTornEnd: the file ends within a record.
var errTornEnd = errors.New("the end is torn")

// errForged: a record's MAC is wrong.
var errForged = errors.New("it is damaged, or someone without the key wrote it")

// progressReader reads records in order.
type progressReader struct {
	r    io.Reader
	at   int64
	left int64 // in the file from at on
	body []byte
}

// head reads what comes before the records.
func (r *progressReader) head(p *Progress) error {
	var head [progressHead]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	magic, nonce, bind := head[:len(progressMagic)], head[len(progressMagic):len(head)-32], head[len(head)-32:]
	if string(magic) != progressMagic {
		return fmt.Errorf("%w: no progress file of this version", ErrDamaged)
	}
	if !bytes.Equal(bind, p.bind[:]) {
		return errors.New("it is of a scan of another machine, with other rules or against another baseline")
	}
	p.mac = newProgressMAC(p.key, nonce, bind)
	r.at, r.left = int64(progressHead), r.left-int64(progressHead)
	return nil
}

// next gives the next body, which is not empty and valid until the next call.
func (r *progressReader) next(mac *progressMAC) ([]byte, error) {
	const around = 4 + macSize
	var length [4]byte
	if r.left < around {
		return nil, errTornEnd
	}
	if _, err := io.ReadFull(r.r, length[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	n := int64(binary.LittleEndian.Uint32(length[:]))
	if n > r.left-around {
		return nil, errTornEnd
	}
	if n == 0 || n > maxRecord {
		return nil, errForged
	}
	r.body = slices.Grow(r.body[:0], int(n+macSize))[:n+macSize]
	if _, err := io.ReadFull(r.r, r.body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	body, got := r.body[:n], r.body[n:]
	if !bytes.Equal(mac.of(r.at, body), got) {
		return nil, errForged
	}
	r.at, r.left = r.at+around+n, r.left-around-n
	return body, nil
}

// progressContent is a content that was read: where it was, and a record with what
// its object is, digests and text.
type progressContent struct {
	place  [32]byte
	kept   bool // it begins with the baseline's, of a growing file
	record Record
}

// append encodes: place, kept (1 byte), then volume, inode, generation, size, what
// of the rest there is, BLAKE3, SHA-256, text, as in a record.
func (c *progressContent) append(b []byte) []byte {
	r := &c.record
	b = append(b, c.place[:]...)
	if c.kept {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = appendBytes(b, r.Volume)
	b = binary.BigEndian.AppendUint64(b, r.Inode)
	b = binary.BigEndian.AppendUint32(b, r.Generation)
	b = binary.AppendUvarint(b, uint64(r.Size))
	has := r.presence() & (hasBLAKE3 | hasSHA256 | hasText)
	b = binary.AppendUvarint(b, has)
	if has&hasBLAKE3 != 0 {
		b = append(b, r.BLAKE3[:]...)
	}
	if has&hasSHA256 != 0 {
		b = append(b, r.SHA256[:]...)
	}
	if has&hasText != 0 {
		b = appendText(b, &r.Text)
	}
	return b
}

func decodeContent(b []byte) (*progressContent, error) {
	d := decoder{rest: b}
	c := &progressContent{place: [32]byte(d.take(32)), kept: d.take(1)[0] == 1}
	r := &c.record
	r.Type = filewatch.TypeFile
	r.Volume = string(d.bytes())
	r.Inode = binary.BigEndian.Uint64(d.take(8))
	r.Generation = binary.BigEndian.Uint32(d.take(4))
	r.Size = int64(d.uvarint(math.MaxInt64))
	has := d.uvarint(math.MaxUint16)
	if has&hasBLAKE3 != 0 {
		r.BLAKE3 = Digest(d.take(32))
	}
	if has&hasSHA256 != 0 {
		r.SHA256 = Digest(d.take(32))
	}
	if has&hasText != 0 {
		r.Text = d.text()
	}
	if d.bad || len(d.rest) != 0 || has != r.presence() {
		return nil, fmt.Errorf("content of inode %d: %w", r.Inode, ErrDamaged)
	}
	return c, nil
}
