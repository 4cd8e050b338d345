package gitsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"

	"github.com/sluice-cd/sluice/gitsync/address"
	"github.com/sluice-cd/sluice/gitsync/redact"
)

// sshSession runs one git service over SSH. It stands in for go-git's own client, whose handshake can't be
// cancelled and which reads the user's ssh_config.
// It implements both session interfaces of go-git; one of them is used.
type sshSession struct {
	service string
	conn    net.Conn
	client  *ssh.Client
	session *ssh.Session
	in      io.WriteCloser
	out     io.Reader
	errs    boundedBuffer
	unwatch func() bool
	refs    *packp.AdvRefs
	used    bool
}

// dialSSH connects and starts service. When ctx ends, so does the connection.
func dialSSH(ctx context.Context, loc address.Address, auth Auth, service string, maxOut int64) (*sshSession, error) {
	port := loc.Port
	if port == "" {
		port = "22"
	}
	addr := net.JoinHostPort(loc.Host, port)
	config, err := auth.ssh(loc.User, addr)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &sshSession{service: service, conn: conn}
	// Everything below blocks on the connection; closing it is what unblocks.
	s.unwatch = context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err := s.start(addr, config, loc.Path, maxOut); err != nil {
		_ = s.Close()
		return nil, cause(ctx, err)
	}
	return s, nil
}

func (s *sshSession) start(addr string, config *ssh.ClientConfig, path string, maxOut int64) error {
	c, channels, requests, err := ssh.NewClientConn(s.conn, addr, config)
	if err != nil {
		return err
	}
	s.client = ssh.NewClient(c, channels, requests)
	if s.session, err = s.client.NewSession(); err != nil {
		return err
	}
	if s.in, err = s.session.StdinPipe(); err != nil {
		return err
	}
	out, err := s.session.StdoutPipe()
	if err != nil {
		return err
	}
	s.out = &boundedReader{r: out, left: maxOut, limit: maxOut, what: "the response"}
	s.session.Stderr = &s.errs
	return s.session.Start(s.service + " " + shellQuote(path))
}

// AdvertisedReferences is here for the interface only.
func (s *sshSession) AdvertisedReferences() (*packp.AdvRefs, error) {
	return nil, errors.New("a context is needed")
}

func (s *sshSession) AdvertisedReferencesContext(ctx context.Context) (*packp.AdvRefs, error) {
	refs := packp.NewAdvRefs()
	err := refs.Decode(s.out)
	switch {
	case errors.Is(err, packp.ErrEmptyInput):
		return nil, s.refused(ctx)
	case errors.Is(err, packp.ErrEmptyAdvRefs):
		err = nil
	case err != nil:
		return nil, cause(ctx, err)
	}
	if refs.IsEmpty() && s.service == transport.UploadPackServiceName {
		return nil, transport.ErrEmptyRemoteRepository
	}
	transport.FilterUnsupportedCapabilities(refs.Capabilities)
	s.refs = refs
	return refs, err
}

// refused tells why the service said nothing.
func (s *sshSession) refused(ctx context.Context) error {
	_ = s.in.Close() // some servers end only when their input does
	s.used = true
	err := s.session.Wait() // after it, all of the error output is there
	if cerr := ctx.Err(); cerr != nil {
		return cause(ctx, cerr)
	}
	text := strings.TrimSpace(s.errs.String())
	switch lower := strings.ToLower(text); {
	case text == "" && err != nil:
		return fmt.Errorf("remote ended the session: %w", err)
	case text == "":
		return io.ErrUnexpectedEOF
	case strings.Contains(lower, "not found") || strings.Contains(lower, "does not exist") ||
		strings.Contains(lower, "not appear to be a git repository") || strings.Contains(lower, "could not be found"):
		return fmt.Errorf("%w: %s", transport.ErrRepositoryNotFound, text)
	case deniedText.MatchString(text):
		return fmt.Errorf("%w: %s", transport.ErrAuthorizationFailed, text)
	}
	return fmt.Errorf("remote said: %s", text)
}

func (s *sshSession) UploadPack(ctx context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	s.used = true
	if err := req.UploadRequest.Encode(s.in); err != nil {
		return nil, cause(ctx, err)
	}
	if err := req.UploadHaves.Encode(s.in, true); err != nil {
		return nil, cause(ctx, err)
	}
	if err := pktline.NewEncoder(s.in).EncodeString("done\n"); err != nil {
		return nil, cause(ctx, err)
	}
	if err := s.in.Close(); err != nil {
		return nil, cause(ctx, err)
	}
	res := packp.NewUploadPackResponse(req)
	if err := res.Decode(io.NopCloser(s.out)); err != nil {
		return nil, cause(ctx, err)
	}
	return res, nil
}

func (s *sshSession) ReceivePack(ctx context.Context, req *packp.ReferenceUpdateRequest) (*packp.ReportStatus, error) {
	s.used = true
	if err := req.Encode(s.in); err != nil {
		return nil, cause(ctx, err)
	}
	if err := s.in.Close(); err != nil {
		return nil, cause(ctx, err)
	}
	out := s.out
	if req.Capabilities.Supports(capability.Sideband64k) {
		d := sideband.NewDemuxer(sideband.Sideband64k, out)
		d.Progress = req.Progress
		out = d
	}
	report := packp.NewReportStatus()
	if err := report.Decode(out); err != nil {
		return nil, cause(ctx, err)
	}
	return report, report.Error()
}

func (s *sshSession) Close() error {
	if s.in != nil && !s.used {
		_, _ = s.in.Write(pktline.FlushPkt) // the polite way to say that nothing is wanted
	}
	if s.client != nil {
		_ = s.client.Close()
	}
	s.unwatch()
	_ = s.conn.Close()
	return nil
}

// cause prefers why ctx ended to what that did to a connection.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// agentKeys are those of the ssh-agent at $SSH_AUTH_SOCK, which is connected to once.
var agentKeys = sync.OnceValues(dialAgent)

func dialAgent() (agent.ExtendedAgent, error) {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, errors.New("SSH_AUTH_SOCK is not set: start an ssh-agent and add a key to it, or name a key by --ssh-key-file, or sshKeyFile in agent.yaml")
	}
	conn, err := net.Dial("unix", socket) //nolint:noctx // on this machine, and for as long as the process
	if err != nil {
		return nil, fmt.Errorf("reaching the ssh-agent: %w", err)
	}
	return agent.NewClient(conn), nil
}

// keys are what to sign in with.
func (a Auth) keys() ([]ssh.Signer, error) {
	if a.SSHKeyFile == "" {
		return AgentKeys()
	}
	passphrase, err := secret(a.Passphrase, a.PassphraseFile)
	if err != nil {
		return nil, err
	}
	signer, err := ReadKey(a.SSHKeyFile, passphrase)
	if err != nil {
		return nil, err
	}
	return []ssh.Signer{signer}, nil
}

// AgentKeys are those of the ssh-agent at $SSH_AUTH_SOCK.
func AgentKeys() ([]ssh.Signer, error) {
	keys, err := agentKeys()
	if err != nil {
		return nil, err
	}
	return keys.Signers()
}

// ReadKey reads a private key, which may need a passphrase.
func ReadKey(file, passphrase string) (ssh.Signer, error) {
	key, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the ssh key: %w", err)
	}
	signer, err := ssh.ParsePrivateKey(key)
	if missing := new(ssh.PassphraseMissingError); errors.As(err, &missing) {
		signer, err = ssh.ParsePrivateKeyWithPassphrase(key, []byte(passphrase))
	}
	if err != nil {
		return nil, fmt.Errorf("reading the ssh key: %w", err)
	}
	return signer, nil
}

// ssh reads the key and the host keys.
func (a Auth) ssh(user, addr string) (*ssh.ClientConfig, error) {
	if user == "" {
		user = a.Username
	}
	if user == "" {
		user = gitssh.DefaultUsername
	}
	signers, err := a.keys()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(a.KnownHostsFile); err != nil {
		return nil, fmt.Errorf("reading known_hosts: %w", err)
	}
	hosts, err := gitssh.NewKnownHostsDb(a.KnownHostsFile)
	if err != nil {
		return nil, fmt.Errorf("reading known_hosts: %w", err)
	}
	check := hosts.HostKeyCallback()
	return &ssh.ClientConfig{
		User: user,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			if err := check(host, remote, key); err != nil {
				return fmt.Errorf("host key %s of %s: %w%s", ssh.FingerprintSHA256(key), host, err, a.hostHint(host, key, err))
			}
			return nil
		},
		// Ask for the kinds of key that known_hosts has, else a host with several kinds looks like an impostor.
		HostKeyAlgorithms: hosts.HostKeyAlgorithms(addr),
	}, nil
}

// hostHint says what to do about a host key that was refused.
func (a Auth) hostHint(host string, key ssh.PublicKey, err error) string {
	var refused *knownhosts.KeyError
	switch {
	case !errors.As(err, &refused):
		return ""
	case len(refused.Want) == 0:
		return fmt.Sprintf("; if the host's operator publishes this fingerprint, add to %s: %s",
			a.KnownHostsFile, knownhosts.Line([]string{host}, key))
	}
	return fmt.Sprintf("; %s has another one in line %d: unless the host's operator announced the change, somebody is in between",
		refused.Want[0].Filename, refused.Want[0].Line)
}

// shellQuote quotes as git does: it survives POSIX shells, csh and git-shell.
func shellQuote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(s) + "'"
}

// boundedBuffer keeps the first redact.MaxMessage bytes of what is written to it.
type boundedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := redact.MaxMessage - b.buf.Len(); room > 0 {
		b.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (b *boundedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
