package audit

import (
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

func TestDefused(t *testing.T) {
	for in, want := range map[string]string{
		"Fixes #1 @acme/security [skip ci] 42.00 > 1":                   "Fixes # 1 @ acme/security (skip ci) 42.00 > 1",
		"closes GH-1, resolves acme/web#2, fixed: #3":                   "closes - GH- 1, resolves acme/web# 2, fixed: # 3",
		"Closes https://git.example.com/a/b/issues/12":                  "Closes - https://git.example.com/a/b/issues/12",
		"fixes PROJ-12 #close #time 2h":                                 "fixes - PROJ-12 # close # time 2h",
		"[ci skip] [CI-Skip] [no ci] [skip azurepipelines] ***NO_CI***": "(ci skip) (CI-Skip) (no ci) (skip azurepipelines) NO_CI",
		"skip-checks: true":                                             "skip-checks = true",
		"@ann, (@bob) and\t@x_y":                                        "@ ann, (@ bob) and\t@ x_y",
		"/tag v1.0\n/close":                                             " /tag v1.0\n /close",
		"Ann <ann@example.com> says 69.17% < 99% [4]":                   "Ann <ann@example.com> says 69.17% < 99% [4]",
		"env[name=\"A\"] of 1.0.0-GHI-1, path /tag":                     "env[name=\"A\"] of 1.0.0-GHI-1, path /tag",
	} {
		got := defused(in)
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
		if again := defused(got); again != got {
			t.Errorf("%s again: %s", got, again)
		}
	}
}

// forges is what GitHub and GitLab document that they act upon, as they look for it.
var forges = regexp.MustCompile(`(?i)(^|\W)@[a-z0-9]|#[0-9]|\bGH-[0-9]|\[(ci[ _-]skip|skip[ _-]ci|no ci|skip actions|actions skip)\]|\*\*\*NO_CI\*\*\*|^skip-checks: *true|(?m)^/tag`)

// TestMessagesAreInert holds that no message that Sluice writes has a word of somebody's that a forge acts upon, and that its
// trailers are read as before. What a person asks is his own, as he wrote it.
func TestMessagesAreInert(t *testing.T) {
	const text = "Fixes #1 @acme/security [skip ci] ***NO_CI*** closes GH-1 skip-checks: true [skip\nci]"
	e := rollout.Event{
		Seq: 3, Time: noon, Type: rollout.RolledBack, Rollout: 1, From: rollout.Release{Version: "1.0.0-GH-1", Digest: "a"},
		To: rollout.Release{Version: "2.0.0", Digest: "b", Commit: "c"}, Reason: text, By: "@ann <ann@example.com>",
		Results: []analysis.Result{{Check: "@acme [ci skip]", Outcome: analysis.Fail, Reason: "/tag " + text}},
	}
	revert := rollout.Revert{From: e.From, To: e.To, Reason: "/tag x " + text}
	for name, msg := range map[string]string{
		"event": eventMessage(names, "web", e), "fault": faultMessage(names, "web", text, "", noon),
		"rollback": RollbackMessage(names, "web", revert),
	} {
		// A version is an identifier, which only stands as a trailer's value, or beside no word.
		if found := forges.FindString(strings.ReplaceAll(msg, e.From.Version, "")); found != "" {
			t.Errorf("%s: %q in\n%s", name, found, msg)
		}
		got, ok := ParseMessage(msg)
		if !ok || !strings.Contains(got.Reason, "Fixes # 1 @ acme/security (skip ci) NO_CI") {
			t.Errorf("%s reads back as %+v", name, got)
		}
	}
	if got, _ := ParseMessage(eventMessage(names, "web", e)); got.From.Version != e.From.Version || got.By != "@ ann <ann@example.com>" {
		t.Errorf("got %+v", got)
	}
	if !IsRollback(RollbackMessage(names, "web", revert), "web", revert) {
		t.Error("the rollback is not known again")
	}
	asked := Request{Names: names, App: "web", Kind: rollout.Abort, Reason: text}.Message()
	if !strings.Contains(asked, clean(text, longestText)) {
		t.Errorf("a person's words were changed:\n%s", asked)
	}
}
