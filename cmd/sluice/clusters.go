package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/clusters"
)

// clustersReport is what status --all prints.
type clustersReport struct {
	Environment string `json:"environment"`
	// Commit is the environment branch's newest, Waves its clusters in the order in which they get a release; empty: all at once.
	Commit   string          `json:"commit"`
	Waves    string          `json:"waves,omitempty"`
	Clusters []clusterReport `json:"clusters"`
	now      time.Time
}

// clusterReport is one cluster of it.
type clusterReport struct {
	Cluster string `json:"cluster"`
	// Wave counts from 1; 0: there are none.
	Wave int `json:"wave,omitempty"`
	// Branch is where the cluster's agent writes, LastWord when it last did; empty: nobody has heard of it.
	Branch   string    `json:"branch,omitempty"`
	LastWord time.Time `json:"lastWord,omitzero"`
	// Delivered is the commit that was when the agent last wrote, Fault what is wrong with the environment as a whole, or with what the
	// agent wrote.
	Delivered string         `json:"delivered,omitempty"`
	Fault     string         `json:"error,omitempty"`
	Apps      []audit.Record `json:"apps"`
}

// allClusters reads what every cluster of the environment says of some apps, or of all.
func (f *statusSource) allClusters(ctx context.Context, apps []string) (*clustersReport, error) {
	_, tip, done, err := f.sourceFlags.open(ctx, "")
	if err != nil {
		return nil, err
	}
	defer done()
	env, err := (&environments.Loader{Environment: f.environment}).Load(tip.FS(), f.path)
	if err != nil {
		return nil, fmt.Errorf("reading commit %.10s: %w", tip.Commit, err)
	}
	if env.Name == "" {
		return nil, usagef("set --environment: sluice.yaml names no environment")
	}
	all, err := f.clustersOf(ctx, env.Name)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		own := statusBranch(env.Name, "")
		where, err := f.place(ctx)
		if err != nil {
			return nil, err
		}
		return nil, where.missingBranch(ctx, gitsync.ErrBranchNotFound, own)
	}
	if err := heard(all, apps); err != nil {
		return nil, err
	}
	out := &clustersReport{now: time.Now(), Environment: env.Name, Commit: tip.Commit, Waves: env.Waves.String()}
	for _, c := range all {
		r := clusterReport{
			Cluster: c.Name, Wave: env.Waves.Of(c.Name), Branch: c.Branch, LastWord: c.Said.UTC(), Delivered: c.Status.Commit, Fault: c.Status.Faults(),
			Apps: []audit.Record{},
		}
		if c.Fault != nil {
			r.Fault = "what it says can't be read: " + c.Fault.Error()
		}
		for _, record := range c.Records {
			if wanted(apps, record.App) && (len(apps) > 0 || !record.Gone() || record.Fault != "") {
				r.Apps = append(r.Apps, record)
			}
		}
		out.Clusters = append(out.Clusters, r)
	}
	out.silent(env.Waves)
	slices.SortStableFunc(out.Clusters, func(x, y clusterReport) int { return x.Wave - y.Wave })
	return out, nil
}

// heard refuses names of apps of which no cluster has said anything.
func heard(all []clusters.Cluster, apps []string) error {
	var names []string
	for _, c := range all {
		if c.Fault != nil {
			return nil //nolint:nilerr // it is told elsewhere, and nobody knows what else it has said
		}
		for _, r := range c.Records {
			names = append(names, r.App)
		}
	}
	slices.Sort(names)
	return listed(apps, slices.Compact(names))
}

// silent adds the clusters that a wave names and nobody has heard of.
func (r *clustersReport) silent(waves environments.Waves) {
	for _, wave := range waves {
		for _, name := range wave.Clusters {
			if !slices.ContainsFunc(r.Clusters, func(c clusterReport) bool { return c.Cluster == name }) {
				r.Clusters = append(r.Clusters, clusterReport{Cluster: name, Wave: waves.Of(name), Apps: []audit.Record{}})
			}
		}
	}
}

// clustersOf an environment, from the status branches of their repository or of what a clone has of them.
func (f *statusSource) clustersOf(ctx context.Context, environment string) ([]clusters.Cluster, error) {
	where, err := f.place(ctx)
	if err != nil {
		return nil, err
	}
	branches, err := where.statusBranchNames(ctx, statusBranch(environment, ""))
	if err != nil {
		return nil, err
	}
	var out []clusters.Cluster
	for _, branch := range branches {
		name, ours := clusters.NameOf(environment, branch)
		if !ours {
			continue
		}
		c, err := where.clusterOn(ctx, name, branch)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (f *sourceFlags) clusterOn(ctx context.Context, name, branch string) (clusters.Cluster, error) {
	_, tip, done, err := f.open(ctx, branch)
	if err != nil {
		return clusters.Cluster{}, err
	}
	defer done()
	c := clusters.At(name, tip)
	c.Branch = branch
	return c, nil
}

// statusBranchNames are the branches whose names begin so.
func (f *sourceFlags) statusBranchNames(ctx context.Context, prefix string) (names []string, err error) {
	path, local := f.directory()
	if local {
		return localBranches(path, prefix)
	}
	remote, err := f.remote("")
	if err != nil {
		return nil, err
	}
	err = signedIn(ctx, remote, func(remote gitsync.Remote) (err error) {
		names, err = gitsync.Branches(ctx, remote, prefix)
		return err
	})
	return names, err
}

// localBranches are those of a repository on this machine, and those that it last saw of its remotes, by their names there.
func localBranches(path, prefix string) ([]string, error) {
	dir, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", path, err)
	}
	repo, err := gitsync.OpenLocal(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the git repository at %s: %w", dir, err)
	}
	remotes, err := sortedRemotes(repo, dir)
	if err != nil {
		return nil, err
	}
	refs, err := repo.References()
	if err != nil {
		return nil, fmt.Errorf("reading the branches of %s: %w", dir, err)
	}
	var names []string
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		name, own := strings.CutPrefix(ref.Name().String(), "refs/heads/")
		for _, r := range remotes {
			if seen, theirs := strings.CutPrefix(ref.Name().String(), "refs/remotes/"+r.Config().Name+"/"); theirs && !own {
				name, own = seen, true
			}
		}
		if own && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the branches of %s: %w", dir, err)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (r *clustersReport) faulty() bool {
	return slices.ContainsFunc(r.Clusters, func(c clusterReport) bool {
		return c.Fault != "" || slices.ContainsFunc(c.Apps, func(r audit.Record) bool { return r.Fault != "" })
	})
}

func (r *clustersReport) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	if r.Waves != "" {
		if err := tell(w, "clusters: %s", r.Waves); err != nil {
			return err
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CLUSTER\tWAVE\tAPP\tSERVES\tROLLING OUT\tWEIGHT\tPHASE\tSINCE (UTC)\tAGE\tLAST SEEN (UTC)\tNOTE")
	for _, c := range r.Clusters {
		wave := dash(strings.TrimPrefix(fmt.Sprint(c.Wave), "0"))
		switch {
		case c.Branch == "":
			fmt.Fprintf(t, "%s\t%s\t-\t-\t-\t-\t-\t-\t-\tnever\tno status branch: its agent has never written\n", cell(c.Cluster), wave)
		case c.Fault != "" || len(c.Apps) == 0:
			note := "it reports no app"
			if c.Fault != "" {
				note = "error: " + c.Fault
			}
			fmt.Fprintf(t, "%s\t%s\t-\t-\t-\t-\t-\t-\t-\t%s\t%s\n", cell(c.Cluster), wave, c.LastWord.Format(time.DateTime), cell(note))
		}
		for _, app := range c.Apps {
			serves, target, weight, phase, since, note := columns(app)
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cell(c.Cluster), wave, cell(app.App), serves, target, weight, phase, since, lasting(r.now.Sub(app.Since)),
				app.Updated.UTC().Format(time.DateTime), note)
		}
	}
	return t.Flush()
}
