package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// An agent whose own rollback commits would not count says so before it starts, and what to do.
func TestVerifyCountsItself(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	list := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	listed, others := list("listed", "sluice@sluice.dev "+string(public)), list("others", "ann@example.com "+string(public))
	for _, test := range []struct {
		name, signers, key, want string
	}{
		{"off", "", "", ""},
		{"listed", listed, key, ""},
		{"unsigned", listed, "", "set git.signingKey, and list its public key here"},
		{"listed for another", others, key, "which is not one of sluice@sluice.dev now; list its public key here"},
		{"not listed", list("none", ""), key, "which is not known; list its public key here"},
		{"no file", filepath.Join(dir, "away"), key, "reading the allowed signers"},
	} {
		err := verifyConfig{AllowedSigners: test.signers}.fault(gitConfig{SigningKey: test.key})
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}
