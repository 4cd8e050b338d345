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

// The comments of the fields below are what docs/reference-agent.md and the JSON Schemas say of them, the tags default and enum
// besides; tests hold the tags to what is read.

// config is the agent's configuration file. Unknown keys are refused.
type config struct {
	// The version of this language.
	APIVersion string `yaml:"apiVersion" enum:"sluice.dev/v1alpha1"`
	// What the file is.
	Kind string `yaml:"kind" enum:"Agent"`
	// Name of this cluster on status branches. Empty: the environments have one cluster each.
	Cluster string `yaml:"cluster"`
	// Directory for git objects and charts: a cache, safe to lose.
	DataDir string `yaml:"dataDir" default:"sluice in the user's cache"`
	// How the cluster is reached.
	Kubeconfig string `yaml:"kubeconfig" default:"the cluster that it runs in, else the user's own"`
	// The context of the kubeconfig.
	Context string `yaml:"context" default:"the kubeconfig's own"`
	// Let the kubeconfig run a program to sign in. Whoever can write the kubeconfig can then run anything as the agent.
	AllowCredentialPlugins bool `yaml:"allowCredentialPlugins" default:"false"`
	// Address of /healthz, /readyz and /metrics; none for none.
	Listen string `yaml:"listen" default:":8080"`
	// Elect a leader among several replicas.
	LeaderElection bool `yaml:"leaderElection" default:"false"`
	// The identity of Sluice's commits.
	Git gitConfig `yaml:"git"`
	// The metrics server of the analysis.
	Prometheus prometheusConfig `yaml:"prometheus"`
	// Chart repositories and registries of all environments, by URL prefix: what they need, and that they may be asked. Each environment
	// may have its own besides.
	Charts []chartCredential `yaml:"charts"`
	// What this agent delivers.
	Environments []envConfig `yaml:"environments"`
}

// gitConfig is who commits what Sluice writes, and how that is shown.
type gitConfig struct {
	// Name of the committer.
	Name string `yaml:"name" default:"Sluice"`
	// Address of the committer; an account of yours, where the forge shows or checks who committed.
	Email string `yaml:"email" default:"sluice@sluice.dev"`
	// File with a private SSH key or an armoured OpenPGP key that signs these commits. It is read for each commit.
	SigningKey string `yaml:"signingKey" default:"they are not signed"`
	// File with the key's passphrase, if it has one.
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
	// URL of Prometheus, such as http://prometheus.istio-system:9090.
	Address string `yaml:"address"`
	// User who signs in, with passwordFile.
	Username string `yaml:"username"`
	// File with the password.
	PasswordFile string `yaml:"passwordFile"`
	// File with a token, in place of a user.
	BearerTokenFile string `yaml:"bearerTokenFile"`
	// File with certificate authorities besides the system's.
	CAFile string `yaml:"caFile"`
	// Accept any certificate. Anybody on the network path can then forge the metrics.
	InsecureSkipVerify bool `yaml:"insecureSkipVerify" default:"false"`
	// How long one query may take.
	Timeout duration `yaml:"timeout" default:"5s"`
}

// chartCredential is used for chart repositories below a URL. Their host may be anywhere, on the agent's own machine too.
type chartCredential struct {
	// URL of a repository or registry, or what URLs of several begin with.
	URL string `yaml:"url"`
	// User who signs in, with passwordFile.
	Username string `yaml:"username"`
	// File with the password. It is read when the agent starts.
	PasswordFile string `yaml:"passwordFile"`
	// Require signed charts from there.
	Verify chartVerifyConfig `yaml:"verify"`
}

// chartVerifyConfig says by whose keys charts have to be signed.
type chartVerifyConfig struct {
	// File with OpenPGP public keys, armoured or not. It is read for each chart.
	Keyring string `yaml:"keyring" default:"no signature required"`
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
	// The environment's name, the same as in sluice.yaml.
	Name string `yaml:"name"`
	// The environment repository.
	Repository repositoryConfig `yaml:"repository"`
	// Folder of the environment in the repository.
	Path string `yaml:"path" default:"."`
	// Namespace of the apps, if sluice.yaml sets none.
	Namespace string `yaml:"namespace" default:"jx-<name>"`
	// Time between fetches of the branch.
	Interval duration `yaml:"interval" default:"30s"`
	// Branch of the audit log.
	StatusBranch string `yaml:"statusBranch" default:"sluice/status/<name>[/<cluster>]"`
	// What the repository may touch. The repository itself can't extend it.
	Allow allowConfig `yaml:"allow"`
	// Like charts of the agent, for this environment only. It wins over an entry of the agent with the same URL.
	Charts []chartCredential `yaml:"charts"`
	// The forge of the repository, for pull requests, commit statuses and comments.
	Forge forgeConfig `yaml:"forge" default:"none"`
	// The repository of status branches and commands, without branch: statusBranch names its branch.
	Status repositoryConfig `yaml:"status" default:"repository"`
	// The repository of the upstream environment, if sluice.yaml names one, without branch. It is only read.
	Upstream repositoryConfig `yaml:"upstream"`
	// Require signed commits. The key files are read each time the branch moves.
	Verify verifyConfig `yaml:"verify" default:"no signature required"`
	// Restrict who may send commands.
	Commands commandsConfig `yaml:"commands" default:"commands of anybody who may push"`
	// Overrides the interval of every analysis, for rehearsals and demos.
	CheckInterval duration `yaml:"checkInterval" default:"as in the policies"`
}

// allowConfig is what a repository may touch. It can't widen it.
type allowConfig struct {
	// Namespaces besides the environment's own; * for all.
	Namespaces []string `yaml:"namespaces" default:"none"`
	// Kinds that live in no namespace, as Kind or Kind.group; * for all.
	ClusterKinds []string `yaml:"clusterKinds" default:"none"`
	// URL prefixes of allowed chart repositories; * for all.
	ChartRepositories []string `yaml:"chartRepositories" default:"all"`
	// Allowed webhooks of policies: hosts, hosts with a port, or URL prefixes; * for all.
	Webhooks []string `yaml:"webhooks" default:"none"`
	// What queries of policies may read: the app's own namespace, or any.
	Queries string `yaml:"queries" default:"own" enum:"own any"`
	// ServiceAccount used to read and write the charts' objects, as namespace/name.
	ServiceAccount string `yaml:"serviceAccount" default:"the agent's own"`
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
		Webhooks: a.Webhooks, AnyQuery: a.Queries == anyQuery,
	}
}

// isWebhookRule reports whether an entry of allow.webhooks can allow anything.
func isWebhookRule(entry string) bool {
	if entry == allow.Any {
		return true
	}
	if !strings.Contains(entry, "://") {
		u, err := url.Parse("http://" + entry)
		return err == nil && u.Hostname() != "" && u.Host == entry
	}
	u, err := url.Parse(entry)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil
}

// verifyConfig says by whose keys what is delivered has to be signed. The files are read each time that the branch moves.
type verifyConfig struct {
	// File with SSH keys, in the format of ssh-keygen(1).
	AllowedSigners string `yaml:"allowedSigners"`
	// File with armoured OpenPGP public keys.
	Keyring string `yaml:"keyring"`
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
	// File with SSH keys of people, in the format of ssh-keygen(1). It is read for each command.
	AllowedSigners string `yaml:"allowedSigners"`
	// File with armoured OpenPGP public keys of people. It is read for each command.
	Keyring string `yaml:"keyring"`
	// Refuse commands that their author has not signed with one of those keys.
	RequireSigned bool `yaml:"requireSigned" default:"false"`
}

// keys reads the files.
func (c commandsConfig) keys() (*signature.Keys, error) {
	return signature.Load(c.AllowedSigners, c.Keyring)
}

func (c commandsConfig) any() bool { return c.AllowedSigners != "" || c.Keyring != "" }

// repositoryConfig is a git remote and how to sign in to it. Secrets come from files, so that they can rotate.
type repositoryConfig struct {
	// Address of the repository, https or ssh, without credentials.
	URL string `yaml:"url"`
	// The branch that is followed.
	Branch string `yaml:"branch" default:"main"`
	// Of https: user who signs in, with passwordFile.
	Username string `yaml:"username"`
	// Of https: file with the password; most forges take tokens this way.
	PasswordFile string `yaml:"passwordFile"`
	// Of https: file with a token that is sent as a bearer token, in place of a user.
	TokenFile string `yaml:"tokenFile"`
	// Of https: file with certificate authorities besides the system's.
	CAFile string `yaml:"caFile"`
	// Of ssh: file with the private key.
	SSHKeyFile string `yaml:"sshKeyFile"`
	// Of ssh: file with the key's passphrase, if it has one.
	PassphraseFile string `yaml:"passphraseFile"`
	// Of ssh: file with the host's key, as ssh-keyscan prints it.
	KnownHostsFile string `yaml:"knownHostsFile"`
	// Let the address be a path on this machine.
	AllowFile bool `yaml:"allowFile" default:"false"`
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
	// What it is goes untold: without a scheme a user and a password in it are not known from the rest.
	if a := c.Prometheus.Address; a == "" {
		fault("prometheus.address", "missing", "a URL such as http://prometheus:9090")
	} else if u, err := url.Parse(a); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		fault("prometheus.address", "is not an http or https URL", "one such as http://prometheus:9090")
	}
	cluster := c.Cluster
	if cluster != "" && !isName(cluster) {
		fault("cluster", "invalid name", expectedName)
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
			fault(at+"name", "duplicate name", "another name")
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
		problem := "invalid name"
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
			fault(fmt.Sprintf("allow.chartRepositories[%d]", i), "is not a URL", `one such as https://charts.example.com/team, or "*"`)
		}
	}
	for i, address := range e.Allow.Webhooks {
		if !isWebhookRule(address) {
			fault(fmt.Sprintf("allow.webhooks[%d]", i), "is neither a host nor a URL", `one such as loadtester.test, loadtester.test:8080 or http://loadtester.test/gate, or "*"`)
		}
	}
	chartFaults(e.Charts, fault)
	if e.Commands.RequireSigned && !e.Commands.any() {
		fault("commands.requireSigned", "is set, but no key is known", "commands.allowedSigners or commands.keyring")
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
			fault(other.field+".branch", "is set, but only the sluice/** branches of this repository are used", "no branch here; set statusBranch instead")
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
		return fmt.Errorf("sluice.yaml has no status.repository, but the agent writes to another repository, where sluice status will not look; set it to the address of %s",
			redact.URL(e.Status.URL))
	case e.Status.URL == "" && named != "":
		return fmt.Errorf("sluice.yaml has %s as status.repository, but agent.yaml does not write there; set environments[%s].status.url, or remove it",
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
