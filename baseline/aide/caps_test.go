package aide

import (
	"encoding/hex"
	"testing"
)

// The texts are what getcap (libcap 2.66) says of files with these xattrs.
func TestCapabilities(t *testing.T) {
	for value, want := range map[string]string{
		"01000002ffffffff00000000ff01000000000000": "=ep",
		"0000000200000000dfffffff00000000ff010000": "=i cap_kill-i",
		"0000000200000000010000000000000000000000": "cap_chown=i",
		"00000002ffffffff00200000ff01000000000000": "=p cap_net_raw+i",
		"0100000200300000000020000000000000000000": "cap_sys_admin=ei cap_net_admin,cap_net_raw+ep",
		"":       "",
		"010000": "",
		"0100000900300000000020000000000000000000": "", // no such revision
	} {
		raw, err := hex.DecodeString(value)
		if err != nil {
			t.Fatal(err)
		}
		if got := capabilities(raw); got != want {
			t.Errorf("%s: got %q, want %q", value, got, want)
		}
	}
}

func FuzzXattrTexts(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255})
	f.Add([]byte{1, 0, 0, 2, 0, 48, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, value []byte) {
		capabilities(value)
		if acl := parseACL(value); len(acl) != len(aclText("A", acl)) {
			t.Fatal("an entry of the ACL is lost")
		}
	})
}
