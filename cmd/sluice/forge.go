package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
)

// forgeConfig says how an agent speaks with the forge that holds an environment repository.
type forgeConfig struct {
	// What the forge is; Forgejo is a gitea.
	Kind string `yaml:"kind" default:"by the repository's host, where everybody knows it" enum:"github gitlab gitea"`
	// Address of its API.
	API string `yaml:"api" default:"that of the repository's host"`
	// File with a token. It is read for each request.
	TokenFile string `yaml:"tokenFile"`
	// A GitHub App, in place of a token.
	App forgeApp `yaml:"app"`
	// File with certificate authorities besides the system's.
	CAFile string `yaml:"caFile"`
	// Comment on each open pull request of the repository's own branches what would come of it. For that is rendered what nobody has
	// merged yet.
	Forecast bool `yaml:"forecast" default:"false"`
}

// forgeApp is an installation of a GitHub App.
type forgeApp struct {
	// Number of the app.
	ID string `yaml:"id"`
	// Number of its installation.
	InstallationID string `yaml:"installationID"`
	// File with its private key.
	KeyFile string `yaml:"keyFile"`
}

// open gives the forge of a repository; nil: none is configured.
func (c forgeConfig) open(address string) (forge.Repository, error) {
	if c == (forgeConfig{}) {
		return nil, nil
	}
	o := forge.Options{Kind: c.Kind, Address: address, API: c.API}
	switch {
	case c.TokenFile != "" && c.App != (forgeApp{}):
		return nil, errors.New("has a tokenFile and an app; expected one of them")
	case c.TokenFile != "":
		o.Token = func(context.Context) (string, error) { return secretFile(c.TokenFile) }
	case c.App != (forgeApp{}):
		app, err := c.App.open()
		if err != nil {
			return nil, err
		}
		o.App = app
	default:
		return nil, errors.New("has no credential; expected tokenFile, or app for GitHub")
	}
	if c.CAFile != "" {
		client, err := trusting(c.CAFile)
		if err != nil {
			return nil, err
		}
		o.HTTPClient = client
	}
	return forge.New(o)
}

func (a forgeApp) open() (*forge.App, error) {
	id, err := strconv.ParseInt(a.ID, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("app.id: got %q, expected the number of the GitHub App", a.ID)
	}
	installation, err := strconv.ParseInt(a.InstallationID, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("app.installationID: got %q, expected the number of its installation", a.InstallationID)
	}
	key, err := os.ReadFile(a.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("app.keyFile: %w", err)
	}
	return &forge.App{ID: id, InstallationID: installation, Key: key}, nil
}

// trusting is a client that trusts the authorities of a file besides the system's.
func trusting(caFile string) (*http.Client, error) {
	text, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("caFile: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("caFile: %s holds no certificate in PEM", caFile)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() // it is one
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: transport}, nil
}

// forgeFlags say which forge holds a repository.
type forgeFlags struct {
	forgeKind, forgeAPI, forgeTokenFile string
}

// noForge is the kind by which a user wants none to be asked.
const noForge = "none"

func (f *forgeFlags) register(fl *pflag.FlagSet) {
	fl.StringVar(&f.forgeKind, "forge", "", "github, gitlab, gitea (also Forgejo), or none (default: by the host of the repository)")
	fl.StringVar(&f.forgeAPI, "forge-api", "", "address of the forge's API, if it is not on the repository's host")
	fl.StringVar(&f.forgeTokenFile, "forge-token-file", "", "file with the token for the forge (default: $SLUICE_FORGE_TOKEN, that of the forge's own tool, or the password for git)")
}

// tokenVariables are where the tools of the forges keep their tokens.
var tokenVariables = map[string][]string{
	forge.GitHub: {"GITHUB_TOKEN", "GH_TOKEN"},
	forge.GitLab: {"GITLAB_TOKEN"},
	forge.Gitea:  {"GITEA_TOKEN"},
}

// forge is the one that holds a repository; nil: none is known.
func (f *forgeFlags) forge(remote gitsync.Remote) (forge.Repository, error) {
	kind := cmp.Or(f.forgeKind, forge.KindOf(remote.URL))
	if kind == noForge || kind == "" && f.forgeTokenFile == "" && f.forgeAPI == "" {
		return nil, nil
	}
	token, err := f.token(kind, remote)
	if err != nil {
		return nil, err
	}
	o := forge.Options{
		Kind: kind, Address: remote.URL, API: f.forgeAPI, Token: func(context.Context) (string, error) { return token, nil },
	}
	if remote.CAFile != "" {
		if o.HTTPClient, err = trusting(remote.CAFile); err != nil {
			return nil, usagef("--ca-file: %w", err)
		}
	}
	at, err := forge.New(o)
	if err != nil {
		return nil, usagef("--forge: %w", err)
	}
	return at, nil
}

// token is the one of the flag, else that of the environment, else what git signs in with.
func (f *forgeFlags) token(kind string, remote gitsync.Remote) (string, error) {
	if f.forgeTokenFile != "" {
		return secretFile(f.forgeTokenFile)
	}
	variables := append([]string{"SLUICE_FORGE_TOKEN"}, tokenVariables[kind]...)
	for _, name := range variables {
		if token := os.Getenv(name); token != "" {
			return token, nil
		}
	}
	if remote.Auth.PasswordFile != "" {
		return secretFile(remote.Auth.PasswordFile)
	}
	if remote.Auth.Password != "" {
		return remote.Auth.Password, nil
	}
	return "", usagef("--forge-token-file is missing, $%s is not set and git has no password: a token is needed to open the pull request. With --forge none a branch is pushed instead",
		strings.Join(variables, ", $"))
}
