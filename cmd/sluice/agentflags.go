package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-cd/sluice/environments"
)

// defaultConfig is read where neither --config nor --repo says where to look.
const defaultConfig = "agent.yaml"

// agentFlags are the flags of the agent that stand for fields of its configuration.
type agentFlags struct {
	path string
	set  []configFlag
}

// configFlag is a flag and the field of the configuration that it sets.
type configFlag struct {
	name, field, usage string
	// boolean flags need no value.
	boolean bool
	// file names are relative to the working directory.
	file  bool
	apply func(c *config, value string) error
}

// text makes the apply of a field that is text.
func text(at func(*config) *string) func(*config, string) error {
	return func(c *config, v string) error {
		*at(c) = v
		return nil
	}
}

// boolean makes the apply of a field that is a boolean.
func boolean(at func(*config) *bool) func(*config, string) error {
	return func(c *config, v string) (err error) {
		*at(c), err = strconv.ParseBool(v)
		return err
	}
}

// processFlags set what is the process's; they work with a configuration file and without.
func processFlags() []configFlag {
	return []configFlag{
		{
			name: "cluster", field: "cluster", usage: "name of this cluster on status branches, if an environment has several",
			apply: text(func(c *config) *string { return &c.Cluster }),
		},
		{
			name: "data-dir", field: "dataDir", usage: "cache directory for git objects and charts (default: in the user's cache)", file: true,
			apply: text(func(c *config) *string { return &c.DataDir }),
		},
		{
			name: "kubeconfig", field: "kubeconfig", usage: "kubeconfig (default: the cluster it runs in, otherwise the user's)", file: true,
			apply: text(func(c *config) *string { return &c.Kubeconfig }),
		},
		{
			name: "context", field: "context", usage: "context of the kubeconfig",
			apply: text(func(c *config) *string { return &c.Context }),
		},
		{
			name: "listen", field: "listen", usage: `address of /healthz, /readyz and /metrics (default ":8080"; "none" for none)`,
			apply: text(func(c *config) *string { return &c.Listen }),
		},
		{
			name: "leader-election", field: "leaderElection", usage: "elect a leader among several replicas", boolean: true,
			apply: boolean(func(c *config) *bool { return &c.LeaderElection }),
		},
		{
			name: "prometheus", field: "prometheus.address", usage: "URL of Prometheus",
			apply: text(func(c *config) *string { return &c.Prometheus.Address }),
		},
	}
}

// environmentFlags make up the one environment of an agent without a configuration file.
func environmentFlags() []configFlag {
	env := func(c *config) *envConfig {
		if len(c.Environments) == 0 {
			c.Environments = make([]envConfig, 1)
		}
		return &c.Environments[0]
	}
	charts := func(c *config) *chartCredential {
		if len(c.Charts) == 0 {
			c.Charts = make([]chartCredential, 1)
		}
		return &c.Charts[0]
	}
	return []configFlag{
		{
			name: "repo", field: "environments[0].repository.url", usage: "environment repository: a URL (https, ssh)",
			apply: text(func(c *config) *string { return &env(c).Repository.URL }),
		},
		{
			name: "branch", field: "environments[0].repository.branch", usage: `environment branch (default "main")`,
			apply: text(func(c *config) *string { return &env(c).Repository.Branch }),
		},
		{
			name: "path", field: "environments[0].path", usage: "folder of the environment inside the repository (default: its root)",
			apply: text(func(c *config) *string { return &env(c).Path }),
		},
		{
			name: "environment", field: "environments[0].name", usage: "name of the environment",
			apply: text(func(c *config) *string { return &env(c).Name }),
		},
		{
			name: "namespace", field: "environments[0].namespace", usage: "namespace, if sluice.yaml has none (default jx-<environment>)",
			apply: text(func(c *config) *string { return &env(c).Namespace }),
		},
		{
			name: "status-branch", field: "environments[0].statusBranch", usage: "status branch (default sluice/status/<environment>[/<cluster>])",
			apply: text(func(c *config) *string { return &env(c).StatusBranch }),
		},
		{
			name: "interval", field: "environments[0].interval", usage: `time between fetches of the branch (default "30s")`,
			apply: func(c *config, v string) error {
				d, err := time.ParseDuration(v)
				if err != nil || d < 0 {
					return errors.New("expected a duration such as 30s or 1m")
				}
				env(c).Interval = duration(d)
				return nil
			},
		},
		{
			name: "username", field: "environments[0].repository.username", usage: "user name for https",
			apply: text(func(c *config) *string { return &env(c).Repository.Username }),
		},
		{
			name: "password-file", field: "environments[0].repository.passwordFile", usage: "file with the password or token for https", file: true,
			apply: text(func(c *config) *string { return &env(c).Repository.PasswordFile }),
		},
		{
			name: "ca-file", field: "environments[0].repository.caFile", usage: "file with certificate authorities for https, in addition to the system's", file: true,
			apply: text(func(c *config) *string { return &env(c).Repository.CAFile }),
		},
		{
			name: "ssh-key-file", field: "environments[0].repository.sshKeyFile", usage: "private key for ssh", file: true,
			apply: text(func(c *config) *string { return &env(c).Repository.SSHKeyFile }),
		},
		{
			name: "known-hosts-file", field: "environments[0].repository.knownHostsFile", usage: "known_hosts file for ssh", file: true,
			apply: text(func(c *config) *string { return &env(c).Repository.KnownHostsFile }),
		},
		{
			name: "allow-file", field: "environments[0].repository.allowFile", usage: "allow --repo to be a path on this machine", boolean: true,
			apply: boolean(func(c *config) *bool { return &env(c).Repository.AllowFile }),
		},
		{
			name: "chart-repository", field: "charts[0].url", usage: "URL prefix of chart repositories that need the credentials below, or are on this machine",
			apply: text(func(c *config) *string { return &charts(c).URL }),
		},
		{
			name: "chart-username", field: "charts[0].username", usage: "user name for those chart repositories",
			apply: text(func(c *config) *string { return &charts(c).Username }),
		},
		{
			name: "chart-password-file", field: "charts[0].passwordFile", usage: "file with the password for those chart repositories", file: true,
			apply: text(func(c *config) *string { return &charts(c).PasswordFile }),
		},
	}
}

func (f *agentFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.path, "config", "", "configuration file (default "+defaultConfig+" where there is no --repo)")
	f.set = append(processFlags(), environmentFlags()...)
	for _, s := range f.set {
		if s.boolean {
			fl.Bool(s.name, false, s.usage)
		} else {
			fl.String(s.name, "", s.usage)
		}
	}
}

// config is what file and flags say together, completed and checked.
func (f *agentFlags) config(cmd *cobra.Command) (*config, error) {
	changed := cmd.Flags().Changed
	fromFile := changed("config") || !changed("repo")
	c, at := &config{}, &decoder{}
	if fromFile {
		if f.path == "" {
			f.path = defaultConfig
		}
		var err error
		c, at, err = readConfig(f.path)
		if errors.Is(err, fs.ErrNotExist) && !changed("config") {
			return nil, fmt.Errorf("%w; give --config, or --repo with --environment and --prometheus", err)
		}
		if err != nil {
			return nil, err
		}
	}
	process := len(processFlags())
	for i, s := range f.set {
		if !changed(s.name) {
			continue
		}
		if fromFile && i >= process {
			return nil, fmt.Errorf("--%s: environments are configured in %s; set it there, or use --repo without --config", s.name, f.path)
		}
		if err := s.override(c, cmd.Flags().Lookup(s.name).Value.String()); err != nil {
			return nil, fmt.Errorf("--%s: %w", s.name, err)
		}
	}
	c.complete(func(field, problem, expected string) {
		if fromFile {
			at.fault(field, problem, expected)
			return
		}
		at.faults = append(at.faults, &environments.Fault{Field: f.name(field), Problem: problem, Expected: expected})
	})
	return c, errors.Join(at.faults...)
}

func (s configFlag) override(c *config, value string) (err error) {
	if s.file {
		if value, err = filepath.Abs(value); err != nil {
			return err
		}
	}
	return s.apply(c, value)
}

// name is the flag that sets a field.
func (f *agentFlags) name(field string) string {
	for _, s := range f.set {
		if s.field == field {
			return "--" + s.name
		}
	}
	return "--repo"
}
