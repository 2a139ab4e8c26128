package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// aptDir is a private apt configuration: its own lists and sources, nothing of
// the machine's state, so that it needs no root and can look at other suites.
type aptDir struct {
	dir     string
	sources string // deb822 file
}

// newApt makes a private apt configuration in dir for a Debian suite. The
// mirrors are those of the machine's own apt sources.
func newApt(ctx context.Context, dir, suite string) (*aptDir, error) {
	text, err := sourcesFor(suite)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	apt := &aptDir{dir: dir, sources: filepath.Join(dir, "etc", "lab.sources")}
	if err := os.WriteFile(apt.sources, []byte(text), 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		return nil, err
	}
	return apt, run(ctx, dir, "apt-get", apt.args("update")...)
}

func (a *aptDir) args(args ...string) []string {
	return append([]string{
		"-q", "-q",
		"-o", "Dir::State=" + a.dir,
		"-o", "Dir::State::status=" + filepath.Join(a.dir, "status"),
		"-o", "Dir::State::lists=" + filepath.Join(a.dir, "lists"),
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"-o", "Dir::Etc::sourcelist=" + a.sources,
		"-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::Etc::preferences=-",
		"-o", "Dir::Etc::preferencesparts=-",
		"-o", "APT::Architecture=amd64",
		"-o", "APT::Architectures=amd64",
		"-o", "APT::Sandbox::User=root", // downloads go where only we may write
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::Retries=3",
		// A mirror may be a picture of its archive from some weeks ago. The index is
		// signed all the same, and what is fetched runs in a test machine only.
		"-o", "Acquire::Check-Valid-Until=false",
	}, args...)
}

// extract downloads packages and unpacks them into dir; nothing is installed.
func (a *aptDir) extract(ctx context.Context, dir string, packages ...string) error {
	if len(packages) == 0 {
		return nil
	}
	debs, err := os.MkdirTemp(a.dir, "debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	if err := a.download(ctx, debs, packages...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	if len(files) != len(packages) {
		return fmt.Errorf("apt downloaded %d packages for %v", len(files), packages)
	}
	return unpack(ctx, dir, files)
}

// extractAll is extract of packages with all that they depend on.
func (a *aptDir) extractAll(ctx context.Context, dir string, packages ...string) error {
	install := append([]string{"-o", "Debug::NoLocking=1", "install", "--download-only", "--yes", "--no-install-recommends"}, packages...)
	if err := run(ctx, a.dir, "apt-get", a.args(install...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(a.dir, "cache/archives/*.deb"))
	if err != nil {
		return err
	}
	if len(files) < len(packages) {
		return fmt.Errorf("apt downloaded %d packages for %v", len(files), packages)
	}
	return unpack(ctx, dir, files)
}

// unpack unpacks package files into dir.
func unpack(ctx context.Context, dir string, files []string) error {
	for _, file := range files {
		if err := run(ctx, "", "dpkg-deb", "--extract", file, dir); err != nil {
			return err
		}
	}
	return nil
}

// download puts the files of packages into dir.
func (a *aptDir) download(ctx context.Context, dir string, packages ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return run(ctx, dir, "apt-get", a.args(append([]string{"download"}, packages...)...)...)
}

var (
	imageDepend = regexp.MustCompile(`(?m)^\s*\|?Depends: (linux-image-\S+)`)
	partDepend  = regexp.MustCompile(`(?m)^\s*\|?Depends: (linux-(?:base|binary|modules)-\S+)`)
)

// kernelPackages finds the package with the kernel behind a metapackage, and
// those it is split into: since 7.x vmlinuz, the
// modules and what both need have their own.
func (a *aptDir) kernelPackages(ctx context.Context, metapackage string) ([]string, error) {
	text, err := output(ctx, a.dir, "apt-cache", a.args("depends", metapackage)...)
	if err != nil {
		return nil, err
	}
	match := imageDepend.FindStringSubmatch(text)
	if match == nil {
		return nil, fmt.Errorf("%s depends on no kernel:\n%s", metapackage, text)
	}
	packages := []string{match[1]}
	if text, err = output(ctx, a.dir, "apt-cache", a.args("depends", match[1])...); err != nil {
		return nil, err
	}
	for _, part := range partDepend.FindAllStringSubmatch(text, -1) {
		packages = append(packages, part[1])
	}
	return packages, nil
}

var errNoSources = errors.New("the machine's apt sources name no Debian archive")

// source is one archive of the machine's apt configuration.
type source struct {
	uri      string
	signedBy string
}

// sourcesFor rewrites the machine's Debian sources for another suite.
func sourcesFor(suite string) (string, error) {
	archives, err := machineSources("/etc/apt")
	if err != nil {
		return "", err
	}
	main, ok := archives[""]
	if !ok {
		return "", errNoSources
	}
	var out strings.Builder
	stanza := func(s source, suites string) {
		fmt.Fprintf(&out, "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: amd64\n", s.uri, suites)
		if s.signedBy != "" {
			fmt.Fprintf(&out, "Signed-By: %s\n", s.signedBy)
		}
		out.WriteString("\n")
	}
	if suite == "sid" { // neither updates nor security
		stanza(main, suite)
		return out.String(), nil
	}
	stanza(main, suite+" "+suite+"-updates")
	if security, ok := archives["-security"]; ok {
		stanza(security, suite+"-security")
	}
	return out.String(), nil
}

// machineSources reads the machine's Debian archives: "" is the main one,
// "-security" that of security updates.
func machineSources(etc string) (map[string]source, error) {
	files, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	if err != nil {
		return nil, err
	}
	archives := make(map[string]source)
	for _, path := range append([]string{filepath.Join(etc, "sources.list")}, files...) {
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		switch filepath.Ext(path) {
		case ".list":
			readOneLineSources(string(data), archives)
		case ".sources":
			readDeb822Sources(string(data), archives)
		}
	}
	return archives, nil
}

// suites that mark an archive as Debian's own.
var debianSuite = regexp.MustCompile(`^(buster|bullseye|bookworm|trixie|forky|sid|stable|testing|unstable|oldstable)(-security|-updates)?$`)

func addSource(archives map[string]source, suite string, s source) {
	match := debianSuite.FindStringSubmatch(suite)
	if match == nil || match[2] == "-updates" {
		return
	}
	if _, taken := archives[match[2]]; !taken {
		archives[match[2]] = s
	}
}

// readOneLineSources reads sources.list(5), ONE-LINE-STYLE FORMAT.
func readOneLineSources(text string, archives map[string]source) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "deb" {
			continue
		}
		var s source
		rest := fields[1:]
		if strings.HasPrefix(rest[0], "[") {
			for len(rest) > 0 {
				word := rest[0]
				rest = rest[1:]
				if key, ok := strings.CutPrefix(strings.Trim(word, "[]"), "signed-by="); ok {
					s.signedBy = key
				}
				if strings.HasSuffix(word, "]") {
					break
				}
			}
		}
		if len(rest) < 2 {
			continue
		}
		s.uri = rest[0]
		addSource(archives, rest[1], s)
	}
}

// readDeb822Sources reads sources.list(5), DEB822-STYLE FORMAT.
func readDeb822Sources(text string, archives map[string]source) {
	stanza := make(map[string]string)
	flush := func() {
		uris := strings.Fields(stanza["uris"])
		if len(uris) > 0 && stanza["enabled"] != "no" && strings.Contains(" "+stanza["types"]+" ", " deb ") {
			for _, suite := range strings.Fields(stanza["suites"]) {
				addSource(archives, suite, source{uri: uris[0], signedBy: stanza["signed-by"]})
			}
		}
		clear(stanza)
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		default:
			if key, value, ok := strings.Cut(line, ":"); ok {
				stanza[strings.ToLower(key)] = strings.TrimSpace(value)
			}
		}
	}
	flush()
}
