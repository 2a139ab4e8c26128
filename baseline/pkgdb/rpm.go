package pkgdb

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/ulikunitz/xz/lzma"
	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// Tags of the signature header (rpm 4.18, rpm/rpmtag.h).
const (
	sigDSA    = 267 // OpenPGP signature of the header: DSA, ECDSA or EdDSA
	sigRSA    = 268 // the same with RSA
	sigSHA256 = 273 // of the header, in hex
)

// Tags of the header.
const (
	tagName              = 1000
	tagVersion           = 1001
	tagRelease           = 1002
	tagEpoch             = 1003
	tagFileSizes         = 1028
	tagFileModes         = 1030
	tagFileDigests       = 1035
	tagFileLinkTos       = 1036
	tagFileFlags         = 1037
	tagFileUserName      = 1039
	tagFileGroupName     = 1040
	tagDirIndexes        = 1116
	tagBaseNames         = 1117
	tagDirNames          = 1118
	tagPayloadCompressor = 1125
	tagLongFileSizes     = 5008
	tagFileCaps          = 5010
	tagFileDigestAlgo    = 5011
)

const (
	rpmFileConfig = 1 << 0
	rpmFileGhost  = 1 << 6
	rpmDigestSHA2 = 8 // PGPHASHALGO_SHA256
)

// ReadRPM reads a package. The digests of files come from its header, which is
// what packages sign; the payload is read for the BLAKE3 of the contents whose
// SHA-256 the header has. With a ring, a header that no key of it signed is
// [ErrUnsigned].
func ReadRPM(r io.Reader, ring *Keyring) (*Package, error) {
	in := bufio.NewReader(r)
	lead := make([]byte, rpmLead)
	if _, err := io.ReadFull(in, lead); err != nil || !bytes.Equal(lead[:4], rpmLeadMagic) {
		return nil, ErrNotPackage
	}
	signatures, err := readRPMHeader(in)
	if err != nil {
		return nil, err
	}
	if pad := -len(signatures.raw) & 7; pad > 0 {
		if _, err := in.Discard(pad); err != nil {
			return nil, fmt.Errorf("%w: ends after the signatures", ErrNotPackage)
		}
	}
	header, err := readRPMHeader(in)
	if err != nil {
		return nil, err
	}
	p := &Package{Files: map[string]File{}, Voucher: operatorsWord}
	if err := signatures.checkDigest(header.raw); err != nil {
		return nil, err
	}
	if ring != nil {
		if p.Voucher, err = signatures.verify(header.raw, ring); err != nil {
			return nil, err
		}
	}
	if err := p.readRPMFiles(header); err != nil {
		return nil, err
	}
	if err := p.readPayload(header, in); err != nil {
		return nil, err
	}
	return p, nil
}

// checkDigest finds a header that was damaged on the way; it proves nothing else.
func (h *rpmHeader) checkDigest(header []byte) error {
	want, err := h.strings(sigSHA256)
	if err != nil || len(want) == 0 {
		return err
	}
	if sum := sha256.Sum256(header); hex.EncodeToString(sum[:]) != want[0] {
		return fmt.Errorf("%w: its header is damaged", ErrNotPackage)
	}
	return nil
}

// verify wants one good signature of the header.
func (h *rpmHeader) verify(header []byte, ring *Keyring) (voucher string, err error) {
	err = fmt.Errorf("%w: no signature of the header", ErrUnsigned)
	for _, tag := range []uint32{sigRSA, sigDSA} {
		sig, errSig := h.bytes(tag)
		if errSig != nil {
			return "", errSig
		}
		if len(sig) == 0 {
			continue
		}
		var signer string
		if signer, err = ring.verify(header, sig); err == nil {
			return "signed by " + signer, nil
		}
	}
	return "", err
}

// rpmFiles are the header's parallel arrays about files.
type rpmFiles struct {
	base, dir, digest, link, user, group, caps []string
	dirAt, mode, size, flags                   []uint64
}

func (h *rpmHeader) files() (*rpmFiles, error) {
	var f rpmFiles
	for _, s := range []struct {
		tag uint32
		to  *[]string
	}{{tagBaseNames, &f.base}, {tagDirNames, &f.dir}, {tagFileDigests, &f.digest}, {tagFileLinkTos, &f.link},
		{tagFileUserName, &f.user}, {tagFileGroupName, &f.group}, {tagFileCaps, &f.caps}} {
		var err error
		if *s.to, err = h.strings(s.tag); err != nil {
			return nil, err
		}
	}
	sizes := uint32(tagFileSizes)
	if _, long := h.entries[tagLongFileSizes]; long {
		sizes = tagLongFileSizes
	}
	for _, n := range []struct {
		tag uint32
		to  *[]uint64
	}{{tagDirIndexes, &f.dirAt}, {tagFileModes, &f.mode}, {sizes, &f.size}, {tagFileFlags, &f.flags}} {
		var err error
		if *n.to, err = h.numbers(n.tag); err != nil {
			return nil, err
		}
	}
	n := len(f.base)
	if len(f.caps) == 0 { // none of them has any
		f.caps = make([]string, n)
	}
	for _, m := range []int{len(f.digest), len(f.link), len(f.user), len(f.group), len(f.caps), len(f.dirAt), len(f.mode), len(f.size), len(f.flags)} {
		if m != n {
			return nil, fmt.Errorf("%w: lists of files of %d and %d", ErrNotPackage, n, m)
		}
	}
	for _, at := range f.dirAt {
		if at >= uint64(len(f.dir)) {
			return nil, fmt.Errorf("%w: directory %d of %d", ErrNotPackage, at, len(f.dir))
		}
	}
	return &f, nil
}

// readRPMFiles takes name, version and files.
func (p *Package) readRPMFiles(h *rpmHeader) error {
	var words [3]string
	for i, tag := range []uint32{tagName, tagVersion, tagRelease} {
		value, err := h.strings(tag)
		if err != nil || len(value) != 1 {
			return fmt.Errorf("%w: it has no name or version", ErrNotPackage)
		}
		words[i] = value[0]
	}
	p.Name, p.Version = words[0], words[1]+"-"+words[2]
	if epoch, err := h.numbers(tagEpoch); err == nil && len(epoch) == 1 {
		p.Version = fmt.Sprintf("%d:%s", epoch[0], p.Version)
	}
	files, err := h.files()
	if err != nil {
		return err
	}
	algorithm, err := h.numbers(tagFileDigestAlgo)
	if err != nil {
		return err
	}
	sha2 := len(algorithm) == 1 && algorithm[0] == rpmDigestSHA2
	for i := range files.base {
		if files.flags[i]&rpmFileGhost != 0 {
			continue // not in the package
		}
		f := File{Mode: uint16(files.mode[i] & 0o7777), Type: filewatch.TypeOf(uint32(files.mode[i])), Size: int64(files.size[i]),
			Link: files.link[i], Conffile: files.flags[i]&rpmFileConfig != 0,
			// Users are by name, and names are the guest's to give.
			OwnerUnknown: files.user[i] != "root" || files.group[i] != "root"}
		if caps := files.caps[i]; caps != "" && caps != "=" && f.Type == filewatch.TypeFile {
			if f.Capabilities, err = fileCapabilities(caps); err != nil {
				f.CapabilitiesUnknown = true // such a file is not explained
			}
		}
		if f.Type == filewatch.TypeFile && sha2 && files.digest[i] != "" {
			if f.SHA256, err = parseDigest(files.digest[i]); err != nil {
				return fmt.Errorf("%w: %w", ErrNotPackage, err)
			}
		}
		p.Files[path.Clean("/"+files.dir[files.dirAt[i]]+files.base[i])] = f
	}
	return nil
}

// readPayload finds the BLAKE3 of each content that the header vouches for.
func (p *Package) readPayload(h *rpmHeader, in io.Reader) error {
	names, err := h.strings(tagPayloadCompressor)
	if err != nil {
		return err
	}
	plain, err := rpmPayload(strings.Join(names, ""), in)
	if err != nil {
		return fmt.Errorf("read payload: %w", err)
	}
	files, err := h.files()
	if err != nil {
		return err
	}
	for i := range files.size {
		if t := filewatch.TypeOf(uint32(files.mode[i])); t != filewatch.TypeFile && t != filewatch.TypeSymlink {
			files.size[i] = 0 // has no content in the archive, whatever its size says
		}
	}
	digests := map[baseline.Digest]baseline.Digest{}
	err = eachCPIO(io.LimitReader(plain, maxContent), files.size, func(content io.Reader) error {
		long, short := blake3.New(), sha256.New()
		if _, err := io.Copy(io.MultiWriter(long, short), content); err != nil {
			return err
		}
		digests[baseline.Digest(short.Sum(nil))] = baseline.Digest(long.Sum(nil))
		return nil
	})
	if err != nil {
		return fmt.Errorf("read payload: %w", err)
	}
	for name, f := range p.Files {
		f.BLAKE3 = digests[f.SHA256]
		p.Files[name] = f
	}
	return nil
}

func rpmPayload(compressor string, in io.Reader) (io.Reader, error) {
	switch compressor {
	case "", "gzip":
		return decompress("x.gz", in)
	case "xz":
		return decompress("x.xz", in)
	case "zstd":
		return decompress("x.zst", in)
	case "bzip2":
		return bzip2.NewReader(in), nil
	case "lzma":
		return lzma.NewReader(in)
	}
	return nil, fmt.Errorf("%w: compression %q", ErrNotPackage, compressor)
}
