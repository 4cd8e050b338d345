package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/sluice-cd/sluice/gitsync"
)

// overHTTP reports whether a repository is reached by http or https.
func overHTTP(repo string) bool {
	return strings.HasPrefix(repo, "https://") || strings.HasPrefix(repo, "http://")
}

// ownKeys completes how to sign in over ssh with what the user's own git would use: the ssh-agent, else a key in its usual
// place, and the user's known_hosts. A remote that is reached otherwise stays as it is.
func ownKeys(r gitsync.Remote) gitsync.Remote {
	home, err := os.UserHomeDir()
	if err != nil || overHTTP(r.URL) {
		return r
	}
	a := &r.Auth
	if a.KnownHostsFile == "" {
		a.KnownHostsFile = filepath.Join(home, ".ssh", "known_hosts")
	}
	if a.SSHKeyFile != "" {
		return r
	}
	if os.Getenv("SSH_AUTH_SOCK") != "" {
		a.SSHAgent = true
		return r
	}
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		file := filepath.Join(home, ".ssh", name)
		if _, err := os.Stat(file); err == nil {
			a.SSHKeyFile = file
			return r
		}
	}
	a.SSHAgent = true // whose absence is told
	return r
}

// signedIn does something with a remote, and once more with what git's credential helpers know of it where the remote asks
// for credentials and none were given.
func signedIn(ctx context.Context, r gitsync.Remote, do func(gitsync.Remote) error) error {
	err := do(r)
	switch {
	case !gitsync.Unauthorized(err):
		return err
	case !overHTTP(r.URL):
		return fmt.Errorf("%w; expected a key that may do this: --ssh-key-file, or one in the ssh-agent", err)
	case r.Auth != (gitsync.Auth{Username: r.Auth.Username}):
		return fmt.Errorf("%w; expected --username and --password-file of who may do this", err)
	}
	asked, fault := credential(ctx, "fill", "url="+r.URL+"\n")
	if fault != nil {
		return fmt.Errorf("%w; name --username and --password-file, or have git know a credential for it (%w)", err, fault)
	}
	for line := range strings.Lines(asked) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "username":
			r.Auth.Username = value
		case "password":
			r.Auth.Password = value
		}
	}
	// The helpers want to know whether what they gave was right.
	err = do(r)
	verdict := "approve"
	if gitsync.Unauthorized(err) {
		verdict = "reject"
	}
	_, _ = credential(ctx, verdict, asked) // a helper that does not hear of it asks again
	if verdict == "reject" {
		return fmt.Errorf("%w; what git's credential helpers know is refused: name --username and --password-file", err)
	}
	return err
}

// credential asks git's credential helpers, which may ask the user.
func credential(ctx context.Context, what, about string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", "credential", what) //nolint:gosec // one of three words
	if fi, err := os.Stdin.Stat(); err != nil || fi.Mode()&os.ModeCharDevice == 0 {
		cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
	}
	return piped(cmd, about)
}

// piped runs a program on an input and returns its output. The error has what the program said, in one line.
func piped(cmd *exec.Cmd, input string) (string, error) {
	cmd.Stdin = strings.NewReader(input)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.Join(strings.Fields(said.String()), " "))
	}
	return string(out), nil
}
