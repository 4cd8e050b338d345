package e2e

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// ask runs a command as a person, who waits for the answer, and compares what is printed with lines in which * is anything,
// further lines too. It returns the commit on the command branch.
func (w *world) ask(code int, who, command string, want ...string) string {
	w.Helper()
	if !strings.Contains(who, "<") {
		who += " <" + strings.ToLower(who) + "@example.com>"
	}
	args := append(strings.Fields(command)[1:], "--wait", "--reason", "because", "--author", who, app)
	out, got := w.sluice(strings.Fields(command)[0], args...)
	want = slices.Insert(want, 0, "asked: * in "+w.name+" (commit * on sluice/commands/"+w.name+")")
	pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.Join(want, "\n")), `\*`, "(?s:.*)")
	if got != code || !regexp.MustCompile("^"+pattern+"\n$").MatchString(out) {
		w.Errorf("%s exits with %d, expected %d, and says\n%s\nwant\n%s", command, got, code, out, strings.Join(want, "\n"))
	}
	return w.history(reconcile.CommandBranch(w.name))[0].Hash
}

// answered is the one event that answers a command.
func (w *world) answered(command string) audit.Entry {
	w.Helper()
	var found []audit.Entry
	for _, e := range w.events() {
		if e.Command == command {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		w.Fatalf("command %s is answered by %v", command, story(found))
	}
	return found[0]
}

// says waits until sluice status says something of the app.
func (w *world) says(what string) {
	w.Helper()
	w.await("the status to say "+what, func() (bool, string) {
		out, _ := w.sluice("status")
		return strings.Contains(out, what), out
	})
}

// slowly is a policy whose steps leave people the time to ask something.
func (w *world) slowly() {
	w.checkInterval = 6 * time.Second
}

// newCanary is a world in which 0.0.130 is at its first step.
func newCanary(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.slowly()
	w.install()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 1)
	return w
}

// TestCommands: what people ask of a rollout is done, answered once, and told with their name and reason. Nobody goes
// unserved, and of the routing only the weights change.
func TestCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.slowly()
	w.install()
	unserved := w.bed.Traffic.Counts(w.name, w.host()).Unserved
	refused := w.ask(3, "Ann", "pause", app+": refused a command by Ann (*): Pause: no canary is being analyzed")
	if e := w.answered(refused); e.By != "Ann <ann@example.com>" || e.Type != rollout.CommandRefused {
		t.Errorf("answered with %+v", e)
	}

	// Nothing begins while it is held.
	before := w.live()
	w.ask(0, "Ann", "hold", app+": held by Ann, no rollout starts (*): because")
	w.bump("0.0.130")
	w.says("held by Ann: because")
	w.intervals(3)
	for name, o := range w.live() {
		if was := before[name]; was == nil || was.GetResourceVersion() != o.GetResourceVersion() {
			t.Errorf("%s was written while the app was held", name)
		}
	}
	w.ask(3, "Bob", "hold", app+": refused a command by Bob (*): Hold: it is already held by Ann: because")
	w.ask(0, "Bob", "unhold", app+": hold ended by Bob (*): because")
	w.awaitEvent(rollout.RolloutStarted, "0.0.130", 1)

	// A pause keeps the weight, an advance does not wait for the check.
	w.awaitEvent(rollout.Advanced, "0.0.130", 1)
	w.ask(0, "Ann", "pause", app+": paused by Ann at 10% (0.0.129 -> 0.0.130): because")
	w.says("paused by Ann: because")
	routing := w.live()
	w.intervals(6)
	for name, o := range w.live() {
		if was := routing[name]; was == nil || strings.HasPrefix(name, "VirtualService") && was.GetResourceVersion() != o.GetResourceVersion() {
			t.Errorf("%s was written while the app was paused", name)
		}
	}
	w.ask(0, "Bob", "resume", app+": resumed by Bob at 10% (0.0.129 -> 0.0.130): because")
	w.ask(0, "Bob", "advance", app+": advanced to 20% (0.0.129 -> 0.0.130): advanced by Bob: because")
	w.ask(0, "Bob", "advance --full", app+": promoting (*): advanced to the end by Bob: because", app+": promoted (0.0.129 -> 0.0.130)")

	// An abort is a rejection, in git too.
	list := w.file("main", requirements)
	w.bump("0.0.131")
	w.awaitEvent(rollout.Advanced, "0.0.131", 1)
	w.ask(0, "Ann", "abort", app+": rolling back 0.0.131 to 0.0.130: aborted by Ann: because", "*"+app+": rolled back 0.0.131 to 0.0.130: aborted by Ann: because")
	w.awaitEvent(rollout.RolledBack, "0.0.131", 1)
	w.awaitEvent(rollout.RollbackCommitted, "0.0.131", 1)
	if got := w.file("main", requirements); got != list {
		t.Errorf("git says\n%s, want\n%s", got, list)
	}
	w.ask(3, "Ann", "retry", app+": refused a command by Ann (*): Retry: the release in git was not rejected")
	w.settled()
	if n := w.bed.Traffic.Counts(w.name, w.host()).Unserved; n > unserved {
		t.Errorf("%d requests found no pod", n-unserved)
	}
}

// TestRollbackCommand: what was promoted and turns out bad is taken back by a person, at once and without a second canary. Git,
// Helm's records and the status say the same, and what was taken back is not tried again by itself.
func TestRollbackCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	w.quiet()
	list := w.file("main", requirements)
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.ask(3, "Ann", "rollback --to 0.0.128", app+": refused a command by Ann (*): Rollback: 0.0.128 is not one of the last 5 releases that served")
	unserved := w.bed.Traffic.Counts(w.name, w.host()).Unserved
	command := w.ask(0, "Ann", "rollback", app+": rolling back 0.0.130 to 0.0.129: rolled back by Ann: because",
		"*"+app+": rolled back 0.0.130 to 0.0.129: rolled back by Ann: because")
	began := w.answered(command)
	for _, r := range w.writes(began.Time) {
		if strings.HasSuffix(strings.SplitN(r.Path, "?", 2)[0], "/deployments/"+app) {
			t.Logf("the Deployment was written %s after the command was taken", r.Time.Sub(began.Time))
			break
		}
	}
	w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
	if got := w.file("main", requirements); got != list {
		t.Errorf("git says\n%s, want\n%s", got, list)
	}
	if tip := w.history("main")[0]; !strings.Contains(tip.Message, "rolled back by Ann: because") {
		t.Errorf("the rollback commit does not say who asked: %s", tip.Message)
	}
	w.quiet()
	w.servesGit()
	w.awaitHelmHistory("1 superseded 0.0.129", "2 failed 0.0.130", "3 deployed 0.0.129")
	w.says("0.0.130 was rolled back: rolled back by Ann: because")
	if n := w.bed.Traffic.Counts(w.name, w.host()).Unserved; n > unserved {
		t.Errorf("%d requests found no pod", n-unserved)
	}
	if got := story(w.events()); slices.Contains(got[len(got)-3:], "RolloutStarted 0 0.0.129") {
		t.Errorf("what served before is judged once more: %v", got)
	}
}

// TestApproval: a release waits for somebody else than who asked for it, before it begins and before it is promoted.
func TestApproval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	w.commit("approvals", map[string]string{"env/values.yaml": w.values("hello", 2) +
		"    canaryAnalysis:\n      maxWeight: 10\n      approval: [begin, promote]\n      fourEyes: true\n"})
	w.bump("0.0.130")
	w.says("waiting: gate approval is closed: not approved yet")
	w.ask(3, "A Person <person@example.com>", "approve", app+": refused a command by A Person (*): Approve: A Person asked for 0.0.130: "+
		"somebody else must approve it")
	w.ask(0, "Bob", "approve", app+": approved by Bob (0.0.129 -> 0.0.130): because")
	w.awaitEvent(rollout.Waiting, "0.0.130", 2)
	if shares := w.canaryShares(); len(shares) == 0 || slices.Max(shares) > 10 {
		t.Errorf("the canary had %v", shares)
	}
	w.ask(0, "Bob", "approve", app+": approved by Bob (0.0.129 -> 0.0.130): because")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
}

// TestRetry: where git is put back by people alone, what was aborted is tried again when somebody asks.
func TestRetry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.slowly()
	w.commit("rollbacks are proposed", map[string]string{
		"sluice.yaml": w.file("main", "sluice.yaml") + "writeBack: {mode: PullRequest}\n",
	})
	w.install()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 1)
	w.ask(0, "Ann", "abort", app+": rolling back*: rolled back*")
	w.awaitEvent(rollout.RollbackProposed, "0.0.130", 1)
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.ask(0, "Ann", "retry", app+": retry of 0.0.130 requested by Ann: because")
	w.awaitEvent(rollout.RolloutStarted, "0.0.130", 2)
	w.ask(0, "Ann", "advance --full", app+": *")
}

// TestCommandsAreTakenOnce: two people at once, an agent that dies in between, a command that comes too late, and those that are
// another cluster's or another app's: each is answered once, or not at all.
func TestCommandsAreTakenOnce(t *testing.T) {
	t.Parallel()
	w := newCanary(t)
	w.kill()
	var people sync.WaitGroup
	for _, who := range []string{"Ann", "Bob"} {
		people.Go(func() {
			w.sluice("pause", "--reason", "both", "--author", who+" <x@example.com>", app)
		})
	}
	people.Wait()
	w.sluice("abort", "--reason", "late", "--expires", "1ns", app)
	w.byHand("Sluice-App: " + app + "\nSluice-Cluster: eu\nSluice-Command: abort")
	w.byHand("Sluice-App: another\nSluice-Command: abort")
	w.byHand("Sluice-Command: abort")
	asked := w.history(reconcile.CommandBranch(w.name))
	w.start()
	w.awaitEvent(rollout.CommandRefused, "0.0.130", 1)
	w.kill() // be it before or after the others are taken
	w.start()
	w.awaitEvent(rollout.CommandRefused, "0.0.130", 2)
	w.sluice("resume", "--reason", "all well", "--wait", app)
	answers := map[string]int{}
	for _, e := range w.events() {
		answers[e.Command]++
	}
	// Newest first: no app, another app, another cluster, late, and the two.
	for i, want := range []int{0, 0, 0, 1, 1, 1} {
		if got := answers[asked[i].Hash]; got != want {
			t.Errorf("%q is answered %d times, want %d", asked[i].Subject(), got, want)
		}
	}
	if log := w.log.tail(1 << 20); !strings.Contains(log, "it has no trailer Sluice-App: expected the name of an app") {
		t.Error("what nobody can answer is not told in the log")
	}
	w.sluice("advance", "--full", "--reason", "enough", "--wait", app)
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
}

// Where the agent asks for signatures, a command counts only with one of its author's.
func TestSignedCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(os.WriteFile(filepath.Join(w.dir, "signers"), []byte("ann@example.com "+w.key("ann")), 0o600))
	w.commands = "allowedSigners: signers, requireSigned: true"
	w.must(os.WriteFile(filepath.Join(w.dir, ".gitconfig"), []byte("[gpg]\n\tformat = ssh\n[user]\n\tsigningKey = ~/ann\n"), 0o600))
	w.install()
	w.ask(3, "Ann", "hold", app+": refused a command by Ann (*): Hold: its commit is not signed")
	w.ask(3, "Bob", "hold --sign", app+": refused a command by Bob (*): Hold: it is signed with key SHA256:*, which is not one of bob@example.com now")
	command := w.ask(0, "Ann", "hold --sign", app+": held by Ann, no rollout starts (*): because")
	if e := w.answered(command); !e.Verified {
		t.Errorf("what is verified is told as a claim: %+v", e)
	}
	w.must(os.WriteFile(filepath.Join(w.dir, ".gitconfig"), []byte("[gpg]\n\tformat = ssh\n[user]\n\tsigningKey = ~/bob\n"), 0o600))
	w.key("bob")
	w.ask(3, "Ann", "unhold --sign", app+": refused a command by Ann (*): Unhold: it is signed with key SHA256:*, which is not known")
	// Keys come and go while the agent runs.
	w.must(os.WriteFile(filepath.Join(w.dir, "signers"), []byte("ann@example.com "+w.key("bob")), 0o600))
	w.ask(0, "Ann", "unhold --sign", app+": hold ended by Ann (*): because")
}

// key is a person's public key; the private one is in the world's directory, under their name.
func (w *world) key(name string) string {
	w.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte(name[:1]), ed25519.SeedSize))
	block, err := ssh.MarshalPrivateKey(private, "")
	w.must(err)
	w.must(os.WriteFile(filepath.Join(w.dir, name), pem.EncodeToMemory(block), 0o600))
	public, err := ssh.NewPublicKey(private.Public())
	w.must(err)
	return string(ssh.MarshalAuthorizedKey(public))
}

// While git is away a command goes to the cluster, where it is done; the audit log has the answer when git is back.
func TestCommandWhileGitIsAway(t *testing.T) {
	t.Parallel()
	w := newCanary(t)
	repository := w.bed.Git.Path(w.name)
	w.must(os.Rename(repository, repository+".away"))
	out, said, code := w.run("abort", "--kubeconfig", w.bed.Kubeconfig, "--reason", "it fails", "--wait", app)
	if want := "asked: abort " + app + " in " + w.name + " (in the cluster, namespace jx-" + w.name + ")\n" +
		app + ": accepted; the outcome is on the status branch\n"; code != 0 || out != want {
		t.Errorf("exits with %d and says %s%s; want %s", code, out, said, want)
	}
	w.settled()
	if _, said, code := w.run("hold", "--kubeconfig", w.bed.Kubeconfig, "--reason", "x", "another"); code != 1 || !strings.Contains(said, `has no app "another" here`) {
		t.Errorf("another app: exits with %d and says %s", code, said)
	}
	w.must(os.Rename(repository+".away", repository))
	e := w.awaitEvent(rollout.RollbackStarted, "0.0.130", 1)
	if e.By != "Carol <carol@example.com>" || e.Reason != "aborted by Carol: it fails" {
		t.Errorf("answered with %+v", e.Event)
	}
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
}

// A commit that takes every app off the list removes none until a person says that it is meant, and git says who did.
func TestAccept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(w.bed.Charts.AddChart(small()))
	w.commit("two apps", map[string]string{requirements: w.smallApps(2, "1.0.0"), "env/values.yaml": "{}\n"})
	w.start()
	w.await("both apps to serve", func() (bool, string) { n := w.ready(); return n == 2, fmt.Sprint(n) })
	emptied := w.commit("none", map[string]string{requirements: "dependencies: []\n"})
	w.says("is not delivered: it lists no app, and 2 are delivered; fix it, or if it is intended run sluice accept --all --to " + emptied[:10])
	w.intervals(2)
	if n := w.ready(); n != 2 {
		t.Errorf("%d apps serve", n)
	}
	if _, said, code := w.run("accept", "--reason", "we move out", "app-0"); code != 2 || !strings.Contains(said, "accept is for the whole environment") {
		t.Errorf("exits with %d: %s", code, said)
	}
	if _, said, code := w.run("accept", "--all", "--to", "0123456789", "--reason", "we move out"); code != 1 || !strings.Contains(said, "is not the tip of the branch") {
		t.Errorf("exits with %d: %s", code, said)
	}
	w.sluice("accept", "--all", "--to", emptied[:10], "--reason", "we move out")
	if asked := w.history(reconcile.CommandBranch(w.name))[0]; !strings.Contains(asked.Message, "Sluice-To: "+emptied) {
		t.Errorf("the command names another commit: %s", asked.Message)
	}
	w.await("both apps to be gone", func() (bool, string) {
		names := w.names("apps", "v1", "deployments")
		return len(names) == 0, strings.Join(names, ", ")
	})
	w.await("git to say who accepted it", func() (bool, string) {
		for _, c := range w.history(w.statusBranch()) {
			if strings.Contains(c.Message, "accepted by Carol: we move out") {
				return true, ""
			}
		}
		return false, ""
	})
}

// byHand adds a commit with these trailers to the command branch.
func (w *world) byHand(trailers string) {
	w.Helper()
	remote := w.remote(reconcile.CommandBranch(w.name))
	writer, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: remote, Create: true}, w.TempDir())
	w.must(err)
	defer writer.Close()
	_, err = writer.Commit(w.Context(), func(*gitsync.Snapshot) (*gitsync.Change, error) {
		return &gitsync.Change{Empty: true, Message: "by hand\n\n" + trailers}, nil
	})
	w.must(err)
}

// Whoever may not push may not ask, and hears why.
func TestCommandsOfThoseWhoMayNotPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(w.bed.Git.DenyPushes(w.name, "refs/heads/"+reconcile.CommandBranch(w.name), "only the team may ask"))
	if _, said, code := w.run("hold", "--reason", "x", app); code != 1 || !strings.Contains(said, "only the team may ask") {
		t.Errorf("exits with %d: %s", code, said)
	}
	w.must(w.bed.Git.DenyPushes(w.name, "refs/heads/"+reconcile.CommandBranch(w.name), ""))
	w.sluice("hold", "--reason", "x", app)
}

// An environment with a command branch costs no request more than one without.
func TestCommandBranchAtRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	w.quiet()
	w.sluice("resume", "--reason", "x", "--wait", app)
	w.quiet()
	begin, before := time.Now(), w.bed.Git.Requests(w.name)
	w.intervals(5)
	polls, asked := int(time.Since(begin).Seconds())+2, w.bed.Git.Requests(w.name)-before
	if asked == 0 || asked > polls {
		t.Errorf("%d requests in the time of %d looks at the branch", asked, polls)
	}
	w.wroteNothing("at rest", begin)
}
