package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestComplete: a shell is offered the apps of a clone and its environments, and nothing of a repository elsewhere.
func TestComplete(t *testing.T) {
	f := newFollowed(t)
	f.asks("1.0.0")
	f.git("branch", "sluice/status/production/us")
	f.git("branch", "sluice/status/staging")
	for _, c := range []struct{ args, want string }{
		{"status --repo " + f.dir + " w", "web\n"},
		{"pause --repo " + f.dir + " x", ""},
		{"plan --repo " + f.dir + " web ", ""},
		{"status --repo " + f.dir + " --environment ", "production\nstaging\n"},
		{"pause --repo " + f.dir + " --environment s", "staging\n"},
		{"plan --repo https://git.example.com/production.git --environment ", ""},
		{"log --repo https://git.example.com/production.git w", ""},
	} {
		root := newRoot()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&bytes.Buffer{})
		root.SetArgs(append([]string{"__complete"}, strings.Split(c.args, " ")...))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := out.String(), c.want+":4\n"; got != want { // 4: no file names
			t.Errorf("%s: %q, want %q", c.args, got, want)
		}
	}
}
