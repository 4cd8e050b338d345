package forge_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/test/bed/forges"
)

// The suite on stand-ins, which are no proof of what the forges do; test/e2e runs it on a real Gitea.
func TestConformance(t *testing.T) {
	forges.Conformance(t, forges.NewGitHub(t))
	forges.Conformance(t, forges.NewGitLab(t))
}

// An installation of a GitHub App gets its tokens by the App's key, and knows its comments again by the App's name.
func TestGitHubApp(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	hub := forges.NewGitHub(t)
	o := hub.Options()
	o.App = &forge.App{ID: 1, InstallationID: 7, Key: pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})}
	app, err := forge.New(o)
	if err != nil {
		t.Fatal(err)
	}
	base := hub.Base(t)
	p, err := app.Create(t.Context(), forge.Pull{Title: "By an App", Head: hub.Push(t, "head", base).Branch, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"10 %", "20 %"} {
		if err := app.Comment(t.Context(), p.Number, "<!-- m -->", body); err != nil {
			t.Fatal(err)
		}
	}
	if got := hub.Comments(t, p.Number); !slices.Equal(got, []string{"<!-- m -->\n20 %"}) {
		t.Errorf("%q", got)
	}
	o.App.InstallationID = 8
	if app, err = forge.New(o); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Get(t.Context(), p.Number); !errors.Is(err, forge.ErrUnauthorized) && !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("an installation that is not there: %v", err)
	}
}

// Check runs count as statuses do.
func TestGitHubCheckRuns(t *testing.T) {
	hub := forges.NewGitHub(t)
	r := hub.Repository(t, forges.Writer)
	base := hub.Base(t)
	head := hub.Push(t, "head", base)
	p, err := r.Create(t.Context(), forge.Pull{Title: "x", Head: head.Branch, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []forge.Check{{Name: "unit", Verdict: forge.Success}, {Name: "docs", Verdict: "skipped"}, {Name: "lint", Verdict: "timed_out"}} {
		hub.Run(head.Commit, c)
	}
	v, checks, err := r.Checks(t.Context(), head.Commit)
	if err != nil || v != forge.Failure || len(checks) != 3 {
		t.Errorf("%s %+v %v", v, checks, err)
	}
	if err := r.Merge(t.Context(), *p, "no"); !errors.Is(err, forge.ErrNotReady) || !strings.Contains(err.Error(), "failed: lint") {
		t.Error(err)
	}
}
