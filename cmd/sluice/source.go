package main

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/spf13/cobra"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
)

// sourceFlags name an environment repository, the same way for every command that reads one.
type sourceFlags struct {
	repo, branch, path string
	environment        string
	cluster            string
	username           string
	passwordFile       string
	caFile             string
	sshKeyFile         string
	knownHostsFile     string
}

func (f *sourceFlags) register(cmd *cobra.Command) {
	cmd.ValidArgsFunction = f.completeApps
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "environment repository: a URL (https, ssh) or a directory")
	fl.StringVar(&f.branch, "branch", "", "environment branch (default: what a directory has checked out, else main)")
	fl.StringVar(&f.path, "path", ".", "folder of the environment inside the repository")
	fl.StringVar(&f.environment, "environment", "", "name of the environment, if sluice.yaml has none")
	fl.StringVar(&f.cluster, "cluster", "", "name of the cluster, if the environment has several")
	registerCompletion(cmd, "environment", f.completeEnvironments)
	fl.StringVar(&f.username, "username", "", "user name for https")
	fl.StringVar(&f.passwordFile, "password-file", "", "file with the password or token for https")
	fl.StringVar(&f.caFile, "ca-file", "", "file with certificate authorities for https, in addition to the system's")
	fl.StringVar(&f.sshKeyFile, "ssh-key-file", "", "private key for ssh")
	fl.StringVar(&f.knownHostsFile, "known-hosts-file", "", "known_hosts file for ssh")
}

// completeApps are the apps of a clone, for shells. A repository elsewhere is not asked while somebody types.
func (f *sourceFlags) completeApps(cmd *cobra.Command, args []string, begun string) (names []string, _ cobra.ShellCompDirective) {
	if _, local := f.directory(); !local {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	tip, done, err := f.tipOf(cmd.Context(), "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer done()
	env, err := (&environments.Loader{Environment: f.environment}).Load(tip.FS(), f.path)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for i := range env.Apps {
		if name := env.Apps[i].Name; strings.HasPrefix(name, begun) && !slices.Contains(args, name) {
			names = append(names, name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeEnvironments are those that a clone knows: the one of sluice.yaml, and those that have a status branch.
func (f *sourceFlags) completeEnvironments(cmd *cobra.Command, _ []string, begun string) (names []string, _ cobra.ShellCompDirective) {
	dir, local := f.directory()
	if !local {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	branches, _ := localBranches(dir, statusPrefix) // a directory without git has none
	for _, b := range branches {
		name, _, _ := strings.Cut(strings.TrimPrefix(b, statusPrefix), "/")
		names = append(names, name)
	}
	if tip, done, err := f.tipOf(cmd.Context(), ""); err == nil {
		defer done()
		if env, err := (&environments.Loader{}).Load(tip.FS(), f.path); err == nil && env.Name != "" {
			names = append(names, env.Name)
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return !strings.HasPrefix(name, begun) }), cobra.ShellCompDirectiveNoFileComp
}

// registerCompletion has a shell complete a flag.
func registerCompletion(cmd *cobra.Command, flag string, by cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, by); err != nil {
		panic(err) // there is no such flag
	}
}

// remote is the repository at the given branch; empty: the environment branch.
func (f *sourceFlags) remote(branch string) (gitsync.Remote, error) {
	r := gitsync.Remote{URL: f.repo, Branch: branch, CAFile: f.caFile, Auth: f.auth()}
	if r.Branch == "" {
		r.Branch = f.branch
	}
	path, local := f.directory()
	if !local {
		return ownKeys(r), nil
	}
	dir, err := filepath.Abs(path)
	if err != nil {
		return r, fmt.Errorf("resolving %s: %w", f.repo, err)
	}
	r.URL, r.AllowFile, r.Auth, r.CAFile = dir, true, gitsync.Auth{}, ""
	r.Branch, err = localBranch(dir, r.Branch)
	return r, err
}

// directory is the path of the repository where it is on this machine.
func (f *sourceFlags) directory() (path string, local bool) {
	path, isFile := strings.CutPrefix(f.repo, "file://")
	return path, isFile || !isRemote(f.repo)
}

// pushRemote is where a branch is pushed to: to the repository itself, or where it is a clone to what it was cloned from.
func (f *sourceFlags) pushRemote(branch string) (gitsync.Remote, error) {
	dir, local := f.directory()
	if !local {
		return f.remote(branch)
	}
	repo, err := gitsync.OpenLocal(dir)
	if err != nil {
		return gitsync.Remote{}, fmt.Errorf("opening the git repository at %s: %w", dir, err)
	}
	remotes, err := sortedRemotes(repo, dir)
	if err != nil {
		return gitsync.Remote{}, err
	}
	origin := *f
	if len(remotes) > 0 && len(remotes[0].Config().URLs) > 0 {
		origin.repo = remotes[0].Config().URLs[0]
		if path, on := origin.directory(); on && !filepath.IsAbs(path) {
			origin.repo = filepath.Join(dir, path)
		}
	}
	r := gitsync.Remote{URL: origin.repo, Branch: branch, CAFile: f.caFile, Auth: f.auth()}
	if u, err := url.Parse(r.URL); err == nil && u.User != nil && overHTTP(r.URL) {
		// A clone may keep its credentials there.
		if password, ok := u.User.Password(); ok && r.Auth.PasswordFile == "" {
			r.Auth.Username, r.Auth.Password = u.User.Username(), password
		}
		u.User = nil
		r.URL = u.String()
	}
	if path, on := origin.directory(); on {
		if r.URL, err = filepath.Abs(path); err != nil {
			return r, fmt.Errorf("resolving %s: %w", path, err)
		}
		r.AllowFile, r.Auth, r.CAFile = true, gitsync.Auth{}, ""
		return r, nil
	}
	return ownKeys(r), nil
}

// ofRemote is the environment branch as the remote of a clone has it, however old the clone is.
func (f *sourceFlags) ofRemote() (sourceFlags, gitsync.Remote, error) {
	source := *f
	if dir, local := source.directory(); local && source.branch == "" {
		branch, err := localBranch(dir, "")
		if err != nil {
			return source, gitsync.Remote{}, err
		}
		if !strings.HasPrefix(branch, "refs/") && branch != "HEAD" {
			source.branch = branch
		}
	}
	remote, err := source.pushRemote(cmp.Or(source.branch, "main"))
	source.repo, source.branch = remote.URL, remote.Branch
	return source, remote, err
}

func (f *sourceFlags) auth() gitsync.Auth {
	return gitsync.Auth{
		Username: f.username, PasswordFile: f.passwordFile, SSHKeyFile: f.sshKeyFile, KnownHostsFile: f.knownHostsFile,
	}
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

// localBranch finds a branch of a repository on this machine as git does: its own, else what it last saw of its
// remotes'. Empty: the one that is checked out.
func localBranch(dir, branch string) (string, error) {
	repo, err := gitsync.OpenLocal(dir)
	if err != nil {
		return "", fmt.Errorf("opening the git repository at %s: %w", dir, err)
	}
	if branch == "" {
		head, err := repo.Reference(plumbing.HEAD, false)
		if err != nil {
			return "", fmt.Errorf("reading HEAD of %s: %w", dir, err)
		}
		if !head.Target().IsBranch() {
			// As in a checkout of CI: what is there is what is meant.
			return plumbing.HEAD.String(), nil
		}
		return head.Target().Short(), nil
	}
	if _, err := repo.Reference(plumbing.NewBranchReferenceName(branch), false); err == nil {
		return branch, nil
	}
	if seen := plumbing.ReferenceName("refs/remotes/" + branch); strings.Contains(branch, "/") {
		if _, err := repo.Reference(seen, false); err == nil {
			return seen.String(), nil // as git names it
		}
	}
	remotes, err := sortedRemotes(repo, dir)
	if err != nil {
		return "", err
	}
	for _, r := range remotes {
		seen := plumbing.NewRemoteReferenceName(r.Config().Name, branch)
		if _, err := repo.Reference(seen, false); err == nil {
			return seen.String(), nil
		}
	}
	return branch, nil
}

// sortedRemotes are those of a repository, origin first, the others in the order of their names.
func sortedRemotes(repo *git.Repository, dir string) ([]*git.Remote, error) {
	remotes, err := repo.Remotes()
	if err != nil {
		return nil, fmt.Errorf("reading the remotes of %s: %w", dir, err)
	}
	slices.SortFunc(remotes, func(a, b *git.Remote) int {
		return cmp.Or(strings.Compare(rank(a), rank(b)), strings.Compare(a.Config().Name, b.Config().Name))
	})
	return remotes, nil
}

// rank sorts origin before the others.
func rank(r *git.Remote) string {
	if r.Config().Name == git.DefaultRemoteName {
		return ""
	}
	return "other"
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
	var repo *gitsync.Repo
	var tip *gitsync.Snapshot
	err = signedIn(ctx, remote, func(remote gitsync.Remote) (err error) {
		if repo, err = gitsync.Open(ctx, remote, dir); err != nil {
			return err
		}
		tip, err = repo.Fetch(ctx)
		return err
	})
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return repo, tip, done, nil
}
