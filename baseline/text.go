package baseline

import (
	"bytes"
	"crypto/sha256"
	"regexp"
	"sync"
	"unicode/utf8"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Bounds on kept text: of one file and of all files of a baseline. The second
// holds in the order of paths, so that the same objects give the same baseline.
const (
	MaxText      = 64 << 10
	MaxTextTotal = 16 << 20
)

// Text is what a baseline keeps of a file's content so that a change can be
// shown: the content, or why there is none.
type Text struct {
	State   TextState
	Content []byte // for TextKept
}

// TextState says whether content is kept.
type TextState uint8

// The states. TextNone: no rule asked.
const (
	TextNone TextState = iota
	TextKept
	TextTooLarge
	TextBinary
	TextSecret
	TextNoRoom
	textEnd
)

var textReasons = [...]string{
	TextNone:     "was not kept: no rule asks for it (diff = true)",
	TextKept:     "kept",
	TextTooLarge: "was not kept: it is longer than 64 KiB",
	TextBinary:   "was not kept: it is not text",
	TextSecret:   "was not kept: it looks like a private key or a password's hash",
	TextNoRoom:   "was not kept: the baseline holds 16 MiB of text already",
}

func (s TextState) String() string { return textReasons[s] }

// secret is what no diff should show even where nobody thought of nodiff:
// private keys in PEM, and hashes as crypt(5) makes them ("$6$salt$...").
func secret(content []byte) bool {
	if bytes.Contains(content, []byte("PRIVATE KEY-----")) {
		return true
	}
	for at := 0; ; at++ {
		i := bytes.IndexByte(content[at:], '$')
		if i < 0 {
			return false
		}
		if at += i; cryptPrefix().Match(content[at:min(len(content), at+16)]) {
			return true
		}
	}
}

var cryptPrefix = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\$(1|2[abxy]?|5|6|7|y|gy|sha1|md5|argon2[a-z]*)\$[./0-9A-Za-z]`)
})

// keepText says what to keep of a content.
func keepText(content []byte) Text {
	switch {
	case len(content) > MaxText:
		return Text{State: TextTooLarge}
	case bytes.IndexByte(content, 0) >= 0 || !utf8.Valid(content):
		return Text{State: TextBinary}
	case secret(content):
		return Text{State: TextSecret}
	}
	return Text{TextKept, bytes.Clone(content)}
}

// appendText encodes t: its state, then the content if it is kept.
func appendText(b []byte, t *Text) []byte {
	b = append(b, byte(t.State))
	if t.State == TextKept {
		b = appendBytes(b, t.Content)
	}
	return b
}

func (d *decoder) text() Text {
	t := Text{State: TextState(d.take(1)[0])}
	if t.State == TextNone || t.State >= textEnd {
		d.bad = true
		return Text{}
	}
	if t.State == TextKept {
		content := d.bytes()
		d.bad = d.bad || len(content) > MaxText
		t.Content = bytes.Clone(content)
	}
	return t
}

// trueText says that kept content is the one the record's digest is of.
func (r *Record) trueText() bool {
	if r.Text.State != TextKept {
		return true
	}
	same, known := r.SameContent(blake3.Sum256(r.Text.Content), sha256.Sum256(r.Text.Content))
	return same && known
}

// textBudget takes kept text away from where the baseline has had enough.
type textBudget struct {
	total   int
	encoded []byte
	scratch []byte
}

// limitText is add within the bound on all kept text.
func limitText(add func(encoded []byte) error) func(encoded []byte) error {
	var budget textBudget
	return func(encoded []byte) error {
		encoded, err := budget.apply(encoded)
		if err != nil {
			return err
		}
		return add(encoded)
	}
}

// apply gives the encoded record as it is to be written.
func (t *textBudget) apply(encoded []byte) ([]byte, error) {
	plain, err := body(encoded)
	if err != nil {
		return nil, err
	}
	if _, has, ok := kindOf(plain); ok && has&hasText == 0 {
		return encoded, nil
	}
	r, err := decodeRecord(plain)
	if err != nil {
		return nil, err
	}
	if t.total += len(r.Text.Content); t.total <= MaxTextTotal {
		return encoded, nil
	}
	if r.Text.State == TextKept {
		r.Text = Text{State: TextNoRoom}
	}
	t.encoded = appendRecord(t.encoded[:0], r, &t.scratch)
	return t.encoded, nil
}

// textDiff fills in what a change did to a file's text, or why that cannot be
// shown.
func textDiff(c *Change, sealed bool) {
	file := func(r *Record) bool { return r != nil && r.Type == filewatch.TypeFile }
	switch {
	case !file(c.Old) && !file(c.New):
		return
	case c.Old != nil && c.New != nil && !c.Attributes.Has("blake3") && !c.Attributes.Has("sha256") && !c.Attributes.Has("growing"):
		return // its content did not change, or nobody knows
	case sealed:
		c.NoDiff = "nodiff: its content may be secret"
		return
	}
	text := func(r *Record, when string) []byte {
		switch {
		case !file(r):
		case r.Text.State != TextKept:
			c.NoDiff = "the " + when + " content " + r.Text.State.String()
		case !r.trueText():
			c.NoDiff = "the " + when + " text is not the one its digest is of"
		}
		if r == nil {
			return nil
		}
		return r.Text.Content
	}
	new := text(c.New, "new")
	old := text(c.Old, "old")
	if c.NoDiff == "" {
		c.Diff, c.NoDiff = unifiedDiff(c.Path, old, new)
	}
}
