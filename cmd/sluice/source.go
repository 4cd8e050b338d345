package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/spf13/cobra"

	"github.com/sluice-cd/sluice/gitsync"
)

// sourceFlags name an environment repository, the same way for every command that reads one.
type sourceFlags struct {
	repo, branch, path string
	environment        string
	cluster            string
	username           string
	passwordFile       string
	sshKeyFile         string
	knownHostsFile     string
}

func (f *sourceFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "environment repository: a URL (https, ssh) or a directory")
	fl.StringVar(&f.branch, "branch", "", "environment branch (default: what a directory has checked out, else main)")
	fl.StringVar(&f.path, "path", ".", "folder of the environment inside the repository")
	fl.StringVar(&f.environment, "environment", "", "name of the environment, where sluice.yaml says none")
	fl.StringVar(&f.cluster, "cluster", "", "name of the cluster, where the environment has several")
	fl.StringVar(&f.username, "username", "", "user name for https")
	fl.StringVar(&f.passwordFile, "password-file", "", "file with the password or token for https")
	fl.StringVar(&f.sshKeyFile, "ssh-key-file", "", "private key for ssh")
	fl.StringVar(&f.knownHostsFile, "known-hosts-file", "", "known_hosts file for ssh")
}

// remote is the repository at the given branch; empty: the environment branch.
func (f *sourceFlags) remote(branch string) (gitsync.Remote, error) {
	r := gitsync.Remote{URL: f.repo, Branch: branch, Auth: gitsync.Auth{
		Username: f.username, PasswordFile: f.passwordFile, SSHKeyFile: f.sshKeyFile, KnownHostsFile: f.knownHostsFile,
	}}
	if r.Branch == "" {
		r.Branch = f.branch
	}
	if isRemote(f.repo) {
		return r, nil
	}
	dir, err := filepath.Abs(f.repo)
	if err != nil {
		return r, fmt.Errorf("resolving %s: %w", f.repo, err)
	}
	r.URL, r.AllowFile = dir, true
	if r.Branch == "" {
		if r.Branch, err = checkedOut(dir); err != nil {
			return r, err
		}
	}
	return r, nil
}

// isRemote tells a URL from a directory.
func isRemote(repo string) bool {
	if strings.Contains(repo, "://") {
		return true
	}
	if _, err := os.Stat(repo); err == nil {
		return false
	}
	host, _, ok := strings.Cut(repo, ":")
	return ok && !strings.Contains(host, "/")
}

// checkedOut is the branch that a local repository is on.
func checkedOut(dir string) (string, error) {
	repo, err := git.PlainOpenWithOptions(dir, &git.PlainOpenOptions{DetectDotGit: true})
	if err != nil {
		return "", fmt.Errorf("opening the git repository at %s: %w", dir, err)
	}
	head, err := repo.Head()
	if err != nil {
		return "", fmt.Errorf("reading HEAD of %s: %w", dir, err)
	}
	if !head.Name().IsBranch() {
		return "", fmt.Errorf("%s has no branch checked out; name one with --branch", dir)
	}
	return head.Name().Short(), nil
}

// open fetches a branch into a directory that lasts as long as the command.
func (f *sourceFlags) open(ctx context.Context, branch string) (*gitsync.Repo, *gitsync.Snapshot, func(), error) {
	remote, err := f.remote(branch)
	if err != nil {
		return nil, nil, nil, err
	}
	dir, err := os.MkdirTemp("", "sluice-")
	if err != nil {
		return nil, nil, nil, fmt.Errorf("making a directory for git objects: %w", err)
	}
	done := func() { _ = os.RemoveAll(dir) }
	repo, err := gitsync.Open(ctx, remote, dir)
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	tip, err := repo.Fetch(ctx)
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return repo, tip, done, nil
}
