package verifier

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`
listen = "0.0.0.0:8443"
names = ["verifier.example.org"]
[[group]]
name = "default"
scan_every = "30m"
[[group]]
name = "web"
policy = "web.toml"
kernels = ["/boot/vmlinuz"]
[[host]]
name = "vm1"
group = "web"
measured_by = "host1"
scan_every = "5m"
`), "/etc/plumbline")
	if err != nil {
		t.Fatal(err)
	}
	h := c.host("vm1")
	if h.Policy != "/etc/plumbline/web.toml" || h.scanEvery() != 5*time.Minute || h.Kernels[0] != "/boot/vmlinuz" || h.MeasuredBy != "host1" {
		t.Errorf("vm1: %+v", h)
	}
	if other := c.host("unheard-of"); other.scanEvery() != 30*time.Minute || other.Policy != "" {
		t.Errorf("unheard-of: %+v", other)
	}
}

func TestRefusesConfig(t *testing.T) {
	for config, says := range map[string]string{
		`lisen = "x:1"`:                               `unknown key "lisen"`,
		"[[host]]\nname=\"a\"\nkernel=[]":             "unknown key",
		`listen = "nowhere"`:                          "listen",
		`keep = "90m"`:                                "24h0m0s or more",
		"[[host]]\nname = \"../x\"":                   "not usable",
		"[[host]]\nname=\"a\"\n[[host]]\nname=\"a\"":  "named twice",
		"[[host]]\nname=\"a\"\ngroup=\"x\"":           "no group",
		"[[host]]\nname=\"a\"\nmeasured_by=\"a\"":     "measured_by is itself",
		"[[host]]\nname=\"a\"\nbmc={address=\"b\"}":   "bmc needs",
		"[[host]]\nname=\"a\"\nscan_every=\"5\"":      "missing unit",
		"[[host]]\nname=\"a\"\nscan_every=\"-5m\"":    "negative duration",
		"[[host]]\nname=\"a\"\nmeasuring_host=\"ok\"": "measuring_host",
		"[enrolment]\napproval=[\"friend\"]":          "approval",
		"[enrolment]\napproval=[\"ca\"]":              "needs ca",
		"[[enrolment.ek]]\ndigest=\"zz\"":             "digest",
		"[[group]]\nname=\"\"":                        "group",
		"= ":                                          "",
	} {
		c, err := ParseConfig([]byte(config), ".")
		if c != nil || !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want ErrConfig with %q", config, err, says)
		}
	}
}

func TestRefusesMissingReferences(t *testing.T) {
	for _, config := range []string{
		"[[host]]\nname=\"a\"\npolicy=\"none.toml\"", "[[host]]\nname=\"a\"\nkernels=[\"none\"]",
		"[[host]]\nname=\"a\"\nmodules=[\"none\"]", "[[host]]\nname=\"a\"\nrules=\"none\"",
		"[enrolment]\nca=[\"none.pem\"]", "[[alert]]\nkind=\"pigeon\"\nurl=\"x://y\"",
		"[[host]]\nname=\"a\"\nbmc={address=\"b\",username=\"u\",password_file=\"none\"}",
	} {
		c, err := ParseConfig([]byte(config), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckConfig(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v, want ErrConfig", config, err)
		}
	}
}

// A machine that nobody configured has the references of the group "default".
func TestDefaultsOfUnconfiguredMachines(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"p.toml": "name = \"all\"\n[secure_boot]\nrequired = true\n", "vmlinuz": "not a kernel"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := ParseConfig([]byte("[[group]]\nname=\"default\"\npolicy=\"p.toml\"\nkernels=[\"vmlinuz\"]\n[[host]]\nname=\"a\""), dir)
	if err != nil {
		t.Fatal(err)
	}
	v := &Verifier{config: c}
	if err := v.readReferences(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "unheard-of"} {
		if p := v.policyOf(name); p == nil || p.Name != "all" {
			t.Errorf("policy of %s: %+v", name, p)
		}
		if image, err := v.refs.of(name, nil, nil).Images.Image("00"); image != nil || err == nil {
			t.Errorf("image of %s: %v, %v", name, image, err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(twoMachines))
	f.Add([]byte("[[host]]\nname=\"a\"\n[host.bmc]\naddress=\"b\""))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data, "/")
		if (c == nil) == (err == nil) {
			t.Errorf("ParseConfig = %v, %v", c, err)
		}
		if err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("%v is no ErrConfig", err)
		}
	})
}
