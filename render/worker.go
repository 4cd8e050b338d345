package render

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluice-cd/sluice/render/lookup"
)

// What a worker may use, see serve.
const (
	// maxMemory of the worker's data, in bytes. The largest charts in use take a fifth of it.
	maxMemory = 512 << 20
	// maxStack in bytes. Helm ends includes that are a thousand deep with an error, which takes half of it.
	maxStack = 64 << 20
	// maxAnswer bounds what the worker answers, in bytes: rendered text, objects and values.
	maxAnswer = 64 << 20
)

const (
	// maxWorkers render at a time.
	maxWorkers = 2
	// idleWorker is how long a worker waits for the next rendering before it is let go.
	idleWorker = 30 * time.Second
)

// overtime is what a worker says last whose CPU time is used up.
const overtime = "cpu limit exceeded"

// DeathError says that rendering killed its worker, and by which limit. The same input would kill the next one.
type DeathError struct{ Reason string }

func (e *DeathError) Error() string { return e.Reason }

// workers are the processes that render. A run of renderings shares one; one that has died, or has been told to, is
// replaced.
type workers struct {
	// program is this one; a test has another.
	program      func() (string, error)
	timeout, cpu time.Duration
	slots        chan struct{}

	mu   sync.Mutex
	idle []*worker
}

func newWorkers(cfg RendererConfig) *workers {
	return &workers{program: os.Executable, timeout: cfg.Timeout, cpu: cfg.CPU, slots: make(chan struct{}, maxWorkers)}
}

// do has a task done by a worker, whose questions answer answers.
func (w *workers) do(ctx context.Context, t task, answer answerer) (product, error) {
	select {
	case w.slots <- struct{}{}:
		defer func() { <-w.slots }()
	case <-ctx.Done():
		return product{}, ctx.Err()
	}
	p, err := w.take()
	if err != nil {
		return product{}, err
	}
	t.CPU = w.cpu
	working, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	a, err := p.ask(working, t, answer)
	switch {
	case err == nil && !a.Spent:
		w.put(p)
		return *a, nil
	case err == nil:
		p.end()
		return *a, nil
	}
	death := p.autopsy(w.cpu)
	switch {
	case ctx.Err() != nil:
		return product{}, ctx.Err()
	case working.Err() != nil:
		return product{}, &DeathError{fmt.Sprintf("the templates did not come to an end in %s", w.timeout)}
	case death != nil:
		return product{}, death
	}
	return product{}, fmt.Errorf("asking the rendering process: %w", err)
}

// take returns an idle worker, or a new one.
func (w *workers) take() (*worker, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := len(w.idle); n > 0; n = len(w.idle) {
		p := w.idle[n-1]
		w.idle = w.idle[:n-1]
		if p.rest.Stop() {
			return p, nil
		}
	}
	program, err := w.program()
	if err != nil {
		return nil, fmt.Errorf("finding the program that renders: %w", err)
	}
	return startWorker(program)
}

// put keeps a worker for a while.
func (w *workers) put(p *worker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = append(w.idle, p)
	p.rest = time.AfterFunc(idleWorker, p.end)
}

// worker is one process. It is used by one goroutine at a time.
type worker struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	orders *gob.Encoder
	// allowed is what of the replies may still be read.
	allowed *io.LimitedReader
	replies *gob.Decoder
	said    *beginning
	// rest ends it, if nobody takes it before.
	rest *time.Timer
}

func startWorker(program string) (*worker, error) {
	cmd := exec.Command(program, workerArg) //nolint:gosec,noctx // this program, which outlives a render
	cmd.Env = []string{}
	p := &worker{cmd: cmd, said: &beginning{}}
	cmd.Stderr = p.said
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("preparing a rendering process: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("preparing a rendering process: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting a rendering process: %w", err)
	}
	p.in, p.orders = in, gob.NewEncoder(in)
	p.allowed = &io.LimitedReader{R: out}
	p.replies = gob.NewDecoder(p.allowed)
	return p, nil
}

// answerer answers what templates ask of the cluster.
type answerer func(context.Context, lookup.Question) found

// ask gives the worker a task and waits for what becomes of it. After an error it is of no more use.
func (p *worker) ask(ctx context.Context, t task, answer answerer) (*product, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	p.allowed.N = maxAnswer + 1<<20
	if err := p.orders.Encode(order{Task: &t}); err != nil {
		return nil, err
	}
	for {
		var r reply
		if err := p.replies.Decode(&r); err != nil {
			return nil, err
		}
		if r.Question == nil {
			return r.Product, nil
		}
		what := answer(ctx, *r.Question)
		if err := p.orders.Encode(order{Found: &what}); err != nil {
			return nil, err
		}
	}
}

// end lets an idle worker go: without more to read it stops.
func (p *worker) end() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

// autopsy ends a worker that failed, and says what its rendering died of; nil when that was not the rendering.
func (p *worker) autopsy(cpu time.Duration) error {
	_ = p.in.Close()
	kill := time.AfterFunc(time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return nil
	}
	status, _ := exit.Sys().(syscall.WaitStatus)
	memory := fmt.Sprintf("the templates, or what they print, need more than %s of memory", byteSize(maxMemory))
	for _, cause := range []struct{ words, reason string }{
		{"fatal error: stack overflow", fmt.Sprintf("the templates need more than %s of stack: they lead back to themselves, or are nested too deep", byteSize(maxStack))},
		{"out of memory", memory},
		{"cannot allocate memory", memory},
		// The kernel lets a large piece of the heap past the limit, and refuses what is asked for next: in a program with cgo
		// that may be a thread's stack.
		{"pthread_create failed", memory},
		{overtime, fmt.Sprintf("the templates did not come to an end in %s of CPU time", cpu)},
	} {
		if strings.Contains(p.said.String(), cause.words) {
			return &DeathError{cause.reason}
		}
	}
	if status.Signaled() {
		// Whoever did it, as the kernel does that has no memory left, it was not the limit of this rendering.
		return fmt.Errorf("the rendering process was ended by signal %s; it is tried again", status.Signal())
	}
	return &DeathError{"the templates brought the rendering process to an end, " + exit.String()}
}

// beginning keeps the first bytes of what a process says: of a Go program that dies, what it died of.
type beginning struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *beginning) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const enough = 4 << 10
	b.text.Write(p[:min(len(p), enough-b.text.Len())])
	return len(p), nil
}

func (b *beginning) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
