package check

import (
	"encoding/binary"
	"encoding/json"
	"slices"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// verdict is a check that passed, kept in a [Memo] for judgements of the same.
type verdict struct {
	image *kernel.Image
	of    Digest
	check measure.Check // with its coverage, reason and notes
}

// maxVerdicts bounds the verdicts of a [Memo]: of some targets, one for each check.
// Notes of one take up to some hundred KB, most have none.
const maxVerdicts = 128

// judge judges a check, unless it was judged before by the same facts and files.
// Only what passed is kept: bytes of pages were there and needed no other.
func (j *judging) judge(ch check, item *measure.Observation, out *measure.Check) error {
	if !ch.memo || j.refs.Memo == nil || j.image == nil {
		return ch.judge(j, item.Data, out)
	}
	key := j.verdictKey(ch.name, item)
	if j.refs.Memo.verdict(j.image, key, out) {
		return nil
	}
	err := ch.judge(j, item.Data, out)
	if err == nil && len(out.Findings) == 0 && len(j.missing) == 0 {
		j.refs.Memo.keep(verdict{j.image, key, *out})
	}
	return err
}

// verdictKey stands for all that the judge of a check with a memo may go by,
// besides the image: its own facts, those of sharedItems, which kernel it is, and
// the files of listed modules. Pages are told by their digests.
func (j *judging) verdictKey(name string, item *measure.Observation) Digest {
	environment := j.environment()
	b := append([]byte("verdict "), environment[:]...)
	add := func(part []byte) { b = append(binary.LittleEndian.AppendUint64(b, uint64(len(part))), part...) }
	add([]byte(name))
	add(item.Data)
	about, err := json.Marshal(struct {
		Kernel   measure.Kernel
		Coverage measure.Coverage
		Files    bool
	}{j.obs.Kernel, item.Coverage, j.refs.Modules != nil})
	if err != nil {
		panic(err) // numbers and strings
	}
	add(about)
	shared := j.shared()
	add(shared[:])
	return DigestOf(b)
}

// shared stands for the facts of sharedItems, and for which of them there are.
func (j *judging) shared() Digest {
	j.sharedOnce.Do(func() {
		var b []byte
		for _, name := range sharedItems {
			if item := j.obs.Item(name); item != nil {
				b = binary.LittleEndian.AppendUint64(append(b, name...), uint64(len(item.Data)))
				b = append(b, item.Data...)
			}
		}
		j.sharedDigest = DigestOf(b)
	})
	return j.sharedDigest
}

// verdict fills in what was judged of the same, if it was.
func (m *Memo) verdict(image *kernel.Image, of Digest, out *measure.Check) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.verdicts, func(v verdict) bool { return v.image == image && v.of == of })
	if i < 0 {
		return false
	}
	v := m.verdicts[i]
	m.verdicts = append(slices.Delete(m.verdicts, i, i+1), v)
	*out = v.check
	out.Notes = slices.Clone(out.Notes)
	return true
}

// keep keeps a verdict, in place of the one that was asked for longest ago.
func (m *Memo) keep(v verdict) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.verdicts) == maxVerdicts {
		m.verdicts = slices.Delete(m.verdicts, 0, 1)
	}
	v.check.Notes = slices.Clone(v.check.Notes)
	m.verdicts = append(m.verdicts, v)
}
