package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote/agent"
	"github.com/plumbline-sec/plumbline/remote/verifier"
)

const aDigest = "25144c478d5fa0f0b1c02f96060e94303907ad5a7b94d3c3d88e5d644850bf0f"

// placeholders are what a page has where a value would be long, or a file of the
// reader's; each has to be on one of the pages.
var placeholders = []struct{ page, sample string }{
	{"1f0c…", aDigest},
	{`"SHA-256 of a certificate", "..."`, `"` + aDigest + `"`},
	{`["..."]`, `["` + aDigest + `"]`},
	{`["SHA-256"]`, `["` + aDigest + `"]`},
	{"Authenticode SHA-256", aDigest},
	{"000b...", "000b" + aDigest},
	{"sha256:...", "sha256:" + aDigest},
	{`password_file = "/etc/plumbline/vm1.bmc-password"`, `password = "secret"`},
}

// TestDocumentedSamplesParse holds each piece of TOML on the pages to the parser
// that would read it, and the pages to the keys that there are. (That of
// docs/agent.md is with the agent's tests.)
func TestDocumentedSamplesParse(t *testing.T) {
	policy := func(text string) error { _, err := attest.ParsePolicy([]byte(text)); return err }
	rules := func(text string) error { _, err := filewatch.ParseRules([]byte(text)); return err }
	central := func(text string) error { _, err := verifier.ParseConfig([]byte(text), "."); return err }
	onHost := func(text string) error {
		before := "state = \"s\"\n[verifier]\naddress = \"https://v:8443\"\nfingerprint = \"aa\"\n"
		if !strings.HasPrefix(text, "name") {
			before = "name = \"host1\"\n" + before
		}
		name, rest, _ := strings.Cut(text, "\n") // keys of the whole come before tables
		if strings.HasPrefix(name, "name") {
			before, text = name+"\n"+before, rest
		}
		_, err := agent.ParseConfig([]byte(before+text), ".")
		return err
	}
	used := make(map[string]bool)
	for _, c := range []struct {
		page, source string
		parse        []func(string) error // one for each sample
	}{
		{"attest", "../../attest/policy.go", []func(string) error{policy}},
		{"verifier", "../../remote/verifier/config.go", []func(string) error{central}},
		{"rules", "../../filewatch/rules_toml.go", []func(string) error{rules, rules}},
		{"out-of-band", "", []func(string) error{onHost, onHost, central}},
	} {
		text, err := os.ReadFile("../../docs/" + c.page + ".md")
		if err != nil {
			t.Fatal(err)
		}
		page := string(text)
		for _, p := range placeholders {
			if strings.Contains(page, p.page) {
				used[p.page] = true
				page = strings.ReplaceAll(page, p.page, p.sample)
			}
		}
		samples := documentedTOML(page)
		if len(samples) != len(c.parse) {
			t.Errorf("%s: %d samples, want %d", c.page, len(samples), len(c.parse))
			continue
		}
		for i, sample := range samples {
			if err := c.parse[i](sample); err != nil {
				t.Errorf("%s: %v\n%s", c.page, err, sample)
			}
		}
		for _, key := range tomlKeys(t, c.source) {
			if !regexp.MustCompile("(?m)(^|[^a-z_])" + key + "( *=|`|])").MatchString(page) {
				t.Errorf("%s: the key %q is not on the page", c.page, key)
			}
		}
	}
	for _, p := range placeholders {
		if !used[p.page] {
			t.Errorf("no page has %s any more", p.page)
		}
	}
}

// documentedTOML are the fenced pieces of TOML, and the indented ones with rules.
func documentedTOML(page string) (samples []string) {
	for _, m := range regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(page, -1) {
		samples = append(samples, m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^    \[\[rule\]\]\n(    .*\n|\n)*`).FindAllString(page, -1) {
		samples = append(samples, strings.ReplaceAll(m, "\n    ", "\n"))
	}
	return samples
}

// tomlKeys are those of the structures in a source file.
func tomlKeys(t *testing.T, source string) (keys []string) {
	if source == "" {
		return nil
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("`toml:\"([a-z_]+)").FindAllStringSubmatch(string(text), -1) {
		keys = append(keys, m[1])
	}
	if len(keys) == 0 {
		t.Errorf("%s has no keys", source)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
