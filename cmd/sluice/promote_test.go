package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/promotion"
)

// busyForge answers with an error as often as it has some left.
type busyForge struct {
	promotion.Forge
	errors []error
	opened []forge.Pull
}

func (f *busyForge) next() error {
	if len(f.errors) == 0 {
		return nil
	}
	err := f.errors[0]
	f.errors = f.errors[1:]
	return err
}

func (f *busyForge) Find(context.Context, string, string) (*forge.Pull, error) { return nil, nil }

func (f *busyForge) Create(_ context.Context, p forge.Pull) (*forge.Pull, error) {
	if err := f.next(); err != nil {
		return nil, err
	}
	p.Number, p.State = len(f.opened)+1, forge.Open
	f.opened = append(f.opened, p)
	return &p, nil
}

// What is pushed before a busy forge fails is found again, and becomes one pull request; a forge that refuses is not asked again.
func TestProposesUntilTheForgeAnswers(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=a@b",
			"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=a@b")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	for name, text := range map[string]string{
		"env/Chart.yaml":        "apiVersion: v1\nname: env\nversion: 0.0.1\n",
		"env/requirements.yaml": "dependencies:\n- name: web\n  version: 1.0.0\n  repository: https://charts.example.com\n",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "-q", "-b", "main")
	git("add", ".")
	git("commit", "-q", "-m", "the environment")
	git("config", "receive.denyCurrentBranch", "ignore")

	for name, test := range map[string]struct {
		answers []error
		opened  int
		want    error
	}{
		"busy":    {[]error{forge.ErrUnavailable, forge.ErrUnavailable}, 1, nil},
		"refuses": {[]error{forge.ErrForbidden}, 0, forge.ErrForbidden},
	} {
		writer, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: gitsync.Remote{URL: dir, AllowFile: true, Branch: "main"}}, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		var said strings.Builder
		busy := &busyForge{errors: test.answers}
		p := &promoter{promoting: &promoting{poll: time.Millisecond}, w: &said, result: promoted{Environment: "production"}}
		_, err = p.propose(t.Context(), &promotion.Proposer{Branch: writer, Base: "main", Forge: busy}, promotion.Proposal{
			Environment: "production", Path: ".", App: "web", To: environments.Promotion{Version: "1.1.0"}, Strategy: environments.PromotionAuto,
		})
		if !errors.Is(err, test.want) || len(busy.opened) != test.opened || len(busy.errors) != 0 {
			t.Errorf("%s: %v, %+v", name, err, busy)
		}
		if waited := strings.Count(said.String(), "production: waiting: "); waited != test.opened {
			t.Errorf("%s: it says %s", name, said.String())
		}
	}
}
