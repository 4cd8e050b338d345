package bed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// server is one process of the servers program, which can be stopped and
// started again with the same arguments, so on the same ports and data.
// Methods may be called concurrently.
type server struct {
	name    string // the subcommand
	program string
	args    []string
	env     []string // besides ours
	log     string   // file that its standard error is appended to

	mu    sync.Mutex
	cmd   *exec.Cmd // nil: not running
	stdin io.Closer // the server ends when this is closed, or when we die
	ended chan struct{}
}

// start returns once the server says that it is ready. A running server stays.
func (s *server) start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		return nil
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()

	cmd := exec.Command(s.program, append([]string{s.name}, s.args...)...)
	cmd.Stderr, cmd.Env = log, append(os.Environ(), s.env...)
	// Ctrl-C is for whoever started the bed, which then closes it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", s.name, err)
	}
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if lines.Text() == "ready" {
				close(ready)
			}
		}
		_ = cmd.Wait()
	}()
	s.cmd, s.stdin, s.ended = cmd, stdin, ended

	select {
	case <-ready:
		return nil
	case <-ended:
		s.cmd = nil
		return fmt.Errorf("starting %s: it ended; the end of %s:\n%s", s.name, s.log, tail(s.log, 15))
	case <-ctx.Done():
		_ = s.stopLocked(syscall.SIGKILL)
		return fmt.Errorf("starting %s: %w; the end of %s:\n%s", s.name, ctx.Err(), s.log, tail(s.log, 15))
	}
}

// stop ends the server in order. One that is not running stays so.
func (s *server) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopLocked(syscall.SIGTERM)
}

// kill ends the server as a crash would.
func (s *server) kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopLocked(syscall.SIGKILL)
}

func (s *server) stopLocked(signal syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	defer func() { s.cmd = nil }()
	if err := s.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", s.name, err)
	}
	_ = s.stdin.Close()
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
	return nil
}

func (s *server) pid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

// tail returns the last lines of a file.
func tail(path string, n int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
