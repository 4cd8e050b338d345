package render

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
)

// Path is a chart's directory in a snapshot, or a packed chart (.tgz) there.
type Path struct {
	FS  fs.FS
	Dir string
	// Tree identifies everything that FS holds, or at least the directory and what its file:// dependencies lead to
	// (with Helpers, its templates/): the commit, for one. With it the loaded chart is kept in memory. Empty: the chart
	// is read each time.
	Tree string
	// Bare leaves the dependencies out, and files that no template can ask for: for an umbrella chart, whose
	// dependencies are apps of their own.
	Bare bool
	// Helpers takes nothing but Chart.yaml and templates/: for the Chart of an Umbrella.
	Helpers bool
}

// Load returns the chart in a directory of a snapshot. It honours .helmignore, takes subcharts from charts/, packed or
// not, and brings declared dependencies that are not there: those with a file:// repository from the snapshot, the
// others as Fetch does, in the version of Chart.lock or requirements.lock where there is one.
func (f *Fetcher) Load(ctx context.Context, p Path) (*Chart, error) {
	key := fmt.Sprintf("path\n%s\n%s\n%t %t", p.Tree, p.Dir, p.Bare, p.Helpers)
	if p.Tree != "" {
		if c, ok := f.loaded.get(key); ok {
			return c, nil
		}
	}
	root, err := f.loadPath(ctx, p, f.limits.allowance(), 0)
	if err != nil {
		return nil, fmt.Errorf("loading chart %s: %w", quote(p.Dir), err)
	}
	c := newChart(root)
	if p.Tree != "" {
		f.loaded.put(key, c, c.size)
	}
	return c, nil
}

func (f *Fetcher) loadPath(ctx context.Context, p Path, left *allowance, depth int) (*chart.Chart, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if depth > maxNesting {
		return nil, fmt.Errorf("file:// dependencies are nested more than %d deep, or in a circle", maxNesting)
	}
	files, err := readDir(p, left)
	if err != nil {
		return nil, err
	}
	root, err := loadFiles(files, f.limits)
	if err != nil {
		return nil, err
	}
	if p.Bare || p.Helpers {
		root.Metadata.Dependencies, root.Lock = nil, nil
		return root, nil
	}
	for _, dep := range root.Metadata.Dependencies {
		if err := f.addDependency(ctx, p, root, dep, left, depth); err != nil {
			return nil, fmt.Errorf("dependency %s: %w", quote(dep.Name), err)
		}
	}
	sortDependencies(root)
	return root, nil
}

// addDependency brings one declared dependency unless charts/ has it, or an alias of the same chart brought it.
func (f *Fetcher) addDependency(ctx context.Context, p Path, root *chart.Chart, dep *chart.Dependency, left *allowance, depth int) error {
	for _, have := range root.Dependencies() {
		if have.Name() == dep.Name && (dep.Version == "" || chartutil.IsCompatibleRange(dep.Version, have.Metadata.Version)) {
			return nil
		}
	}
	switch {
	case dep.Repository == "":
		// Rendering says what is missing.
		return nil
	case strings.HasPrefix(dep.Repository, "file://"):
		target := strings.TrimPrefix(dep.Repository, "file://")
		if path.IsAbs(target) {
			return errors.New("an absolute file:// path is outside the repository")
		}
		sub, err := f.loadPath(ctx, Path{FS: p.FS, Dir: path.Join(p.Dir, target)}, left, depth+1)
		if err != nil {
			return err
		}
		if sub.Name() != dep.Name {
			return fmt.Errorf("%s holds chart %s", dep.Repository, quote(sub.Name()))
		}
		root.AddDependency(sub)
	default:
		sub, err := f.Fetch(ctx, Ref{Name: dep.Name, Version: lockedVersion(root, dep), Repository: dep.Repository})
		if err != nil {
			return err
		}
		root.AddDependency(cloneForProcessing(sub.root))
	}
	return nil
}

// lockedVersion is the version that the lock file gives a dependency while it still satisfies it, else what the
// dependency says.
func lockedVersion(c *chart.Chart, dep *chart.Dependency) string {
	if c.Lock == nil {
		return dep.Version
	}
	for _, locked := range c.Lock.Dependencies {
		if locked != nil && locked.Name == dep.Name && locked.Repository == dep.Repository &&
			chartutil.IsCompatibleRange(dep.Version, locked.Version) {
			return locked.Version
		}
	}
	return dep.Version
}
