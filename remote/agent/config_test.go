package agent

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

const wholeConfig = `
name = "host1"
state = "state"

[verifier]
address = "https://127.0.0.1:8443"
fingerprint = "aa"

[tpm]
path = "tpm.sock"
event_log = "-"

[[target]]
name = "vm1"
qmp = "qmp.sock"

[target.bmc]
socket = "bmc.sock"
listen = "127.0.0.1:623"

[[target.bmc.user]]
name = "verifier"
password_file = "password"

[target.watch]
enabled = true
rules = "rules.toml"
source = "disk"
every = "2s"
resets = "qmp2.sock"

[target.files]
disks   = ["vm1.qcow2"]
backing = ["images"]
`

func TestParseConfigResolvesPaths(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig([]byte(wholeConfig), dir)
	if err != nil {
		t.Fatal(err)
	}
	if f := c.Targets[0].Files; f.Disks[0] != filepath.Join(dir, "vm1.qcow2") || f.Backing[0] != filepath.Join(dir, "images") {
		t.Errorf("paths: %+v", f)
	}
	if c.TPM.Path != filepath.Join(dir, "tpm.sock") || c.TPM.EventLog != "-" || c.Targets[0].Watch.Rules != filepath.Join(dir, "rules.toml") {
		t.Errorf("paths: %+v", c)
	}
	if every, err := c.Targets[0].Watch.every(); err != nil || every != 2*time.Second || c.Targets[0].Watch.Source != WatchDisk || c.Targets[0].Watch.Resets != filepath.Join(dir, "qmp2.sock") {
		t.Errorf("watch %+v, %v", c.Targets[0].Watch, err)
	}
	users, err := c.Targets[0].BMC.users()
	if err != nil || users[0].Password != "secret" {
		t.Errorf("users %+v, %v", users, err)
	}
}

// The configuration in docs/agent.md is one, and names every key that there is.
func TestDocumentedConfig(t *testing.T) {
	page, err := os.ReadFile("../../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(page), "```toml\n")
	text, _, _ = strings.Cut(text, "```")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "vm1.bmc-password"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := ParseConfig([]byte(text), dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Targets) != 1 || !c.Targets[0].Watch.Enabled || c.Targets[0].Files.FullEvery != 24 {
		t.Errorf("targets %+v", c.Targets)
	}
	for _, key := range keys(reflect.TypeFor[Config]()) {
		if !regexp.MustCompile(`(^|[^a-z_])` + key + `( +=|\])`).MatchString(text) {
			t.Errorf("the key %q is not in docs/agent.md", key)
		}
	}
}

// keys are those of a struct's TOML, and of the structs in it.
func keys(of reflect.Type) (out []string) {
	for of.Kind() == reflect.Slice {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct {
		return nil
	}
	for i := range of.NumField() {
		f := of.Field(i)
		out = append(append(out, f.Tag.Get("toml")), keys(f.Type)...)
	}
	return out
}

func TestParseConfigRefuses(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "password"), []byte("secret\n"), 0o600)
	for name, c := range map[string]struct{ old, new, want string }{
		"an unknown key":      {`name = "host1"`, "name = \"host1\"\nintervall = 3", "intervall"},
		"no name":             {`name = "host1"`, "", "name"},
		"no state":            {`state = "state"`, "", "state is missing"},
		"plain HTTP":          {"https://", "http://", "verifier.address"},
		"no trust":            {`fingerprint = "aa"`, "", "verifier.ca or verifier.fingerprint"},
		"a guest with VMs":    {`name = "host1"`, "name = \"host1\"\nrole = \"guest\"", "role guest"},
		"an unknown role":     {`name = "host1"`, "name = \"host1\"\nrole = \"boss\"", "role"},
		"two of a name":       {`name = "vm1"`, `name = "host1"`, "taken"},
		"a target without VM": {`qmp = "qmp.sock"`, "", "qmp is missing"},
		"a bad listener":      {`listen = "127.0.0.1:623"`, `listen = "somewhere"`, "listen"},
		"no password":         {`password_file = "password"`, "", "no password"},
		"a long password":     {`password_file = "password"`, `password = "123456789012345678901"`, "up to 20"},
		"a long name":         {`name = "verifier"`, `name = "12345678901234567"`, "1 to 16 bytes"},
		"an unknown level":    {`password_file = "password"`, "password = \"x\"\nprivilege = \"king\"", "privilege"},
		"overlays of no disk": {`disks   = ["vm1.qcow2"]`, "", "no disks"},
		"an unknown source":   {`source = "disk"`, `source = "plugin"`, `target vm1: watch: no source of file operations: source "plugin"`},
		"no time":             {`every = "2s"`, `every = "often"`, "every"},
		"looks without end":   {`every = "2s"`, `every = "1ms"`, "want 10ms to 1h"},
		"looks by the plugin": {`source = "disk"`, `source = "trap"`, ErrEveryWithTrap.Error()},
		"looks by default":    {`source = "disk"`, ``, ErrEveryWithTrap.Error()},
		"resets by trap":      {"source = \"disk\"\nevery = \"2s\"", `source = "trap"`, ErrResetsWithTrap.Error()},
		"one monitor":         {`resets = "qmp2.sock"`, `resets = "qmp.sock"`, ErrSameMonitor.Error()},
		"no TOML":             {`[verifier]`, "[verifier", ""},
	} {
		_, err := ParseConfig([]byte(strings.Replace(wholeConfig, c.old, c.new, 1)), dir)
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
