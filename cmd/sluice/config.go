package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// config is the agent's configuration file. Unknown keys are refused.
type config struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	// Cluster names this cluster on status branches; empty: one cluster per environment.
	Cluster string `yaml:"cluster"`
	// DataDir holds git objects and charts; a cache, safe to lose. Default ~/.cache/sluice.
	DataDir string `yaml:"dataDir"`
	// Kubeconfig file; empty: in-cluster, else the user's default.
	Kubeconfig string `yaml:"kubeconfig"`
	Context    string `yaml:"context"`
	// AllowCredentialPlugins lets the kubeconfig run a program to sign in. Whoever can write the kubeconfig can then
	// run anything as the agent.
	AllowCredentialPlugins bool `yaml:"allowCredentialPlugins"`
	// Listen is the address of /healthz, /readyz and /metrics; default :8080, "none" for none.
	Listen string `yaml:"listen"`
	// LeaderElection lets several replicas stand by; default false.
	LeaderElection bool              `yaml:"leaderElection"`
	Prometheus     prometheusConfig  `yaml:"prometheus"`
	Charts         []chartCredential `yaml:"charts"`
	Environments   []envConfig       `yaml:"environments"`
}

// prometheusConfig says where analysis asks.
type prometheusConfig struct {
	Address            string `yaml:"address"`
	Username           string `yaml:"username"`
	PasswordFile       string `yaml:"passwordFile"`
	BearerTokenFile    string `yaml:"bearerTokenFile"`
	CAFile             string `yaml:"caFile"`
	InsecureSkipVerify bool   `yaml:"insecureSkipVerify"`
	// Timeout of one query, such as 5s.
	Timeout duration `yaml:"timeout"`
}

// chartCredential is used for chart repositories below a URL.
type chartCredential struct {
	URL          string `yaml:"url"`
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"passwordFile"`
}

// envConfig is one environment that this agent delivers.
type envConfig struct {
	Name       string           `yaml:"name"`
	Repository repositoryConfig `yaml:"repository"`
	// Path of the environment inside the repository; default its root.
	Path string `yaml:"path"`
	// Namespace where sluice.yaml names none; default jx-<name>.
	Namespace string `yaml:"namespace"`
	// Interval between looks at the branch; default 30s.
	Interval duration `yaml:"interval"`
	// StatusBranch; default sluice/status/<name>[/<cluster>].
	StatusBranch string `yaml:"statusBranch"`
	// CheckInterval overrides the analysis interval of every policy; for rehearsals and demos.
	CheckInterval duration `yaml:"checkInterval"`
}

// repositoryConfig is a git remote and how to sign in to it. Secrets come from files, so that they can rotate.
type repositoryConfig struct {
	URL    string `yaml:"url"`
	Branch string `yaml:"branch"`
	// UsernameFile and PasswordFile, or TokenFile, for https.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"passwordFile"`
	TokenFile    string `yaml:"tokenFile"`
	// SSHKeyFile and KnownHostsFile for ssh.
	SSHKeyFile     string `yaml:"sshKeyFile"`
	KnownHostsFile string `yaml:"knownHostsFile"`
	// AllowFile permits file:// and plain paths.
	AllowFile bool `yaml:"allowFile"`
}

// duration is a time.Duration written as Go writes it.
type duration time.Duration

func (d *duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < 0 {
		return fmt.Errorf("line %d: %q is not a duration; expected one such as 30s or 1m", n.Line, n.Value)
	}
	*d = duration(v)
	return nil
}

// loadConfig reads, completes and checks the file.
func loadConfig(path string) (*config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	var c config
	if err := dec.Decode(&c); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if err := c.complete(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("checking %s: %w", path, err)
	}
	return &c, nil
}

// complete fills in defaults, resolves file names against dir and joins every fault.
func (c *config) complete(dir string) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.APIVersion != "sluice.dev/v1alpha1" {
		fault("apiVersion: got %q, expected sluice.dev/v1alpha1", c.APIVersion)
	}
	if c.Kind != "Agent" {
		fault("kind: got %q, expected Agent", c.Kind)
	}
	if c.Prometheus.Address == "" {
		fault("prometheus.address: missing; expected a URL such as http://prometheus:9090")
	}
	if len(c.Environments) == 0 {
		fault("environments: expected at least one")
	}
	if c.Listen == "" {
		c.Listen = ":8080"
	}
	if c.DataDir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			fault("dataDir: missing, and there is no default: %w", err)
		}
		c.DataDir = filepath.Join(cache, "sluice")
	}
	seen := map[string]bool{}
	for i := range c.Environments {
		e := &c.Environments[i]
		at := fmt.Sprintf("environments[%d]", i)
		if e.Name == "" {
			fault("%s.name: missing", at)
		}
		if seen[e.Name] {
			fault("%s.name: %q stands twice", at, e.Name)
		}
		seen[e.Name] = true
		if e.Repository.URL == "" {
			fault("%s.repository.url: missing", at)
		}
		e.complete(c.Cluster)
	}
	for _, p := range c.files() {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return errors.Join(faults...)
}

func (e *envConfig) complete(cluster string) {
	if e.Repository.Branch == "" {
		e.Repository.Branch = "main"
	}
	if e.Path == "" {
		e.Path = "."
	}
	if e.Interval == 0 {
		e.Interval = duration(30 * time.Second)
	}
	if e.StatusBranch == "" {
		e.StatusBranch = statusBranch(e.Name, cluster)
	}
}

// statusBranch is where an environment's audit log is.
func statusBranch(environment, cluster string) string {
	return strings.TrimSuffix("sluice/status/"+environment+"/"+cluster, "/")
}

// files are the fields that name files or directories, which are relative to the configuration.
func (c *config) files() []*string {
	out := []*string{&c.DataDir, &c.Kubeconfig, &c.Prometheus.PasswordFile, &c.Prometheus.BearerTokenFile, &c.Prometheus.CAFile}
	for i := range c.Charts {
		out = append(out, &c.Charts[i].PasswordFile)
	}
	for i := range c.Environments {
		r := &c.Environments[i].Repository
		out = append(out, &r.PasswordFile, &r.TokenFile, &r.SSHKeyFile, &r.KnownHostsFile)
	}
	return out
}
