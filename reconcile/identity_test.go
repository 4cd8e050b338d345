package reconcile

import (
	"crypto/ed25519"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/signature"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// What Sluice writes is committed by who the operator says, and carries his signature.
func TestIdentity(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	allowed, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	signers := filepath.Join(t.TempDir(), "signers")
	if err := os.WriteFile(signers, append([]byte("bot@example.com "), ssh.MarshalAuthorizedKey(allowed)...), 0o600); err != nil {
		t.Fatal(err)
	}

	r := newRecorder(t)
	if got := r.Repository.cfg.Identity.String(); got != "Sluice <sluice@sluice.dev>" {
		t.Errorf("by default: %s", got)
	}
	r.Repository.cfg.Identity, r.Repository.cfg.Sign = gitsync.Identity{Name: "Bot", Email: "bot@example.com"}, signature.SSH(key)
	if err := r.Repository.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	to := r.bump("1.0.0")
	r.happened(rollout.Event{Seq: 1, Type: rollout.Installed, To: to})
	r.writeAll()
	list, _ := r.history(statusBranch)
	newest := list[len(list)-1]
	if newest.Author.String() != "Bot <bot@example.com>" {
		t.Errorf("committed by %s", newest.Author)
	}
	keys, err := signature.Load(signers, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Verify(newest, time.Now()); err != nil {
		t.Errorf("the signature: %v", err)
	}
}
