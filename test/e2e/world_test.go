// Package e2e runs the agent, as a process of its own, against the test bed: a real API server with real
// controllers, real git over HTTP, a real Prometheus. What is played is said in the bed's README: pods and users.
//
// Each test has a world of its own: an environment repository, a namespace, an app with its image. Tests that take a
// server away from everybody (Prometheus, git, the API server) do not run in parallel with others.
package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// patience is how long a test waits for what should happen within seconds.
const patience = 90 * time.Second

var (
	shared *bed.Bed
	// program is the sluice command, built once.
	program string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sluice-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	root, err := bed.FindRoot()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	program = filepath.Join(dir, "sluice")
	build := exec.Command("go", "build", "-o", program, "./cmd/sluice")
	build.Dir, build.Stderr = root, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building sluice:", err)
		return 1
	}
	return bedtest.Main(m, &shared)
}

// app is the chart's name; the app's objects are called so too.
const app = "croc-hunter-java"

// requirements is where the app's version stands.
const requirements = "env/requirements.yaml"

// world is one environment and the agent that delivers it.
type world struct {
	testing.TB
	bed *bed.Bed
	// name of the environment, and of its repository.
	name string
	// namespace of its apps, and of the agent's states where cluster, the name that the agent gives its cluster, is not empty.
	namespace, cluster string
	dir                string
	// listed is the list of apps before removed emptied it.
	listed string
	image  string
	// address of the repository; empty: on the bed's git over HTTP.
	address string
	// status is the address of the repository with the status branches and commands; empty: they are in the environment's.
	status string
	// further are lines of the environment in the agent's configuration.
	further string
	// repository and charts are what the agent's configuration says of them; empty: git over HTTP, charts over HTTP.
	repository, charts string
	// chartHosts are further chart repositories that the agent may ask.
	chartHosts []string
	// commands and allow are what the agent's configuration says of them; allow empty: the namespace that is called like
	// the environment, and CRDs.
	commands, allow string
	// committer and verify are what it says of who commits for the agent, and of whose commits are delivered.
	committer, verify string
	// sign makes the signatures of people's commits; nil: they have none.
	sign func(commit []byte) (string, error)
	// neighbours are environments that the agent delivers too.
	neighbours []*world
	// flags of the agent, which win over its configuration.
	flags []string
	// interval between looks at the branch, and checkInterval between checks.
	interval, checkInterval time.Duration
	kube                    kubernetes.Interface
	dyn                     dynamic.Interface
	// agent is running since begun.
	agent *exec.Cmd
	begun time.Time
	// log of the agent, over all its lives.
	log *lockedBuffer
}

var worlds sync.Map // names in use

// newWorld makes an environment with the app's version 0.0.129 in it. The agent is not started.
func newWorld(t testing.TB) *world {
	t.Helper()
	b := bedtest.Need(t, shared)
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	name = name[:min(len(name), 40)]
	if _, taken := worlds.LoadOrStore(name, true); taken {
		name = fmt.Sprintf("%s-%d", name, time.Now().UnixNano()%100000)
	}
	w := &world{
		TB: t, bed: b, name: name, namespace: name, dir: t.TempDir(), image: name, log: &lockedBuffer{},
		interval: time.Second, checkInterval: time.Second,
	}
	w.kube = kubernetes.NewForConfigOrDie(b.REST())
	w.dyn = dynamic.NewForConfigOrDie(b.REST())
	root, err := bed.FindRoot()
	w.must(err)
	for _, v := range []string{"0.0.129", "0.0.130", "0.0.131", "0.0.132"} {
		w.must(publish(b, filepath.Join(root, "test/demo/charts", app), v))
	}
	w.must(b.Git.CreateRepo(name))
	w.equip()
	w.found("")
	return w
}

// equip makes what the agent of a world needs, and has it stop in the end.
func (w *world) equip() {
	w.must(os.WriteFile(filepath.Join(w.dir, "password"), []byte(bed.Password), 0o600))
	w.Cleanup(func() {
		w.stop()
		if w.Failed() {
			w.Logf("the agent's log %s:\n%s", w.cluster, w.log.tail(3000))
		}
	})
}

// in is the same environment in another cluster, for which a namespace of its own stands in.
func (w *world) in(cluster string) *world {
	other := *w
	other.namespace, other.cluster, other.dir, other.log = w.name+"-"+cluster, cluster, w.TempDir(), &lockedBuffer{}
	other.further = "  namespace: " + other.namespace + "\n"
	other.equip()
	return &other
}

// found makes the first commit of the repository. settings are further lines of sluice.yaml.
func (w *world) found(settings string) {
	w.Helper()
	w.commit("environment "+w.name, map[string]string{
		"sluice.yaml":    "apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: " + w.name + "\nnamespace: " + w.name + "\n" + settings,
		"env/Chart.yaml": "apiVersion: v1\nname: env\nversion: 0.0.1\n",
		requirements: "# What runs here.\ndependencies:\n- name: " + app + "\n  version: 0.0.129  # promoted by hand\n" +
			"  repository: " + w.bed.Charts.URL() + "\n",
		"env/values.yaml": w.values("hello", 2),
	})
}

var published sync.Map

// publish adds a version to the chart repository, once.
func publish(b *bed.Bed, dir, version string) error {
	once, _ := published.LoadOrStore(version, sync.OnceValue(func() error { return b.Charts.AddVersion(dir, version) }))
	return once.(func() error)()
}

// values of the environment: a greeting, which is configuration, and a number of replicas, which is not.
func (w *world) values(greeting string, replicas int) string {
	return fmt.Sprintf("%s:\n  greeting: %q\n  replicaCount: %d\n  image:\n    repository: demo.invalid/%s\n"+
		"  canary:\n    service:\n      hosts: [%s]\n", app, greeting, replicas, w.image, w.host())
}

// host by which the app's users come. Those of one of several clusters are in its mesh: one gateway can't lead to all of them.
func (w *world) host() string {
	if w.cluster != "" {
		return app
	}
	return w.name + ".example.com"
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// behave scripts what a version does to its users.
func (w *world) behave(version string, b behaviour.Behaviour) {
	w.bed.Behaviours.Set(w.image+":"+version, b)
}

// url of the repository.
func (w *world) url() string { return cmp.Or(w.address, w.bed.Git.URL(w.name)) }

// remote is the repository as a person reaches it.
func (w *world) remote(branch string) gitsync.Remote {
	url := w.url()
	if w.status != "" && (strings.HasPrefix(branch, "sluice/status/") || strings.HasPrefix(branch, "sluice/commands/")) {
		url = w.status
	}
	return gitsync.Remote{
		URL: url, Branch: branch,
		Auth: gitsync.Auth{Username: bed.User, Password: bed.Password},
	}
}

func (w *world) statusBranch() string { return path.Join("sluice/status", w.name, w.cluster) }

// edit commits to the environment branch as a person, and returns the commit.
func (w *world) edit(message string, f func(tip *gitsync.Snapshot) (map[string][]byte, error)) string {
	w.Helper()
	wr, err := gitsync.NewWriter(gitsync.WriterConfig{
		Remote: w.remote("main"), Create: true, Identity: gitsync.Identity{Name: "A Person", Email: "person@example.com"},
	}, filepath.Join(w.dir, "person"))
	w.must(err)
	defer wr.Close()
	hash, err := wr.Commit(context.Background(), func(tip *gitsync.Snapshot) (*gitsync.Change, error) {
		files, err := f(tip)
		if err != nil {
			return nil, err
		}
		return &gitsync.Change{Files: files, Message: message, Sign: w.sign}, nil
	})
	w.must(err)
	return hash
}

// commit writes whole files.
func (w *world) commit(message string, files map[string]string) string {
	w.Helper()
	return w.edit(message, func(*gitsync.Snapshot) (map[string][]byte, error) {
		out := map[string][]byte{}
		for name, text := range files {
			out[name] = []byte(text)
		}
		return out, nil
	})
}

// bump sets the app's version, as merging a promotion does.
func (w *world) bump(version string) string {
	w.Helper()
	return w.edit("chore: promote "+app+" to version "+version, func(tip *gitsync.Snapshot) (map[string][]byte, error) {
		return environments.Promote(tip.FS(), ".", app, environments.Promotion{Version: version})
	})
}

// configure writes the agent's configuration, and returns its file.
func (w *world) configure() string {
	w.Helper()
	config := filepath.Join(w.dir, "agent.yaml")
	charts := cmp.Or(w.charts, fmt.Sprintf("url: %q, %s", w.bed.Charts.URL(), credentials))
	var hosts strings.Builder
	for _, url := range w.chartHosts {
		fmt.Fprintf(&hosts, "- {url: %q}\n", url)
	}
	text := fmt.Sprintf(`apiVersion: sluice.dev/v1alpha1
kind: Agent
cluster: %q
dataDir: data
kubeconfig: %s
listen: none
git: {%s}
prometheus: {address: %q, timeout: 2s}
charts:
- {%s}
%senvironments:
`, w.cluster, w.bed.Kubeconfig, w.committer, w.bed.PrometheusURL, charts, hosts.String())
	for _, e := range append([]*world{w}, w.neighbours...) {
		text += e.entry()
	}
	w.must(os.WriteFile(config, []byte(text), 0o600))
	return config
}

// start runs the agent, which looks at everything once a second.
func (w *world) start() {
	w.Helper()
	w.agent = exec.Command(program, append([]string{"agent", "--config", w.configure()}, w.flags...)...)
	w.agent.Stderr = w.log
	w.begun = time.Now()
	w.must(w.agent.Start())
}

const credentials = "username: " + bed.User + ", passwordFile: password"

// entry of the environment in the agent's configuration.
func (w *world) entry() string {
	return fmt.Sprintf(`- name: %s
  repository: {%s}
  interval: %s
  checkInterval: %s
  verify: {%s}
  commands: {%s}
  allow: {%s}
%s`, w.name, cmp.Or(w.repository, fmt.Sprintf("url: %q, %s", w.url(), credentials)), w.interval, w.checkInterval,
		w.verify, w.commands, cmp.Or(w.allow, "namespaces: ["+w.namespace+"], clusterKinds: [CustomResourceDefinition]"), w.further)
}

// kill ends the agent without a chance to do anything.
func (w *world) kill() { w.end(syscall.SIGKILL) }

// stop ends the agent as an operator would.
func (w *world) stop() { w.end(syscall.SIGTERM) }

func (w *world) end(s syscall.Signal) {
	if w.agent == nil {
		return
	}
	_ = w.agent.Process.Signal(s)
	_ = w.agent.Wait()
	w.agent = nil
}

// sluice runs a command on the environment repository and returns what it prints, and its exit code.
func (w *world) sluice(command string, args ...string) (out string, code int) {
	w.Helper()
	stdout, stderr, code := w.run(command, args...)
	if code != 0 && code != 3 {
		w.Fatalf("sluice %s ended with %d: %s", command, code, stderr)
	}
	return stdout, code
}

// run is sluice for commands that may fail.
func (w *world) run(command string, args ...string) (stdout, stderr string, code int) {
	w.Helper()
	cmd := exec.Command(program, append([]string{
		command, "--repo", w.url(), "--username", bed.User, "--password-file", filepath.Join(w.dir, "password"),
		"--environment", w.name,
	}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+w.dir, "GIT_AUTHOR_NAME=Carol", "GIT_AUTHOR_EMAIL=carol@example.com")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		w.Fatal(err)
	}
	return out.String(), said.String(), cmd.ProcessState.ExitCode()
}

// git runs git in the repository on the server, as whoever looks after that does.
func (w *world) git(stdin string, args ...string) string {
	w.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Stdin = w.bed.Git.Path(w.name), strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// await polls until f holds, and fails the test with what f says it waits for.
func (w *world) await(what string, f func() (ok bool, now string)) {
	w.Helper()
	w.awaitFor(patience, 100*time.Millisecond, what, f)
}

// awaitFor is await with another patience, and another pause between looks.
func (w *world) awaitFor(patience, pause time.Duration, what string, f func() (ok bool, now string)) {
	w.Helper()
	deadline := time.Now().Add(patience)
	for {
		ok, now := f()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("waited %s for %s; it is: %s", patience, what, now)
		}
		poll := time.NewTimer(pause)
		<-poll.C
	}
}

// history of a branch, newest first; nil while it does not exist or git is away.
func (w *world) history(branch string) []gitsync.Commit {
	w.Helper()
	repo, err := gitsync.Open(context.Background(), w.remote(branch), filepath.Join(w.dir, "reader", strings.ReplaceAll(branch, "/", "-")))
	w.must(err)
	defer repo.Close()
	tip, err := repo.Fetch(context.Background())
	if err != nil {
		return nil
	}
	list, err := repo.Commits(context.Background(), tip.Commit, "", 0)
	w.must(err)
	return list
}

// file of a branch's tip.
func (w *world) file(branch, name string) string {
	w.Helper()
	repo, err := gitsync.Open(context.Background(), w.remote(branch), filepath.Join(w.dir, "reader", strings.ReplaceAll(branch, "/", "-")))
	w.must(err)
	defer repo.Close()
	tip, err := repo.Fetch(context.Background())
	w.must(err)
	text, err := fs.ReadFile(tip.FS(), name)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	w.must(err)
	return string(text)
}

// events of the app in the audit log, oldest first. They are checked to be gapless, each time.
func (w *world) events() []audit.Entry {
	w.Helper()
	var out []audit.Entry
	for _, c := range slices.Backward(w.history(w.statusBranch())) {
		if e, ok := audit.ParseMessage(c.Message); ok && e.App == app && e.Seq > 0 {
			out = append(out, e)
		}
	}
	for i, e := range out {
		if e.Seq != int64(i+1) {
			w.Fatalf("event %d of the audit log has number %d", i+1, e.Seq)
		}
	}
	return out
}

// story is the events as text: "Advanced 10 0.0.130".
func story(list []audit.Entry) []string {
	var out []string
	for _, e := range list {
		out = append(out, fmt.Sprintf("%s %d %s", e.Type, e.Weight, e.To.Version))
	}
	return out
}

// awaitEvent waits until the audit log holds an event of the type for the version, the nth one.
func (w *world) awaitEvent(t rollout.EventType, version string, nth int) audit.Entry {
	w.Helper()
	var found audit.Entry
	w.await(fmt.Sprintf("%s of %s in the audit log", t, version), func() (bool, string) {
		list, n := w.events(), 0
		for _, e := range list {
			if e.Type == t && e.To.Version == version {
				if n++; n == nth {
					found = e
					return true, ""
				}
			}
		}
		return false, strings.Join(story(list), ", ")
	})
	return found
}

// install starts the agent and waits until 0.0.129 serves.
func (w *world) install() {
	w.Helper()
	w.start()
	w.awaitEvent(rollout.Installed, "0.0.129", 1)
}

// settled waits until nothing of a canary is left in the cluster.
func (w *world) settled() {
	w.Helper()
	w.await("the canary to be gone", func() (bool, string) {
		names := w.names("apps", "v1", "deployments")
		return slices.Equal(names, []string{app}), strings.Join(names, ", ")
	})
}

// names of the namespace's objects of a kind.
func (w *world) names(group, version, resource string) []string {
	w.Helper()
	list, err := w.dyn.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource}).
		Namespace(w.namespace).List(context.Background(), metav1.ListOptions{})
	w.must(err)
	var out []string
	for _, o := range list.Items {
		out = append(out, o.GetName())
	}
	slices.Sort(out)
	return out
}

// object of the namespace; nil when there is none.
func (w *world) object(group, version, resource, name string) *unstructured.Unstructured {
	w.Helper()
	o, err := w.dyn.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource}).
		Namespace(w.namespace).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return o
}

// pods of a track, by name with their uid.
func (w *world) pods(label string) map[string]string {
	w.Helper()
	list, err := w.kube.CoreV1().Pods(w.namespace).List(context.Background(), metav1.ListOptions{LabelSelector: "app=" + label})
	w.must(err)
	out := map[string]string{}
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			out[p.Name] = string(p.UID)
		}
	}
	return out
}

// samePods fails the test when stable pods were replaced.
func (w *world) samePods(before map[string]string) {
	w.Helper()
	if now := w.pods(app); !maps.Equal(before, now) {
		w.Errorf("stable pods were replaced: %v became %v", before, now)
	}
}

// canaryShares are the shares of the traffic that the canary had, one after the other, as users saw it.
func (w *world) canaryShares() []int {
	w.Helper()
	var out []int
	for _, h := range w.bed.Traffic.History(w.namespace, w.host()) {
		share := int(h.ByWorkload[app+"-canary"]*100 + 0.5)
		if len(out) == 0 || out[len(out)-1] != share {
			out = append(out, share)
		}
	}
	return out
}

// lockedBuffer is a log that is written and read at once.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.b.String()
	return s[max(0, len(s)-n):]
}
