//go:build lab

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/attest/tpm/tpmtest"
)

// A key made in one TPM signs there and nowhere else; one that another program
// made persistent signs too, and a key that is not for that does not.
func TestTPMSigns(t *testing.T) {
	s := newKeyStory(t)
	mine, theirs := tpmtest.Start(t), tpmtest.Start(t)
	out := s.run(0, "key", "--key", "tpm:key.tss2", "--tpm", mine.Path, "--create", "--out", "key.pub")
	if !strings.HasPrefix(out, "ecdsa-p256-sha256 SHA256:") {
		t.Error(out)
	}
	s.run(15, "key", "--key", "tpm:key.tss2", "--tpm", mine.Path, "--create")
	s.signs("tpm:"+s.at("key.tss2"), "key.pub", "--tpm", mine.Path)
	s.run(17, "create", "--root", "tree", "-f", "stolen", "--key", "tpm:key.tss2", "--tpm", theirs.Path)

	// tpm2-tools look for the control channel beside the data channel.
	if err := os.Symlink("ctrl", mine.Path+".ctrl"); err != nil {
		t.Fatal(err)
	}
	var tool func(args ...string)
	tool = func(args ...string) {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = s.dir, append(cmd.Environ(), "TPM2TOOLS_TCTI=swtpm:path="+mine.Path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		if args[0] != "tpm2_flushcontext" { // nobody else does it: there is no resource manager
			tool("tpm2_flushcontext", "-t")
		}
	}
	tool("tpm2_createprimary", "-Q", "-C", "o", "-c", "primary")
	for i, algorithm := range []string{"rsa2048", "ecc256"} {
		handle := []string{"0x81000010", "0x81000011"}[i]
		tool("tpm2_create", "-Q", "-C", "primary", "-G", algorithm, "-u", algorithm+".u", "-r", algorithm+".r",
			"-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign")
		tool("tpm2_load", "-Q", "-C", "primary", "-u", algorithm+".u", "-r", algorithm+".r", "-c", algorithm)
		tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", algorithm, handle)
		tool("tpm2_readpublic", "-Q", "-c", handle, "-f", "pem", "-o", algorithm+".pub")
		s.signs("tpm:"+handle, algorithm+".pub", "--tpm", mine.Path)
	}
	tool("tpm2_evictcontrol", "-Q", "-C", "o", "-c", "primary", "0x81000012")
	s.run(17, "create", "--root", "tree", "-f", "storage", "--key", "tpm:0x81000012", "--tpm", mine.Path)
}
