// Package aide turns AIDE's configuration into rules.
//
// The language is that of aide.conf(5) of AIDE 0.18 and 0.19. What cannot be said
// in rules is refused by name, never dropped in silence: programs to run
// (@@x_include), attributes that are not kept (access time, blocks), types of file
// systems, expressions that RE2 does not have.
package aide

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Options steer an import. The zero value reads the host's own files.
type Options struct {
	// Root is put before the paths of included files.
	Root string
	// Outputs is a directory with what programs have printed, by the programs'
	// names: read where AIDE would run the program.
	Outputs string
	// Defines are macros from outside, like AIDE's --before.
	Defines map[string]string
	// Hostname is what @@if hostname is compared with, and @@{HOSTNAME}.
	Hostname string
	// Release is the AIDE that the configuration is for. Where it is not given, lines
	// are taken as [Release019] takes them, and those that [Release018] takes otherwise
	// are named among [Config.Refused].
	Release Release
}

// Refusal is a line that was not taken over, or not all of it.
type Refusal struct {
	File   string
	Line   int
	Text   string
	Reason string
}

func (r Refusal) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", r.File, r.Line, r.Reason, r.Text)
}

// Config is an imported configuration.
type Config struct {
	Refused []Refusal

	options  *Options
	defines  map[string]string
	groups   map[string]attributes
	negative []rule
	positive []rule
	branches []branch // open @@if
	depth    int
	prefix   string // of the rules of an @@include
	blind    bool   // a program was left out
}

// rule is one selection line.
type rule struct {
	regex string
	equal bool // "=": only this, not what is below
	types []string
	set   attributes
	where string
	node  int // depth of the literal directory at the beginning
}

type branch struct{ taken, live bool }

// Bounds on a configuration.
const (
	maxInclude = 16
	maxFile    = 4 << 20
	maxExpand  = 64 << 10
)

// Import reads an aide.conf with what it includes.
func Import(path string, o *Options) (*Config, error) {
	if o == nil {
		o = &Options{}
	}
	c := &Config{options: o, defines: map[string]string{}, groups: builtin()}
	maps.Copy(c.defines, o.Defines)
	if err := c.file(path); err != nil {
		return nil, fmt.Errorf("import %s: %w", path, err)
	}
	if len(c.branches) > 0 {
		return nil, fmt.Errorf("import %s: @@if without @@endif", path)
	}
	if len(c.positive) == 0 {
		return nil, fmt.Errorf("import %s: no rule selects anything", path)
	}
	return c, nil
}

func (c *Config) file(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Size() > maxFile {
		return fmt.Errorf("%s has %d bytes: too many", path, info.Size())
	}
	text, err := bin.ReadFile(path, maxFile)
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := c.line(line, path, n); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	return nil
}

func (c *Config) refuse(file string, n int, text, reason string) {
	c.Refused = append(c.Refused, Refusal{file, n, text, reason})
}

// live says that no open @@if is false.
func (c *Config) live() bool {
	for _, b := range c.branches {
		if !b.live {
			return false
		}
	}
	return true
}

var assignment = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$`) })

func (c *Config) line(line, file string, n int) error {
	if strings.HasPrefix(line, "@@") && !strings.HasPrefix(line, "@@{") {
		return c.macro(line, file, n)
	}
	if !c.live() {
		return nil
	}
	line, err := c.expand(line)
	if err != nil {
		c.refuse(file, n, line, err.Error())
		return nil
	}
	switch line[0] {
	case '/', '!', '=', '-':
		if err := c.selection(line, file, n); err != nil {
			c.refuse(file, n, line, err.Error())
		}
		return nil
	}
	m := assignment().FindStringSubmatch(line)
	if m == nil {
		c.refuse(file, n, line, "not understood")
		return nil
	}
	if options[m[1]] {
		return nil // where AIDE keeps its database and how it reports
	}
	set, err := c.parse(m[2])
	if err != nil {
		c.refuse(file, n, line, err.Error())
		return nil
	}
	c.groups[m[1]] = set
	return nil
}

// options are settings that say nothing about files.
var options = map[string]bool{
	"database_in": true, "database_out": true, "database_new": true, "database": true, "database_attrs": true,
	"database_add_metadata": true, "gzip_dbout": true, "log_level": true, "verbose": true, "report_level": true,
	"report_format": true, "report_url": true, "report_base16": true, "report_detailed_init": true, "report_quiet": true,
	"report_append": true, "report_grouped": true, "report_summarize_changes": true, "report_ignore_added_attrs": true,
	"report_ignore_removed_attrs": true, "report_ignore_changed_attrs": true, "report_force_attrs": true,
	"report_ignore_e2fsattrs": true, "root_prefix": true, "acl_no_symlink_follow": true, "warn_dead_symlinks": true,
	"config_version": true, "config_check_warn_unrestricted_rules": true, "num_workers": true,
}

// macro does a line that starts with @@.
func (c *Config) macro(line, file string, n int) error {
	word, rest, _ := strings.Cut(strings.TrimSpace(line[2:]), " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "if", "ifdef", "ifndef", "ifhost", "ifnhost":
		holds, err := c.condition(word, rest)
		if err != nil {
			c.refuse(file, n, line, err.Error()+"; taken as false")
		}
		c.branches = append(c.branches, branch{holds, holds})
		return nil
	case "else", "endif":
		last := len(c.branches) - 1
		if last < 0 {
			return fmt.Errorf("@@%s without @@if", word)
		}
		if word == "endif" {
			c.branches = c.branches[:last]
		} else {
			c.branches[last].live = !c.branches[last].taken
		}
		return nil
	}
	if !c.live() {
		return nil
	}
	switch word {
	case "define":
		name, value, _ := strings.Cut(rest, " ")
		value, err := c.expand(strings.TrimSpace(value))
		if err != nil {
			c.refuse(file, n, line, err.Error())
			return nil
		}
		c.defines[name] = value
	case "undef":
		delete(c.defines, rest)
	case "include":
		return c.include(rest, file, n, false)
	case "x_include":
		return c.include(rest, file, n, true)
	case "x_include_setenv":
		// Nothing is run.
	default:
		c.refuse(file, n, line, "unknown macro")
	}
	return nil
}

func (c *Config) condition(word, rest string) (bool, error) {
	rest, err := c.expand(rest)
	if err != nil {
		return false, err
	}
	fields := strings.Fields(rest)
	not := word == "ifndef" || word == "ifnhost"
	if word == "if" {
		for len(fields) > 0 && fields[0] == "not" {
			not, fields = !not, fields[1:]
		}
	} else if strings.HasSuffix(word, "host") {
		fields = append([]string{"hostname"}, fields...)
	} else {
		fields = append([]string{"defined"}, fields...)
	}
	if len(fields) == 3 && fields[1] == "version_ge" {
		holds, err := c.versionGE(fields[0], fields[2])
		return holds != not, err
	}
	if len(fields) != 2 {
		return false, fmt.Errorf("condition %q is not understood", rest)
	}
	holds := false
	switch fields[0] {
	case "defined":
		_, holds = c.defines[fields[1]]
	case "hostname":
		holds = fields[1] == c.options.Hostname
	case "exists":
		_, err := os.Lstat(filepath.Join(c.options.Root, fields[1]))
		holds = err == nil
	default:
		return false, fmt.Errorf("condition %q is not known", fields[0])
	}
	return holds != not, nil
}

var reference = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`@@\{([A-Za-z0-9_]+)\}`) })

// expand replaces @@{NAME}. AIDE takes what is not defined for empty, and so does
// this unless a program that might have defined it was left out.
func (c *Config) expand(s string) (string, error) {
	var missing string
	out := reference().ReplaceAllStringFunc(s, func(ref string) string {
		name := ref[3 : len(ref)-1]
		value, ok := c.defines[name]
		if !ok {
			value, ok = c.predefined(name)
		}
		if !ok && (c.blind || name == "HOSTNAME") {
			missing = ref
		}
		return value
	})
	if missing != "" {
		return s, fmt.Errorf("%s is not defined", missing)
	}
	if len(out) > maxExpand {
		return s[:80], errors.New("too long after expansion")
	}
	return out, nil
}

// include reads a file, or the files of a directory whose name matches, with a
// prefix for their rules. What is executable is a program only to @@x_include.
func (c *Config) include(rest, file string, n int, programs bool) error {
	if c.depth++; c.depth > maxInclude {
		return errors.New("@@include is nested too deeply")
	}
	defer func() { c.depth-- }()
	rest, err := c.expand(rest)
	if err != nil {
		c.refuse(file, n, "@@include "+rest, err.Error())
		return nil
	}
	read := func(path string, info fs.FileInfo) error {
		if programs && info.Mode()&0o111 != 0 {
			return c.program(path, file, n)
		}
		return c.file(path)
	}
	fields := strings.Fields(rest)
	switch len(fields) {
	case 1:
		path := filepath.Join(c.options.Root, fields[0])
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return read(path, info)
	case 2, 3:
		outer := c.prefix
		if len(fields) == 3 {
			c.prefix += fields[2]
		}
		defer func() { c.prefix = outer }()
		return c.directory(fields[0], fields[1], read)
	}
	c.refuse(file, n, "@@include "+rest, "want a file, or a directory, an expression and a prefix")
	return nil
}

// program reads what a program has printed, where that was saved. Nothing is
// run: the configuration may come from the machine that is checked.
func (c *Config) program(path, file string, n int) error {
	if c.options.Outputs != "" {
		saved := filepath.Join(c.options.Outputs, filepath.Base(path))
		if _, err := os.Stat(saved); err == nil {
			return c.file(saved)
		}
	}
	c.blind = true
	c.refuse(file, n, path, "a program that AIDE would run here; run it yourself and give what it prints with --aide-outputs")
	return nil
}

func (c *Config) directory(dir, pattern string, visit func(string, fs.FileInfo) error) error {
	name, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	dir = filepath.Join(c.options.Root, dir)
	entries, err := os.ReadDir(dir) // sorted by name, as AIDE does
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && name.MatchString(e.Name()) {
			if err := visit(filepath.Join(dir, e.Name()), info); err != nil {
				return err
			}
		}
	}
	return nil
}
