package check

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// Memo keeps what judgements make of the kernel's files, such as modules linked
// to where a target has them, and checks that passed, for judgements of
// observations that say the same of it. It only saves work. It is safe for concurrent use.
type Memo struct {
	mu       sync.Mutex
	kept     []keptText // latest last
	verdicts []verdict  // likewise
}

type keptText struct {
	image *kernel.Image
	of    Digest
	text  *expectedText
}

// maxKeptTexts bounds a [Memo]. Each takes up to 50 MB, once pages are explained
// by it.
const maxKeptTexts = 4

// take returns what was made of the same, and keeps it no longer: the caller
// changes it.
func (m *Memo) take(image *kernel.Image, of Digest) *expectedText {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.kept, func(k keptText) bool { return k.image == image && k.of == of })
	if i < 0 {
		return nil
	}
	text := m.kept[i].text
	m.kept = slices.Delete(m.kept, i, i+1)
	text.env.Reset()
	return text
}

// put keeps what a judgement has finished with.
func (m *Memo) put(image *kernel.Image, of Digest, text *expectedText) {
	if m == nil || text == nil || text.err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.kept) == maxKeptTexts {
		m.kept = slices.Delete(m.kept, 0, 1)
	}
	m.kept = append(m.kept, keptText{image, of, text})
}

// environment stands for all that decides what the text of the kernel and its
// modules should be, and how it may have been changed, besides the image and the
// place of the kernel: what was observed of the text, of code made at run time and
// of the modules, and the modules' files.
func (j *judging) environment() Digest {
	if j.environmentDigest != (Digest{}) {
		return j.environmentDigest
	}
	var b []byte
	add := func(part []byte) { b = append(binary.LittleEndian.AppendUint64(b, uint64(len(part))), part...) }
	for _, name := range expectedItems {
		add(j.expectedFrom(name))
	}
	for i := range j.code.modules {
		file, err := j.moduleFile(&j.code.modules[i])
		if err != nil {
			add([]byte(err.Error()))
		} else {
			add(file.Digest[:])
		}
	}
	j.environmentDigest = DigestOf(b)
	return j.environmentDigest
}

// moduleFile returns the file of a module.
func (j *judging) moduleFile(m *moduleFact) (*kernel.ModuleFile, error) {
	if j.refs.Modules == nil {
		return nil, errNoModules
	}
	file, err := j.refs.Modules.Module(m.Name, m.BuildID)
	if err == nil && file == nil {
		err = errors.New("no file was given")
	}
	return file, err
}

// wholeKey stands for a region whose pages were all judged clean by a check, with
// nothing to tell of any, in this environment.
func (j *judging) wholeKey(check string, r *region) PageKey {
	environment := j.environment()
	anchor := binary.LittleEndian.AppendUint64(append([]byte("whole "), environment[:]...), uint64(r.Start))
	return j.pageKey(check, DigestOf(r.Digests), append(anchor, r.Name...))
}
