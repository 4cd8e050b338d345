package gitsync

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

func TestClassify(t *testing.T) {
	report := func(s string) error { return fmt.Errorf("command error on refs/heads/main: %s", s) }
	for _, tt := range []struct {
		err      error
		reported bool
		want     pushOutcome
	}{
		{report("non-fast-forward"), true, pushLost},
		{report("fetch first"), true, pushLost},
		{report("cannot lock ref 'refs/heads/main': is at 1234 but expected 5678"), true, pushLost},
		{report("incorrect old value provided"), true, pushLost},
		{report("failed to update ref"), true, pushLost},
		{report("stale info"), true, pushLost},
		{report("reference already exists"), true, pushLost},
		{report("reference does not exist"), true, pushLost},
		{report("LOCK_FAILURE"), true, pushLost},
		{report("failed to lock"), true, pushLost},
		{report("lock error: refs/heads/main"), true, pushLost},
		{report("non-fast forward"), true, pushLost},
		{report("invalid old id sent"), true, pushLost},
		{report("already exists"), true, pushLost},
		{report("no such ref"), true, pushLost},
		{report("cannot lock ref 'refs/heads/main': Unable to create '/srv/env.git/refs/heads/main.lock': File exists."), true, pushLost},
		{report("TF401028: The reference 'refs/heads/main' has already been updated by another client, so you cannot update it. Please try again."), true, pushLost},
		{errors.New("non-fast-forward update: refs/heads/main"), false, pushLost},
		{plumbing.ErrObjectNotFound, false, pushLost},
		{report("pre-receive hook declined"), true, pushRejected},
		{report("protected branch hook declined"), true, pushRejected},
		{report("pre-receive hook declined: fetch first"), true, pushRejected},
		{report("push declined due to repository rule violations"), true, pushRejected},
		{report("TF402455: Pushes to this branch are not permitted; you must use a pull request to update this branch."), true, pushRejected},
		{report("prohibited by Gerrit: not permitted: update"), true, pushRejected},
		{report("branch is currently checked out"), true, pushRejected},
		{report("something that nobody has heard of"), true, pushRejected},
		{fmt.Errorf("%w: x", transport.ErrAuthorizationFailed), false, pushRejected},
		{fmt.Errorf("%w: x", transport.ErrAuthenticationRequired), false, pushRejected},
		{errors.New("ssh: handshake failed: ssh: unable to authenticate, attempted methods [none publickey]"), false, pushRejected},
		{report("unpacker error"), true, pushFailed},
		{report("internal server error"), true, pushFailed},
		{report("failure"), true, pushFailed},
		{report("server bug; ref not processed"), true, pushFailed},
		{errors.New("unpack error: unable to write sha1 file"), false, pushFailed},
		{errors.New("connection reset by peer"), false, pushFailed},
		{errors.New("EOF"), false, pushFailed},
	} {
		if got := classify(tt.err, tt.reported); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}

func FuzzClassify(f *testing.F) {
	for _, w := range lostRace {
		f.Add(strings.ToUpper(w), true)
	}
	f.Add("pre-receive hook declined", true)
	f.Fuzz(func(t *testing.T, text string, reported bool) {
		got := classify(errors.New(text), reported)
		if strings.Contains(text, "hook declined") && got != pushRejected {
			t.Errorf("%q: a hook's no is taken for %v", text, got)
		}
		if got == pushRejected && !reported && !strings.Contains(strings.ToLower(text), "hook declined") && !unauthorized(errors.New(text)) {
			t.Errorf("%q: rejected, though the remote reported nothing", text)
		}
		for _, w := range lostRace {
			if got == pushFailed && strings.Contains(strings.ToLower(text), w) {
				t.Errorf("%q: a lost race is taken for a failure", text)
			}
		}
	})
}
