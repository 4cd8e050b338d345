package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/gitsync/signature"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// signs has commits of a person signed with a key in the world's directory; empty: not signed.
func (w *world) signs(key string) {
	w.Helper()
	w.sign = nil
	if key != "" {
		sign, err := signature.Signer(filepath.Join(w.dir, key), "")
		w.must(err)
		w.sign = sign
	}
}

// TestUnsignedMerge: where an environment wants signatures, what nobody has signed is a fault that touches nothing, also after a
// restart. A signed commit on top delivers it, and the agent's own rollback commit counts.
func TestUnsignedMerge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.behave("0.0.131", behaviour.Behaviour{ErrorRate: 0.3})
	w.must(os.WriteFile(filepath.Join(w.dir, "signers"), []byte("person@example.com "+w.key("ann")+"sluice@sluice.dev "+w.key("bot")), 0o600))
	w.committer, w.verify = "signingKey: bot", "allowedSigners: signers"
	w.signs("ann")
	w.commit("signed for", map[string]string{"README.md": "An environment.\n"})
	w.install()
	before := w.pods(app)

	w.signs("")
	merge := w.bump("0.0.130")
	fault := "nothing is delivered: commit " + merge[:10] + " of A Person <person@example.com> can't be trusted: its commit is not signed"
	w.says(fault)
	w.kill()
	w.start()
	w.intervals(3)
	w.says(fault)
	if got := story(w.events()); len(got) != 2 {
		t.Errorf("the audit log says %v", got)
	}
	w.samePods(before)
	if out, code := w.sluice("validate", w.asAgent()...); code != 3 || !strings.Contains(out, fault) {
		t.Errorf("validate ends with %d and says %s", code, out)
	}
	if out, code := w.sluice("validate", append(w.asAgent(), "--commit", merge)...); code != 0 || !strings.Contains(out, "the agent would refuse this commit: "+fault) {
		t.Errorf("validate of the commit ends with %d and says %s", code, out)
	}

	w.signs("ann")
	w.commit("looked at", map[string]string{"README.md": "An environment that was looked at.\n"})
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.silent(fault)
	w.bump("0.0.131")
	w.awaitEvent(rollout.RolledBack, "0.0.131", 1)
	w.awaitEvent(rollout.RollbackCommitted, "0.0.131", 1)
	if tip := w.history("main")[0]; tip.Committer.Email != "sluice@sluice.dev" || tip.Signature == "" {
		t.Errorf("the newest commit is %q of %s, signed %t", tip.Message, tip.Committer.Email, tip.Signature != "")
	}
	w.intervals(2)
	if out, code := w.sluice("status"); code != 0 || strings.Contains(out, "can't be trusted") {
		t.Errorf("status ends with %d and says %s", code, out)
	}
	if out, code := w.sluice("validate", w.asAgent()...); code != 0 || strings.Contains(out, "can't be trusted") {
		t.Errorf("validate ends with %d and says %s", code, out)
	}
	w.servesGit()
}

// asAgent are flags of commands that are to see what the agent sees.
func (w *world) asAgent() []string {
	return []string{
		"--agent-config", filepath.Join(w.dir, "agent.yaml"), "--chart-repository", w.bed.Charts.URL(), "--chart-username", bed.User,
		"--chart-password-file", filepath.Join(w.dir, "password"),
	}
}
