package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/redact"
	"github.com/sluice-cd/sluice/gitsync/signature"
	"github.com/sluice-cd/sluice/reconcile"
	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/render"
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
	LeaderElection bool `yaml:"leaderElection"`
	// Git says who commits what Sluice writes.
	Git        gitConfig        `yaml:"git"`
	Prometheus prometheusConfig `yaml:"prometheus"`
	// Charts are of all environments; each may have its own besides.
	Charts       []chartCredential `yaml:"charts"`
	Environments []envConfig       `yaml:"environments"`
}

// gitConfig is who commits what Sluice writes, and how that is shown.
type gitConfig struct {
	// Name and Email; default Sluice and sluice@sluice.dev.
	Name  string `yaml:"name"`
	Email string `yaml:"email"`
	// SigningKey is a private SSH key, or an armoured OpenPGP one, with PassphraseFile if it has one. It is read for each commit.
	SigningKey     string `yaml:"signingKey"`
	PassphraseFile string `yaml:"passphraseFile"`
}

func (g gitConfig) identity() gitsync.Identity {
	return reconcile.Committer(gitsync.Identity{Name: g.Name, Email: g.Email})
}

// sign makes signatures; nil: commits are not signed.
func (g gitConfig) sign() func(commit []byte) (string, error) {
	if g.SigningKey == "" {
		return nil
	}
	return func(commit []byte) (string, error) {
		sign, err := g.signer()
		if err != nil {
			return "", err
		}
		return sign(commit)
	}
}

func (g gitConfig) signer() (func(commit []byte) (string, error), error) {
	passphrase := []byte{}
	if g.PassphraseFile != "" {
		var err error
		if passphrase, err = os.ReadFile(g.PassphraseFile); err != nil {
			return nil, fmt.Errorf("reading the passphrase: %w", err)
		}
	}
	return signature.Signer(g.SigningKey, strings.TrimRight(string(passphrase), "\r\n"))
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

// chartCredential is used for chart repositories below a URL. Their host may be anywhere, on the agent's own machine too.
type chartCredential struct {
	URL          string `yaml:"url"`
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"passwordFile"`
	// Verify says who has to have signed what comes from there; empty: nobody.
	Verify chartVerifyConfig `yaml:"verify"`
}

// chartVerifyConfig says by whose keys charts have to be signed.
type chartVerifyConfig struct {
	// Keyring has OpenPGP public keys, armoured or not. It is read for each chart that is asked for.
	Keyring string `yaml:"keyring"`
}

// signed are the entries whose charts have to be signed.
func signed(credentials []chartCredential) (out []render.Signed) {
	for _, c := range credentials {
		if c.Verify.Keyring != "" {
			out = append(out, render.Signed{URL: c.URL, Keyring: c.Verify.Keyring})
		}
	}
	return out
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
	// Allow is what the repository may touch.
	Allow allowConfig `yaml:"allow"`
	// Charts are this environment's alone. Where one has the URL of one of all environments, it holds instead.
	Charts []chartCredential `yaml:"charts"`
	// Forge holds the repository: pull requests are opened and merged there, and told what came of them. Empty: none is asked.
	Forge forgeConfig `yaml:"forge"`
	// Status is the repository of status branches and commands; empty: that is Repository. A branch of it has no name of its own here:
	// StatusBranch says it.
	Status repositoryConfig `yaml:"status"`
	// Upstream is the repository of the environment from which versions come, where sluice.yaml names one. It is only read.
	Upstream repositoryConfig `yaml:"upstream"`
	// Verify says who may sign what is delivered; empty: nothing has to be signed.
	Verify verifyConfig `yaml:"verify"`
	// Commands says whose commands count.
	Commands commandsConfig `yaml:"commands"`
	// CheckInterval overrides the analysis interval of every policy; for rehearsals and demos.
	CheckInterval duration `yaml:"checkInterval"`
}

// allowConfig is what a repository may touch. It can't widen it.
type allowConfig struct {
	// Namespaces besides the environment's own; "*": all.
	Namespaces []string `yaml:"namespaces"`
	// ClusterKinds that live in no namespace, as Kind or Kind.group; "*": all.
	ClusterKinds []string `yaml:"clusterKinds"`
	// ChartRepositories are URLs below which charts may come from; not set: everywhere.
	ChartRepositories []string `yaml:"chartRepositories"`
	// Queries of policies may be about the app's own namespace, or any; default own.
	Queries string `yaml:"queries"`
	// ServiceAccount as which what charts render is read and written, as namespace/name; empty: the agent's own.
	ServiceAccount string `yaml:"serviceAccount"`
}

// Values of allow.queries.
const (
	ownQuery = "own"
	anyQuery = "any"
)

// rules of an environment whose own namespace is given.
func (a allowConfig) rules(own string) allow.Rules {
	return allow.Rules{
		Own: own, Namespaces: a.Namespaces, ClusterKinds: a.ClusterKinds, ChartRepositories: a.ChartRepositories,
		AnyQuery: a.Queries == anyQuery,
	}
}

// verifyConfig says by whose keys what is delivered has to be signed. The files are read each time that the branch moves.
type verifyConfig struct {
	// AllowedSigners is a list of SSH keys, in the format of ssh-keygen(1); Keyring has armoured OpenPGP public keys.
	AllowedSigners string `yaml:"allowedSigners"`
	Keyring        string `yaml:"keyring"`
}

// trusted reads the files; nil: nothing has to be signed.
func (v verifyConfig) trusted() func() (*signature.Keys, error) {
	if v == (verifyConfig{}) {
		return nil
	}
	return func() (*signature.Keys, error) { return signature.Load(v.AllowedSigners, v.Keyring) }
}

// vouched is why a commit may not be delivered: it is not signed by the keys in the files.
func (v verifyConfig) vouched(ctx context.Context, repo *gitsync.Repo, g gitConfig, commit string) error {
	keys, err := v.trusted()()
	if err != nil {
		return err
	}
	return reconcile.Vouched(ctx, repo, keys, g.identity(), commit, time.Now())
}

// fault is why what this agent itself writes would not count, or nothing would; nil: it does.
func (v verifyConfig) fault(g gitConfig) error {
	trusted := v.trusted()
	if trusted == nil {
		return nil
	}
	keys, err := trusted()
	if err != nil {
		return err
	}
	if g.SigningKey == "" {
		return errors.New("is set, and the agent's own rollback commits would not be signed; set git.signingKey, and list its public key here")
	}
	probe := gitsync.Commit{Committer: g.identity(), Signed: []byte("whether the agent's own signature counts")}
	if probe.Signature, err = g.sign()(probe.Signed); err != nil {
		return nil //nolint:nilerr // told of git.signingKey
	}
	if err := keys.VerifyCommitter(probe, time.Now()); err != nil {
		return fmt.Errorf("does not let the agent's own rollback commits count: signed with git.signingKey, %w; list its public key here for %s",
			err, probe.Committer.Email)
	}
	return nil
}

// commandsConfig says whose signatures of commands are known. The files are read each time that a command comes.
type commandsConfig struct {
	// AllowedSigners is a list of SSH keys, in the format of ssh-keygen(1); Keyring has armoured OpenPGP public keys.
	AllowedSigners string `yaml:"allowedSigners"`
	Keyring        string `yaml:"keyring"`
	// RequireSigned refuses commands that are not signed by their author with one of those.
	RequireSigned bool `yaml:"requireSigned"`
}

// keys reads the files.
func (c commandsConfig) keys() (*signature.Keys, error) {
	return signature.Load(c.AllowedSigners, c.Keyring)
}

func (c commandsConfig) any() bool { return c.AllowedSigners != "" || c.Keyring != "" }

// repositoryConfig is a git remote and how to sign in to it. Secrets come from files, so that they can rotate.
type repositoryConfig struct {
	URL    string `yaml:"url"`
	Branch string `yaml:"branch"`
	// Username and PasswordFile, or TokenFile (sent as a bearer token), for https.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"passwordFile"`
	TokenFile    string `yaml:"tokenFile"`
	// CAFile holds certificate authorities for https besides the system's.
	CAFile string `yaml:"caFile"`
	// SSHKeyFile, PassphraseFile where the key has one, and KnownHostsFile for ssh.
	SSHKeyFile     string `yaml:"sshKeyFile"`
	PassphraseFile string `yaml:"passphraseFile"`
	KnownHostsFile string `yaml:"knownHostsFile"`
	// AllowFile permits file:// and plain paths.
	AllowFile bool `yaml:"allowFile"`
}

// duration is a time.Duration written as Go writes it; not negative.
type duration time.Duration

// readConfig reads the file. What it says is yet to be completed and checked; the decoder knows the lines, and holds
// the faults so far.
func readConfig(path string) (*config, *decoder, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	d := &decoder{file: path}
	c := &config{}
	if err := d.decode(f, c); err != nil {
		return nil, nil, err
	}
	if c.APIVersion != "sluice.dev/v1alpha1" {
		d.fault("apiVersion", orMissing(c.APIVersion), "sluice.dev/v1alpha1")
	}
	if c.Kind != "Agent" {
		d.fault("kind", orMissing(c.Kind), "Agent")
	}
	dir := filepath.Dir(path)
	for _, p := range c.files() {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return c, d, nil
}

func orMissing(value string) string {
	if value == "" {
		return "missing"
	}
	return fmt.Sprintf("is %q", value)
}

// complete fills in defaults, and tells every fault.
func (c *config) complete(fault func(field, problem, expected string)) {
	if c.Prometheus.Address == "" {
		fault("prometheus.address", "missing", "a URL such as http://prometheus:9090")
	}
	cluster := c.Cluster
	if cluster != "" && !isName(cluster) {
		fault("cluster", "is no name", expectedName)
		cluster = ""
	}
	if strings.ContainsAny(c.Git.Name+c.Git.Email, "<>\n") {
		fault("git", "has < or > or a line break in it", "a name and an e-mail address")
	}
	if c.Git.SigningKey != "" {
		if _, err := c.Git.signer(); err != nil {
			fault("git.signingKey", err.Error(), "a private SSH key, or an armoured OpenPGP one")
		}
	}
	if len(c.Environments) == 0 {
		fault("environments", "missing", "at least one")
	}
	if c.Listen == "" {
		c.Listen = ":8080"
	}
	if c.DataDir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			fault("dataDir", "missing, and there is no default ("+err.Error()+")", "a directory")
		}
		c.DataDir = filepath.Join(cache, "sluice")
	}
	chartFaults(c.Charts, fault)
	names, branches := map[string]bool{}, map[string]bool{}
	for i := range c.Environments {
		e := &c.Environments[i]
		at := fmt.Sprintf("environments[%d].", i)
		e.complete(cluster)
		if e.faults(func(field, problem, expected string) { fault(at+field, problem, expected) }) {
			continue
		}
		if err := e.Verify.fault(c.Git); err != nil {
			fault(at+"verify", err.Error(), "")
		}
		branch := e.statusRemote().URL + " " + e.StatusBranch
		switch {
		case names[e.Name]:
			fault(at+"name", "stands twice", "another name")
		case branches[branch]:
			fault(at+"statusBranch", "is that of another environment", "another branch")
		}
		names[e.Name], branches[branch] = true, true
	}
}

func chartFaults(credentials []chartCredential, fault func(field, problem, expected string)) {
	for i, a := range credentials {
		if a.URL == "" {
			fault(fmt.Sprintf("charts[%d].url", i), "missing", "a URL such as https://charts.example.com")
		}
		if a.Verify.Keyring == "" {
			continue
		}
		if _, err := render.ReadKeyring(a.Verify.Keyring); err != nil {
			fault(fmt.Sprintf("charts[%d].verify.keyring", i), err.Error(), "")
		}
	}
}

// faults tells what is wrong with an environment, and whether anything is.
func (e *envConfig) faults(tell func(field, problem, expected string)) (wrong bool) {
	fault := func(field, problem, expected string) {
		tell(field, problem, expected)
		wrong = true
	}
	if !isName(e.Name) {
		problem := "is no name"
		if e.Name == "" {
			problem = "missing"
		}
		fault("name", problem, expectedName)
	}
	if e.Repository.URL == "" {
		fault("repository.url", "missing", "a URL such as https://git.example.com/production.git")
		return wrong
	}
	if a := e.Allow.ServiceAccount; a != "" && !isServiceAccount(a) {
		fault("allow.serviceAccount", fmt.Sprintf("is %q", a), "namespace/name")
	}
	if q := e.Allow.Queries; q != "" && q != ownQuery && q != anyQuery {
		fault("allow.queries", fmt.Sprintf("is %q", q), ownQuery+" or "+anyQuery)
	}
	for i, prefix := range e.Allow.ChartRepositories {
		if u, err := url.Parse(prefix); prefix != allow.Any && (err != nil || u.Scheme == "" || u.Host == "") {
			fault(fmt.Sprintf("allow.chartRepositories[%d]", i), "is no URL", `one such as https://charts.example.com/team, or "*"`)
		}
	}
	chartFaults(e.Charts, fault)
	if e.Commands.RequireSigned && !e.Commands.any() {
		fault("commands.requireSigned", "is set, and no key is known", "commands.allowedSigners or commands.keyring")
	}
	if _, err := e.Commands.keys(); err != nil {
		fault("commands", err.Error(), "")
	}
	if _, err := e.Forge.open(e.Repository.URL); err != nil {
		fault("forge", err.Error(), "")
	}
	for _, other := range []struct {
		field string
		repositoryConfig
	}{{"upstream", e.Upstream}, {"status", e.Status}} {
		if other.repositoryConfig == (repositoryConfig{}) {
			continue
		}
		if other.Branch != "" {
			fault(other.field+".branch", "is set, and of this repository the branches sluice/** are used", "none; statusBranch names one of ours")
		}
		remote := other.remote()
		remote.Branch = "main" // a name that is one
		if err := remote.Validate(); err != nil {
			fault(other.field, strings.ReplaceAll(err.Error(), "\n", "; "), "")
		}
	}
	remote := e.Repository.remote()
	if err := remote.Validate(); err != nil {
		fault("repository", strings.ReplaceAll(err.Error(), "\n", "; "), "")
		return wrong
	}
	remote.Branch = e.StatusBranch
	switch {
	case wrong: // the branch is named after the environment
	case remote.Validate() != nil:
		fault("statusBranch", "is not a branch name", "one such as sluice/status/production")
	case e.statusRemote().URL == e.Repository.URL && e.StatusBranch == e.Repository.Branch:
		fault("statusBranch", "is the environment branch", "a branch of its own")
	}
	return wrong
}

// Names end up in names of branches, Secrets and directories.
var isName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`).MatchString

var isServiceAccount = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`).MatchString

const expectedName = "lower-case letters, digits and hyphens, at most 63"

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

// statusRemote is the repository of status branches and commands, at the status branch.
func (e *envConfig) statusRemote() gitsync.Remote {
	where := e.Status
	if where == (repositoryConfig{}) {
		where = e.Repository
	}
	remote := where.remote()
	remote.Branch = e.StatusBranch
	return remote
}

// astray is why people's programs look for the status branches where this agent does not write them; nil: they do not, as far as
// their addresses tell, which may be others than the agent's.
func (e *envConfig) astray(named string) error {
	switch {
	case e.Status.URL != "" && named == "":
		return fmt.Errorf("sluice.yaml names no status.repository, and the agent writes to another: people's programs look in vain; set it to the address of %s",
			redact.URL(e.Status.URL))
	case e.Status.URL == "" && named != "":
		return fmt.Errorf("sluice.yaml names %s as status.repository, which agent.yaml does not: people's programs look in vain; set environments[%s].status.url, or take it out",
			redact.URL(named), e.Name)
	}
	return nil
}

// statusPrefix begins the names of all status branches.
const statusPrefix = "sluice/status/"

// statusBranch is where an environment's audit log is.
func statusBranch(environment, cluster string) string {
	return strings.TrimSuffix(statusPrefix+environment+"/"+cluster, "/")
}

// files are the fields that name files or directories, which are relative to the configuration.
func (c *config) files() []*string {
	out := []*string{&c.DataDir, &c.Kubeconfig, &c.Git.SigningKey, &c.Git.PassphraseFile, &c.Prometheus.PasswordFile, &c.Prometheus.BearerTokenFile, &c.Prometheus.CAFile}
	for i := range c.Charts {
		out = append(out, &c.Charts[i].PasswordFile, &c.Charts[i].Verify.Keyring)
	}
	for i := range c.Environments {
		for j := range c.Environments[i].Charts {
			chart := &c.Environments[i].Charts[j]
			out = append(out, &chart.PasswordFile, &chart.Verify.Keyring)
		}
		r := &c.Environments[i].Repository
		out = append(out, &c.Environments[i].Verify.AllowedSigners, &c.Environments[i].Verify.Keyring)
		out = append(out, &c.Environments[i].Commands.AllowedSigners, &c.Environments[i].Commands.Keyring)
		for _, r := range []*repositoryConfig{r, &c.Environments[i].Upstream, &c.Environments[i].Status} {
			out = append(out, &r.PasswordFile, &r.TokenFile, &r.CAFile, &r.SSHKeyFile, &r.PassphraseFile, &r.KnownHostsFile)
		}
		f := &c.Environments[i].Forge
		out = append(out, &f.TokenFile, &f.App.KeyFile, &f.CAFile)
	}
	return out
}
