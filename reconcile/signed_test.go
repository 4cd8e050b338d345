package reconcile

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/signature"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// keyOf makes a key with ssh-keygen, and returns its file and its line in a list of allowed signers.
func keyOf(t *testing.T, email string) (file, line string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "key")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	key, err := gitsync.ReadKey(file, "")
	if err != nil {
		t.Fatal(err)
	}
	return file, email + " " + string(ssh.MarshalAuthorizedKey(key.PublicKey()))
}

// TestUnsignedTip: what nobody known has signed is not delivered, whoever accepts it and also beneath a rollback commit of the
// agent, until a signed commit is pushed on top. The signatures of people are git's own.
func TestUnsignedTip(t *testing.T) {
	ann, annLine := keyOf(t, "ann@example.com")
	bob, _ := keyOf(t, "ann@example.com")
	bot, botLine := keyOf(t, "bot@example.com")
	signers := filepath.Join(t.TempDir(), "signers")
	if err := os.WriteFile(signers, []byte(annLine+botLine), 0o600); err != nil {
		t.Fatal(err)
	}

	r := newRecorder(t)
	sign, err := signature.Signer(bot, "")
	if err != nil {
		t.Fatal(err)
	}
	r.Repository.cfg.Identity, r.Repository.cfg.Sign = gitsync.Identity{Name: "Bot", Email: "bot@example.com"}, sign
	if err := r.Repository.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := r.bump("1.0.0")
	r.Repository.cfg.Trusted = func() (*signature.Keys, error) { return signature.Load(signers, "") }

	clone := filepath.Join(t.TempDir(), "clone")
	url := strings.TrimPrefix(r.Repository.cfg.Remote.URL, "file://")
	git(t, ".", "", "clone", "--quiet", "--branch", "main", url, clone)
	// push has a person push a version, signed with a key; empty: not signed.
	push := func(version, key string) rollout.Release {
		t.Helper()
		git(t, clone, "", "pull", "--quiet", "--ff-only")
		list := "dependencies:\n- name: web\n  version: " + version + "\n  repository: https://charts.example.com\n"
		if err := os.WriteFile(filepath.Join(clone, "env", "requirements.yaml"), []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"-c", "user.name=Ann", "-c", "user.email=ann@example.com", "commit", "--quiet", "--allow-empty", "-am", version}
		if key != "" {
			args = append([]string{"-c", "gpg.format=ssh", "-c", "user.signingKey=" + key}, append(args, "-S")...)
		}
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = clone
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		git(t, clone, "", "push", "--quiet")
		r.look()
		return rollout.Release{Version: version, Digest: "sha256:" + version, Commit: strings.TrimSpace(git(t, clone, "", "rev-parse", "HEAD"))}
	}
	expect := func(when, fault, version string) {
		t.Helper()
		got := text(r.envFault)
		if fault == "" && got != "" || !strings.Contains(got, fault) {
			t.Fatalf("%s: the fault is %q, want %q", when, got, fault)
		}
		if asked := r.apps["web"].input.Chart.Version; asked != version {
			t.Fatalf("%s: version %s is asked for, want %s", when, asked, version)
		}
	}

	push("1.1.0", ann)
	expect("signed", "", "1.1.0")
	failed := push("1.2.0", "")
	expect("not signed", failed.Commit[:10]+" of Ann <ann@example.com> can't be trusted: its commit is not signed", "1.1.0")
	r.accept(failed.Commit)
	r.readAgain()
	r.look()
	expect("accepted", "is not signed", "1.1.0")
	if _, err := r.Repository.Revert(t.Context(), environments.WriteBackCommit, "web", rollout.Revert{From: failed, To: first, Rollout: 1}); err != nil {
		t.Fatal(err)
	}
	r.look()
	list, _ := r.history("main")
	if newest := list[len(list)-1]; newest.Committer.Email != "bot@example.com" || newest.Signature == "" {
		t.Fatalf("no rollback commit of the agent's: %+v", newest.Committer)
	}
	expect("beneath a rollback commit", failed.Commit[:10]+" of Ann", "1.1.0")
	push("1.3.0", bob)
	expect("with another key", "which is not known", "1.1.0")
	bad := push("1.4.0", ann)
	expect("signed on top", "", "1.4.0")
	if _, err := r.Repository.Revert(t.Context(), environments.WriteBackCommit, "web", rollout.Revert{From: bad, To: first, Rollout: 2}); err != nil {
		t.Fatal(err)
	}
	r.look()
	expect("a rollback commit upon a signed one", "", "1.0.0")
}
