package gitsync

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// A person's keys are in an ssh-agent, which signs and hands none out.
func TestSSHAgent(t *testing.T) {
	o := newOrigin(t)
	server := o.serveSSH()
	tip := o.commit("first", nil)
	key, err := os.ReadFile(server.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	private, err := ssh.ParseRawPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: private}); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "agent") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keys, conn) }()
		}
	}()
	r := server.remote(o)
	r.Auth.SSHKeyFile, r.Auth.SSHAgent = "", true
	t.Setenv("SSH_AUTH_SOCK", "")
	if _, err := mustOpen(t, r).Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "SSH_AUTH_SOCK is not set") {
		t.Errorf("without an agent: %v", err)
	}
	agentKeys = sync.OnceValues(dialAgent)
	t.Setenv("SSH_AUTH_SOCK", l.Addr().String())
	if s := mustFetch(t, mustOpen(t, r)); s.Commit != tip {
		t.Errorf("commit %s, want %s", s.Commit, tip)
	}
}

func TestValidate(t *testing.T) {
	password := Auth{Username: "u", Password: "s3cr3t"}
	key := Auth{SSHKeyFile: "/k", KnownHostsFile: "/h"}
	for _, tt := range []struct {
		name   string
		remote Remote
		want   []string // each is in the error; none: valid
	}{
		{"https", Remote{URL: "https://example.com/env.git"}, nil},
		{"https, password", Remote{URL: "https://example.com/env.git", Auth: password}, nil},
		{"https, token", Remote{URL: "https://example.com/env.git", Auth: Auth{TokenFile: "/t"}}, nil},
		{"http, anonymous", Remote{URL: "http://example.com/env.git"}, nil},
		{"http, loopback", Remote{URL: "http://127.0.0.1:80/env.git", Auth: password}, nil},
		{"http, loopback v6", Remote{URL: "http://[::1]/env.git", Auth: password}, nil},
		{"http, insecure allowed", Remote{URL: "http://example.com/env.git", Auth: password, AllowInsecure: true}, nil},
		{"http, credentials", Remote{URL: "http://example.com/env.git", Auth: password}, []string{"auth: credentials over http"}},
		{"http, write credentials", Remote{URL: "http://example.com/env.git", WriteAuth: password}, []string{"writeAuth: credentials over http"}},
		{"ssh", Remote{URL: "ssh://git@example.com:2222/env.git", Auth: key}, nil},
		{"scp-like", Remote{URL: "git@example.com:org/env.git", Auth: key}, nil},
		{"ssh, nothing", Remote{URL: "git@example.com:org/env.git"}, []string{"sshKeyFile", "knownHostsFile"}},
		{"ssh, password", Remote{URL: "ssh://example.com/env.git", Auth: Auth{SSHKeyFile: "/k", KnownHostsFile: "/h", Password: "p"}}, []string{"not used with ssh"}},
		{"file", Remote{URL: "file:///srv/env.git", AllowFile: true}, nil},
		{"path", Remote{URL: "../env.git", AllowFile: true}, nil},
		{"path with a colon", Remote{URL: "./a:b", AllowFile: true}, nil},
		{"file, not allowed", Remote{URL: "file:///srv/env.git"}, []string{"not allowed"}},
		{"path, not allowed", Remote{URL: "/srv/env.git"}, []string{"not allowed"}},
		{"git protocol", Remote{URL: "git://example.com/env.git"}, []string{`scheme "git"`}},
		{"remote helper", Remote{URL: "ext::sh -c touch% /tmp/x"}, []string{"helpers"}},
		{"option as host", Remote{URL: "ssh://-oProxyCommand=x/env.git", Auth: key}, []string{"host"}},
		{"option as path", Remote{URL: "git@example.com:--upload-pack=x", Auth: key}, []string{"path"}},
		{"password in url", Remote{URL: "https://u:s3cr3t@example.com/env.git"}, []string{"--username and --password-file"}},
		{"password in scp-like", Remote{URL: "u:s3cr3t@example.com:env.git"}, []string{"url"}},
		{"token in url", Remote{URL: "https://s3cr3t@example.com/env.git"}, []string{"no password"}},
		{"broken url", Remote{URL: "https://u:s3c/r3t@exa mple.com/%zz"}, []string{"not a valid URL"}},
		{"both", Remote{URL: "https://example.com/x", Auth: Auth{Password: "a", Token: "b"}}, []string{"not both"}},
		{"everything", Remote{Branch: "a..b", Timeout: -1, Limits: Limits{Pack: -1}}, []string{"branch", "timeout", "limits", "url: is required"}},
		{"option as branch", Remote{URL: "https://example.com/x", Branch: "-x"}, []string{"branch"}},
		{"ca for ssh", Remote{URL: "git@example.com:x", Auth: key, CAFile: "/ca"}, []string{"caFile"}},
	} {
		err := tt.remote.Validate()
		if (err == nil) != (len(tt.want) == 0) {
			t.Errorf("%s: error %v", tt.name, err)
			continue
		}
		for _, w := range tt.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q lacks %q", tt.name, err, w)
			}
		}
		if err != nil && strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: the secret is in %q", tt.name, err)
		}
	}
}

func TestAuthPrintsWithoutSecrets(t *testing.T) {
	const secret = "s3cr3t-value"
	r := Remote{URL: "https://example.com/x", Auth: Auth{Username: "u", Password: secret}, WriteAuth: Auth{Token: secret, Passphrase: secret}}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "remote", r, "auth", r.Auth)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "remote", r, "auth", r.Auth)
	js, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %q %v %s %s", r, r, r, r, r.Auth, &r.Auth, js, log.String())
	if strings.Contains(all, secret) {
		t.Error(all)
	}
}
