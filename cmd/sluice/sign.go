package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/signature"
)

// signer signs commits as the user's git does: with user.signingKey, an OpenPGP key or, by gpg.format, an SSH key. It is nil
// where commit.gpgSign does not ask for it and nobody does.
func signer(ctx context.Context, c gitSettings, asked bool) (func([]byte) (string, error), error) {
	if !asked && !strings.EqualFold(c.get("commit", "gpgsign"), "true") {
		return nil, nil
	}
	key := c.get("user", "signingkey")
	switch format := c.get("gpg", "format"); format {
	case "ssh":
		k, err := sshKey(key)
		if err != nil {
			return nil, fmt.Errorf("finding the key to sign with (user.signingKey): %w", err)
		}
		return signature.SSH(k), nil
	case "", "openpgp":
		program := c.get("gpg", "program")
		if program == "" {
			program = "gpg"
		}
		return func(commit []byte) (string, error) { return signPGP(ctx, program, key, commit) }, nil
	default:
		return nil, fmt.Errorf("gpg.format is %q; expected openpgp or ssh", format)
	}
}

// sshKey is the private key of user.signingKey: in a file, or beside one that ends with .pub, or in the ssh-agent.
func sshKey(key string) (ssh.Signer, error) {
	text, literal := strings.CutPrefix(key, "key::")
	switch {
	case key == "":
		return nil, errors.New("it is not set")
	case literal || strings.HasPrefix(key, "ssh-"):
		return agentKey(text)
	}
	if rest, ok := strings.CutPrefix(key, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, err
		}
		key = filepath.Join(home, rest)
	}
	private, public := strings.CutSuffix(key, ".pub")
	k, err := gitsync.ReadKey(private, "")
	if err == nil || !public {
		return k, err
	}
	line, unread := os.ReadFile(key)
	if unread != nil {
		return nil, unread
	}
	return agentKey(string(line))
}

func agentKey(line string) (ssh.Signer, error) {
	want, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, fmt.Errorf("it is no public key: %w", err)
	}
	keys, err := gitsync.AgentKeys()
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if bytes.Equal(k.PublicKey().Marshal(), want.Marshal()) {
			return k, nil
		}
	}
	return nil, fmt.Errorf("the ssh-agent does not have key %s", ssh.FingerprintSHA256(want))
}

func signPGP(ctx context.Context, program, key string, commit []byte) (string, error) {
	args := []string{"--armor", "--detach-sign"}
	if key != "" {
		args = append(args, "--local-user", key)
	}
	return piped(exec.CommandContext(ctx, program, args...), string(commit)) //nolint:gosec // the program that the user's git runs
}
