// Package clusters reads what the agents of an environment say on their status branches, cluster by cluster.
//
// A Reader asks a remote at each call, and parses what has changed. It belongs to one goroutine.
package clusters

import (
	"context"
	"fmt"
	"strings"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
)

// prefix begins the names of all status branches.
const prefix = "sluice/status/"

// Cluster is one status branch as it is at a commit.
type Cluster struct {
	// Name of the cluster; that of the environment where it has one only.
	Name           string
	Branch, Commit string
	// Records in the order of their apps' names.
	Records []audit.Record
	byApp   map[string]int
}

// New is a cluster with records, of no branch.
func New(name string, records ...audit.Record) Cluster {
	c := Cluster{Name: name, Records: records, byApp: make(map[string]int, len(records))}
	for i, r := range records {
		c.byApp[r.App] = i
	}
	return c
}

// Record of an app; false where the cluster does not know it.
func (c Cluster) Record(app string) (audit.Record, bool) {
	i, ok := c.byApp[app]
	if !ok {
		return audit.Record{}, false
	}
	return c.Records[i], true
}

// Records of an app in every cluster; a zero one where a cluster does not know it.
func Records(all []Cluster, app string) []audit.Record {
	out := make([]audit.Record, 0, len(all))
	for _, c := range all {
		r, _ := c.Record(app)
		out = append(out, r)
	}
	return out
}

// Reader reads the status branches of a repository.
type Reader struct {
	remote gitsync.Remote
	writer *gitsync.Writer
	read   map[string]Cluster
}

// NewReader reads those of a remote, through a Writer of it.
func NewReader(remote gitsync.Remote, w *gitsync.Writer) *Reader {
	return &Reader{remote: remote, writer: w, read: map[string]Cluster{}}
}

// Read gives the clusters of an environment, in the order of their branches' names.
func (r *Reader) Read(ctx context.Context, environment string) ([]Cluster, error) {
	own := prefix + environment
	names, err := gitsync.Branches(ctx, r.remote, own)
	if err != nil {
		return nil, err
	}
	var out []Cluster
	for _, name := range names {
		cluster, others := strings.CutPrefix(name, own+"/")
		if name != own && !others {
			continue // of an environment whose name begins so
		}
		if name == own {
			cluster = environment
		}
		c, err := r.branch(ctx, cluster, name)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (r *Reader) branch(ctx context.Context, cluster, name string) (Cluster, error) {
	w, err := r.writer.Branch(name)
	if err != nil {
		return Cluster{}, err
	}
	tip, err := w.Tip(ctx)
	if err != nil {
		return Cluster{}, err
	}
	if known := r.read[name]; known.Commit == tip.Commit {
		return known, nil
	}
	records, err := audit.ReadAll(tip.FS())
	if err != nil {
		return Cluster{}, fmt.Errorf("branch %s: %w", name, err)
	}
	c := New(cluster, records...)
	c.Branch, c.Commit = name, tip.Commit
	r.read[name] = c
	return c, nil
}
