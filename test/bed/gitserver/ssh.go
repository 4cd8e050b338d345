package gitserver

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// makeKeys makes the host's and the client's key.
func (s *Server) makeKeys() error {
	_, hostKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if s.hostSigner, err = ssh.NewSignerFromKey(hostKey); err != nil {
		return err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if s.clientKey, err = ssh.NewPublicKey(public); err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "bed")
	if err != nil {
		return err
	}
	s.ClientKeyPEM = pem.EncodeToMemory(block)
	s.ClientKeyPath = filepath.Join(s.options.Dir, "client_key")
	return os.WriteFile(s.ClientKeyPath, s.ClientKeyPEM, 0o600)
}

// KnownHosts is the line of a known_hosts file that names this server.
func (s *Server) KnownHosts() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return knownhosts.Line([]string{s.sshAddr}, s.hostSigner.PublicKey()) + "\n"
}

// sshListener is one time of listening, from Start to Stop.
type sshListener struct {
	listener net.Listener
	mu       sync.Mutex
	open     map[net.Conn]bool // nil: closed
}

func (l *sshListener) close() {
	_ = l.listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.open {
		_ = conn.Close()
	}
	l.open = nil
}

// track keeps a connection so that close can cut it; false if it came too late.
func (l *sshListener) track(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		return false
	}
	l.open[conn] = true
	return true
}

func (l *sshListener) forget(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, conn)
	_ = conn.Close()
}

func (s *Server) serveSSH(listener net.Listener) *sshListener {
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if bytes.Equal(key.Marshal(), s.clientKey.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("unknown key")
	}}
	config.AddHostKey(s.hostSigner)
	l := &sshListener{listener: listener, open: map[net.Conn]bool{}}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if !l.track(conn) {
				_ = conn.Close()
				return
			}
			go func() {
				defer l.forget(conn)
				s.serveConn(conn, config)
			}()
		}
	}()
	return l
}

func (s *Server) serveConn(conn net.Conn, config *ssh.ServerConfig) {
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for channel := range channels {
		if channel.ChannelType() != "session" {
			_ = channel.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		session, requests, err := channel.Accept()
		if err != nil {
			return
		}
		go s.serveSession(session, requests)
	}
}

// serveSession runs the one command that git asks for.
func (s *Server) serveSession(session ssh.Channel, requests <-chan *ssh.Request) {
	defer func() { _ = session.Close() }()
	protocol := ""
	for request := range requests {
		switch request.Type {
		case "env": // git announces its protocol version so
			var variable struct{ Name, Value string }
			if ssh.Unmarshal(request.Payload, &variable) == nil && variable.Name == "GIT_PROTOCOL" {
				protocol = variable.Value
			}
			reply(request, true)
		case "exec":
			var command struct{ Line string }
			cmd := s.command(request.Payload, &command)
			reply(request, cmd != nil)
			if cmd == nil {
				return
			}
			cmd.Env = append(os.Environ(), "GIT_PROTOCOL="+protocol)
			status := runOn(session, cmd)
			_, _ = session.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
			return
		default:
			reply(request, false)
		}
	}
}

func reply(request *ssh.Request, ok bool) {
	if request.WantReply {
		_ = request.Reply(ok, nil)
	}
}

// command reads "git-upload-pack '/name.git'"; nil if it is anything else.
func (s *Server) command(payload []byte, line *struct{ Line string }) *exec.Cmd {
	if ssh.Unmarshal(payload, line) != nil {
		return nil
	}
	verb, path, _ := strings.Cut(line.Line, " ")
	verb = strings.TrimPrefix(verb, "git-")
	if verb != "upload-pack" && verb != "receive-pack" {
		return nil
	}
	path = filepath.Clean("/" + strings.Trim(path, "'"))
	if verb == "receive-pack" {
		s.countPush()
	}
	return exec.Command(s.git, verb, filepath.Join(s.options.Dir, "repos", path))
}

// runOn runs a command with the session as its terminal. The input is copied by
// us and not waited for: a client may keep it open after git has ended.
func runOn(session ssh.Channel, cmd *exec.Cmd) (status uint32) {
	cmd.Stdout, cmd.Stderr = session, session.Stderr()
	stdin, err := cmd.StdinPipe()
	if err != nil || cmd.Start() != nil {
		return 255
	}
	go func() {
		_, _ = io.Copy(stdin, session)
		_ = stdin.Close()
	}()
	if cmd.Wait() != nil {
		return uint32(max(cmd.ProcessState.ExitCode(), 1))
	}
	return 0
}
