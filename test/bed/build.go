package bed

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/lockedfile"
)

// kubernetesVersion is what the API server says it is; charts ask. It is that
// of k8s.io/kubernetes in servers/go.mod.
const kubernetesVersion = "v1.37.2"

// assetsVariable names a directory with the programs etcd and kube-apiserver,
// as the tools of other projects set it. With it the bed uses those and has
// only the controllers and Prometheus to compile.
const assetsVariable = "KUBEBUILDER_ASSETS"

// Build returns the path of the servers program of this checkout, which it
// builds unless the user's cache holds it: about six minutes the first time,
// seconds once Go's own cache has the packages. Several processes may build at
// once; one works and the others wait.
func Build(ctx context.Context, root string, progress io.Writer) (string, error) {
	assets := os.Getenv(assetsVariable)
	return builder{
		name: "the test bed", minutes: 6, sources: filepath.Join(root, "test", "bed", "servers"), flags: serverFlags(assets), progress: progress,
	}.program(ctx)
}

// BuildGitea is Build for Gitea, a module of its own that only tests of forges
// need. It is compiled without C, for machines that have no compiler of it.
func BuildGitea(ctx context.Context, root string, progress io.Writer) (string, error) {
	return builder{
		name: "Gitea", minutes: 5, sources: filepath.Join(root, "test", "bed", "gitea"), flags: []string{"-ldflags=-s -w"},
		env: []string{"CGO_ENABLED=0"}, progress: progress,
	}.program(ctx)
}

// program builds unless the cache has it.
func (b builder) program(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return "", fmt.Errorf("%s is compiled on first use and the command go is not on PATH: install Go 1.26 or newer from https://go.dev/dl", b.name)
	}
	key, err := b.key()
	if err != nil {
		return "", fmt.Errorf("hashing %s: %w", b.sources, err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache directory: %w", err)
	}
	dir := filepath.Join(cache, "sluice", "bed", key)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	program := filepath.Join(dir, "bed")
	unlock, err := lockedfile.MutexAt(filepath.Join(dir, "lock")).Lock()
	if err != nil {
		return "", fmt.Errorf("locking %s: %w", dir, err)
	}
	defer unlock()
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := b.build(ctx, program); err != nil {
		return "", fmt.Errorf("building %s: %w", b.name, err)
	}
	return program, nil
}

type builder struct {
	name     string // for people
	minutes  int    // that it takes on two cores, the first time
	sources  string // the module
	flags    []string
	env      []string
	progress io.Writer
}

// key names what the program is made of: sources, versions and build tags.
func (b builder) key() (string, error) {
	files, err := filepath.Glob(filepath.Join(b.sources, "*.go"))
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	for _, file := range append(files, filepath.Join(b.sources, "go.mod"), filepath.Join(b.sources, "go.sum")) {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n", filepath.Base(file), len(content))
		hash.Write(content)
	}
	fmt.Fprintln(hash, b.args(""))
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

func (b builder) args(output string) []string {
	return append(append([]string{"build", "-v", "-buildvcs=false", "-o", output}, b.flags...), ".")
}

// serverFlags are those of the servers program. None of them changes how packages
// compile, so that they are shared with the packages that Sluice itself compiles.
func serverFlags(assets string) []string {
	major, minor, _ := strings.Cut(strings.TrimPrefix(kubernetesVersion, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	version := func(field, value string) string { return " -X k8s.io/component-base/version." + field + "=" + value }
	flags := []string{"-ldflags=-s -w" + version("gitVersion", kubernetesVersion) + version("gitMajor", major) + version("gitMinor", minor)}
	if assets != "" {
		flags = append(flags, "-tags=external_apiserver")
	}
	return flags
}

// build compiles to a temporary name and renames, so that a program in the
// cache is always whole.
func (b builder) build(ctx context.Context, program string) error {
	total := b.countPackages(ctx)
	b.say("building %s (the first time about %d minutes): %d packages", b.name, b.minutes, total)
	start := time.Now()

	partial := program + ".partial"
	cmd := exec.CommandContext(ctx, "go", b.args(partial)...)
	cmd.Dir = b.sources
	cmd.Env = b.environment()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	problems := b.follow(stderr, start)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, problems)
	}
	b.say("built %s in %s", b.name, time.Since(start).Round(time.Second))
	return os.Rename(partial, program)
}

// follow reports how many packages were compiled, every ten seconds, and
// returns the lines that are not names of packages.
func (b builder) follow(stderr io.Reader, start time.Time) string {
	var problems bytes.Buffer
	compiled, said := 0, start
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		line := lines.Text()
		if strings.ContainsAny(line, " \t#") {
			fmt.Fprintln(&problems, line)
			continue
		}
		compiled++
		if now := time.Now(); now.Sub(said) > 10*time.Second {
			said = now
			b.say("  %d packages compiled, %s", compiled, now.Sub(start).Round(time.Second))
		}
	}
	return problems.String()
}

// countPackages is for the progress line only; 0 when it cannot tell.
func (b builder) countPackages(ctx context.Context) int {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", ".")
	cmd.Dir = b.sources
	cmd.Env = b.environment()
	out, err := cmd.Output()
	if err != nil {
		return 0
	}
	return bytes.Count(out, []byte("\n"))
}

func (b builder) environment() []string {
	return append(append(os.Environ(), "GOWORK=off", "GO111MODULE=on"), b.env...)
}

func (b builder) say(format string, args ...any) {
	if b.progress != nil {
		fmt.Fprintf(b.progress, format+"\n", args...)
	}
}
