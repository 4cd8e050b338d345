package render

import (
	"cmp"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"time"
	_ "time/tzdata" // for templates that name a time zone: a worker has no files

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"

	"github.com/sluice-cd/sluice/render/lookup"
	"github.com/sluice-cd/sluice/render/release"
)

// maxNodes bounds the fields and elements of all objects of a release.
const maxNodes = 1_000_000

// task is what a worker renders.
type task struct {
	// Said is a said, in JSON.
	Said []byte
	// Chart is what to render, Bare: on its own, without an umbrella.
	Chart source
	Bare  bool
	// Helpers are the umbrella's named templates.
	Helpers []*chart.File
	// Peers are the charts of Said's.
	Peers []source
	// CPU time that it may take.
	CPU time.Duration
	// Capabilities of the cluster.
	Capabilities *chartutil.Capabilities
}

// order is what a worker is sent: a task, or the answer to what its templates ask.
type order struct {
	Task  *task
	Found *found
}

// reply is what a worker sends: a question of the templates, or in the end what became of the task.
type reply struct {
	Question *lookup.Question
	Product  *product
}

// source is a chart, as far as rendering needs it. Metadata and Values are JSON.
type source struct {
	Metadata, Values, Schema []byte
	Templates, Files         []*chart.File
	Dependencies             []source
}

// product is what became of a task.
type product struct {
	// Fault, if it can't be rendered; then there is nothing else.
	Fault string
	// NoTemplate: it is that of a named template that nobody defines.
	NoTemplate bool
	// CRDs, Manifest, Hooks, Volatile and Warnings as in release.Release; Values in JSON.
	CRDs, Manifest     string
	Hooks              []release.Hook
	Values             []byte
	Volatile, Warnings []string
	// Objects in the order in which they are applied, none of them in its namespace yet.
	Objects []object
	// Definitions is how many of them, the first, come from crds/.
	Definitions int
	// Spent: this worker has grown, and the next task is for another.
	Spent bool
}

// object in JSON, and for a person where it stands.
type object struct {
	JSON []byte
	Doc  string
}

// workerArg is the only argument of a program that is started as a worker.
const workerArg = "render-worker"

// BeWorker makes this process a rendering worker, if it was started as one, and does not return then. A program that renders
// calls it before it does anything else: it is started anew for that.
func BeWorker() {
	if len(os.Args) != 2 || os.Args[1] != workerArg {
		return
	}
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve renders what it is given on in and answers on out, until in ends. First it gives up what rendering does not need.
func serve(in io.Reader, out io.Writer) error {
	log.SetOutput(io.Discard) // Helm warns of values that it can't merge, with the values
	if err := confine(); err != nil {
		return err
	}
	tasks, answers, done := make(chan *task), make(chan *found), make(chan error, 1)
	go func() { done <- read(in, tasks, answers) }()
	replies := gob.NewEncoder(out)
	ask := func(q lookup.Question) (found, error) {
		if err := replies.Encode(reply{Question: &q}); err != nil {
			return found{}, fmt.Errorf("asking the cluster: %w", err)
		}
		return *<-answers, nil
	}
	go func() {
		for t := range tasks {
			if err := allowCPU(t.CPU); err != nil {
				done <- err
				return
			}
			if err := replies.Encode(reply{Product: produce(t, ask)}); err != nil {
				done <- err
				return
			}
		}
	}()
	return <-done
}

// read goes on while a task is rendered: when the process that asks is gone, so is this one, whatever it is at.
func read(in io.Reader, tasks chan<- *task, answers chan<- *found) error {
	from := gob.NewDecoder(in)
	for {
		var o order
		if err := from.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("reading what to render: %w", err)
		}
		if o.Task != nil {
			tasks <- o.Task
		} else {
			answers <- o.Found
		}
	}
}

func produce(t *task, ask asker) *product {
	a, err := t.render(ask)
	if err == nil && a.size() > maxAnswer {
		err = &LimitError{What: "what the templates print", Limit: maxAnswer}
	}
	if err != nil {
		a = product{Fault: err.Error(), NoTemplate: noTemplate.MatchString(err.Error())}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	a.Spent = m.HeapSys > maxMemory/2
	return &a
}

func (a *product) size() (n int) {
	n = len(a.CRDs) + len(a.Manifest) + len(a.Values)
	for _, h := range a.Hooks {
		n += len(h.Manifest)
	}
	for _, o := range a.Objects {
		n += len(o.JSON)
	}
	return n
}

// newSource copies a chart for a worker.
func newSource(c *chart.Chart) (source, error) {
	s := source{Schema: c.Schema, Templates: c.Templates, Files: c.Files}
	var err error
	if s.Metadata, err = json.Marshal(c.Metadata); err != nil {
		return s, fmt.Errorf("reading Chart.yaml: %w", err)
	}
	if s.Values, err = json.Marshal(c.Values); err != nil {
		return s, fmt.Errorf("reading values.yaml: %w", err)
	}
	for _, d := range c.Dependencies() {
		sub, err := newSource(d)
		if err != nil {
			return s, fmt.Errorf("subchart %s: %w", quote(d.Name()), err)
		}
		s.Dependencies = append(s.Dependencies, sub)
	}
	return s, nil
}

// chart is the opposite of newSource.
func (s source) chart() (*chart.Chart, error) {
	c := &chart.Chart{Schema: s.Schema, Templates: s.Templates, Files: s.Files}
	if err := json.Unmarshal(s.Metadata, &c.Metadata); err != nil {
		return nil, fmt.Errorf("reading Chart.yaml: %w", err)
	}
	if err := json.Unmarshal(s.Values, &c.Values); err != nil {
		return nil, fmt.Errorf("reading values.yaml: %w", err)
	}
	for _, d := range s.Dependencies {
		sub, err := d.chart()
		if err != nil {
			return nil, err
		}
		c.AddDependency(sub)
	}
	return c, nil
}

// rendering is one task being done.
type rendering struct {
	task  *task
	ask   asker
	said  said
	chart *chart.Chart
	peers []*chart.Chart
	caps  *capabilities
}

// noTemplate is what Helm's engine says of a named template that nobody defines, by way of include and of template.
var noTemplate = regexp.MustCompile(`no template "[^"]*" associated with template|template "[^"]*" not defined`)

// render does the work. A chart that brings Helm's code to panic is an error like any other.
func (t *task) render(ask asker) (a product, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("Helm panicked: %v", r)
		}
	}()
	r := &rendering{task: t, ask: ask, caps: newCapabilities(t.Capabilities)}
	// By way of JSON numbers become what they are for Helm, which reads values as JSON: a template prints 1000000 as
	// 1e+06.
	if err := json.Unmarshal(t.Said, &r.said); err != nil {
		return a, fmt.Errorf("reading the values: %w", err)
	}
	if r.chart, err = t.Chart.chart(); err != nil {
		return a, err
	}
	for i, s := range t.Peers {
		peer, err := s.chart()
		if err != nil {
			return a, err
		}
		peer.Metadata.Name = r.said.Peers[i].Name
		r.peers = append(r.peers, peer)
	}
	if err := r.check(&a); err != nil {
		return a, err
	}
	a.Volatile = r.volatile()
	root, values, err := r.compose()
	if err != nil {
		return a, err
	}
	files, err := r.execute(root, values, &a)
	if err != nil {
		return a, err
	}
	return a, r.decode(files, &a)
}

// app is the key of the app's values in the umbrella's.
func (r *rendering) app() string { return cmp.Or(r.said.Alias, r.chart.Name()) }

func (r *rendering) volatile() []string {
	found := map[string]bool{}
	collectVolatile(r.chart, found)
	for _, t := range r.task.Helpers {
		findVolatile(string(t.Data), found)
	}
	for _, p := range r.peers {
		collectVolatile(p, found)
	}
	for _, v := range []map[string]any{r.said.Values, r.said.Globals} {
		findVolatileInValues(v, found)
	}
	return slices.Sorted(maps.Keys(found))
}
