package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/bougou/go-ipmi/pkg/bmc"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/oob"
	"github.com/plumbline-sec/plumbline/remote"
)

// ErrConfig marks a configuration that cannot be used.
var ErrConfig = errors.New("agent configuration")

// Config is the agent's configuration file, TOML. Relative paths are relative to
// the file. An unknown key is an error: a misspelt one would otherwise be a duty
// that silently is not done.
type Config struct {
	Name  string         `toml:"name"`  // of this machine at the verifier
	Role  remote.Role    `toml:"role"`  // "host" (default) or "guest": only its own boot
	State string         `toml:"state"` // directory for keys and the spool
	TPM   TPMConfig      `toml:"tpm"`
	At    VerifierConfig `toml:"verifier"`
	// Self has the agent measure this machine too; role host only.
	Self SelfConfig `toml:"self"`
	// Targets are the machines this one sees from outside; role host only.
	Targets []TargetConfig `toml:"target"`
}

// VerifierConfig says where the evidence goes. CA or Fingerprint is required.
type VerifierConfig struct {
	Address     string `toml:"address"`     // https://HOST:PORT
	CA          string `toml:"ca"`          // file with the verifier's authority
	Fingerprint string `toml:"fingerprint"` // of that authority, as the verifier prints it
}

// TPMConfig says which TPM speaks for this machine. An empty log path is the
// kernel's, "-" is none: a TPM that is not the machine's own has no log of it.
type TPMConfig struct {
	Path     string `toml:"path"` // default /dev/tpmrm0
	EventLog string `toml:"event_log"`
	IMALog   string `toml:"ima_log"`
	UserLog  string `toml:"user_log"`
}

// TargetConfig is one virtual machine.
type TargetConfig struct {
	Name  string      `toml:"name"`
	QMP   string      `toml:"qmp"` // path of its QMP socket
	BMC   BMCConfig   `toml:"bmc"`
	Watch WatchConfig `toml:"watch"`
	Files FilesConfig `toml:"files"`
}

// BMCConfig is the target's BMC, served by the agent when Listen is set.
type BMCConfig struct {
	Socket string       `toml:"socket"` // unix socket of QEMU's ipmi-bmc-extern
	Listen string       `toml:"listen"` // UDP address for RMCP+
	Users  []UserConfig `toml:"user"`
}

// UserConfig is one BMC login. The password is in the file or, better, in a file
// of its own.
type UserConfig struct {
	Name         string `toml:"name"`
	Password     string `toml:"password"`
	PasswordFile string `toml:"password_file"`
	Privilege    string `toml:"privilege"` // user, operator, administrator (default operator)
}

// FilesConfig says which disks hold the target's files.
type FilesConfig struct {
	Rules string   `toml:"rules"` // for baselines; default: those of watch
	Disks []string `toml:"disks"` // images; default: what QMP says
	// Backing are the directories in which images may lie that Disks name as what
	// is below them; without one an overlay is refused.
	Backing []string `toml:"backing"`
	// FullEvery has captures build on the last one where that holds, and every
	// n-th read everything; 0: each reads everything.
	FullEvery int `toml:"full_every"`
	// Resume has a capture of everything keep what it read, so that the next one
	// goes on from there when the agent ended half way.
	Resume bool `toml:"resume"`
}

// maxConfig bounds the configuration and each file that it names, in bytes.
const maxConfig = 16 << 20

// LoadConfig reads and checks the file at path and the files it names. Errors wrap
// [ErrConfig].
func LoadConfig(path string) (*Config, error) {
	data, err := bin.ReadFile(path, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	c, err := ParseConfig(data, filepath.Dir(path))
	if err == nil {
		err = c.checkFiles()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// checkFiles reads what the configuration names and the agent reads only later: a
// watch that cannot begin for a misspelt rule would show days after as files that
// nobody compared. Errors wrap [ErrConfig].
func (c *Config) checkFiles() error {
	if c.At.CA != "" {
		ca, err := bin.ReadFile(c.At.CA, maxConfig)
		if err == nil {
			_, err = remote.ParseCertificates(ca)
		}
		if err != nil {
			return fmt.Errorf("%w: verifier.ca: %w", ErrConfig, err)
		}
	}
	for _, t := range c.Targets {
		for _, rules := range []string{t.Watch.Rules, t.Files.Rules} {
			if _, err := loadRules(rules); err != nil {
				return fmt.Errorf("%w: target %s: rules: %w", ErrConfig, t.Name, err)
			}
		}
	}
	return nil
}

// ParseConfig reads and checks a configuration whose relative paths are relative
// to base. Errors wrap [ErrConfig].
func ParseConfig(data []byte, base string) (*Config, error) {
	c := &Config{Role: remote.RoleHost}
	meta, err := toml.Decode(string(data), c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("%w: unknown key %q", ErrConfig, unknown[0].String())
	}
	c.absolute(base)
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return c, nil
}

// absolute makes every path of the file independent of where the agent runs.
func (c *Config) absolute(base string) {
	paths := []*string{&c.State, &c.At.CA, &c.TPM.Path, &c.TPM.EventLog, &c.TPM.IMALog, &c.TPM.UserLog}
	for i := range c.Targets {
		t := &c.Targets[i]
		paths = append(paths, &t.QMP, &t.BMC.Socket, &t.Watch.Rules, &t.Watch.Resets, &t.Files.Rules)
		for j := range t.BMC.Users {
			paths = append(paths, &t.BMC.Users[j].PasswordFile)
		}
		for _, list := range [][]string{t.Files.Disks, t.Files.Backing} {
			for j := range list {
				paths = append(paths, &list[j])
			}
		}
	}
	for _, p := range paths {
		if *p != "" && *p != "-" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
}

func (c *Config) check() error {
	if err := remote.CheckName(c.Name); err != nil {
		return fmt.Errorf("name: %w", err)
	}
	switch c.Role {
	case remote.RoleHost:
	case remote.RoleGuest:
		if len(c.Targets) > 0 || c.Self.Enabled {
			return errors.New("role guest attests its own boot only: it can have no target and not measure itself")
		}
	default:
		return fmt.Errorf("role %q: want host or guest", c.Role)
	}
	if c.State == "" {
		return errors.New("state is missing: a directory for keys and the spool")
	}
	if !strings.HasPrefix(c.At.Address, "https://") {
		return fmt.Errorf("verifier.address %q: want https://HOST:PORT", c.At.Address)
	}
	if c.At.CA == "" && c.At.Fingerprint == "" {
		return errors.New("verifier.ca or verifier.fingerprint is missing: without one the verifier cannot be known")
	}
	if err := c.Self.check(); err != nil {
		return fmt.Errorf("self: %w", err)
	}
	return c.checkTargets()
}

func (c *Config) checkTargets() error {
	seen := map[string]bool{c.Name: true}
	for i := range c.Targets {
		t := &c.Targets[i]
		if err := remote.CheckName(t.Name); err != nil {
			return fmt.Errorf("target %d: name: %w", i+1, err)
		}
		if seen[t.Name] {
			return fmt.Errorf("target %s: the name is taken", t.Name)
		}
		seen[t.Name] = true
		if t.QMP == "" {
			return fmt.Errorf("target %s: qmp is missing", t.Name)
		}
		if err := t.BMC.check(); err != nil {
			return fmt.Errorf("target %s: bmc: %w", t.Name, err)
		}
		if err := t.Watch.check(); err != nil {
			return fmt.Errorf("target %s: watch: %w", t.Name, err)
		}
		if t.Watch.Resets == t.QMP {
			return fmt.Errorf("target %s: watch: %w", t.Name, ErrSameMonitor)
		}
		if len(t.Files.Backing) > 0 && len(t.Files.Disks) == 0 {
			return fmt.Errorf("target %s: files: backing is for overlays among disks, and there are no disks", t.Name)
		}
	}
	return nil
}

func (b *BMCConfig) check() error {
	if b.Listen == "" {
		if len(b.Users) > 0 || b.Socket != "" {
			return errors.New("listen is missing")
		}
		return nil
	}
	if _, err := netip.ParseAddrPort(b.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if len(b.Users) == 0 {
		return errors.New("no user: nobody could start a scan")
	}
	_, err := b.users()
	return err
}

// privileges are the names of IPMI privilege levels in a configuration.
var privileges = map[string]bmc.PrivilegeLevel{
	"":              bmc.PrivilegeLevelOperator,
	"user":          bmc.PrivilegeLevelUser,
	"operator":      bmc.PrivilegeLevelOperator,
	"administrator": bmc.PrivilegeLevelAdministrator,
}

// users reads the logins, passwords in files included.
func (b *BMCConfig) users() ([]oob.User, error) {
	var users []oob.User
	for _, u := range b.Users {
		level, ok := privileges[u.Privilege]
		if !ok {
			return nil, fmt.Errorf("user %s: privilege %q: want user, operator or administrator", u.Name, u.Privilege)
		}
		if u.PasswordFile != "" {
			data, err := bin.ReadFile(u.PasswordFile, maxConfig)
			if err != nil {
				return nil, fmt.Errorf("user %s: %w", u.Name, err)
			}
			u.Password = strings.TrimSpace(string(data))
		}
		if u.Password == "" {
			return nil, fmt.Errorf("user %s: no password", u.Name)
		}
		if u.Name == "" || len(u.Name) > bmc.MaxUserNameLen || len(u.Password) > bmc.MaxPasswordLen {
			return nil, fmt.Errorf("user %q: the name has 1 to %d bytes, the password up to %d", u.Name, bmc.MaxUserNameLen, bmc.MaxPasswordLen)
		}
		users = append(users, oob.User{Name: u.Name, Password: u.Password, Privilege: level})
	}
	return users, nil
}
