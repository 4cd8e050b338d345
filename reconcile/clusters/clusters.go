// Package clusters reads what the agents of an environment say on their status branches, cluster by cluster.
//
// A Reader asks a remote for its branches at each call, and reads those that have moved. It belongs to one goroutine.
package clusters

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

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
	// Fault is why its files can't be read, as when somebody has edited one and the agent has not written it again yet: then it says
	// nothing. nil: they can.
	Fault error
	// Said is when the commit was made, and Status what it says of the environment.
	Said   time.Time
	Status audit.Status
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

// Unreadable says which clusters have files that can't be read, for those who need the word of each; nil: none.
func Unreadable(all []Cluster) error {
	var faults []error
	for _, c := range all {
		if c.Fault != nil {
			faults = append(faults, fmt.Errorf("branch %s: %w", c.Branch, c.Fault))
		}
	}
	return errors.Join(faults...)
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
	tips, err := gitsync.Tips(ctx, r.remote, prefix+environment)
	if err != nil {
		return nil, err
	}
	var out []Cluster
	for _, name := range slices.Sorted(maps.Keys(tips)) {
		cluster, ours := NameOf(environment, name)
		if !ours {
			continue
		}
		if r.read[name].Commit != tips[name] {
			if err := r.branch(ctx, cluster, name); err != nil {
				return nil, err
			}
		}
		out = append(out, r.read[name])
	}
	return out, nil
}

// NameOf is the name of the cluster whose status branch a branch is; false for one of another environment, as where its name begins so.
func NameOf(environment, branch string) (cluster string, ours bool) {
	if branch == prefix+environment {
		return environment, true
	}
	return strings.CutPrefix(branch, prefix+environment+"/")
}

// branch reads what a status branch says now.
func (r *Reader) branch(ctx context.Context, cluster, name string) error {
	w, err := r.writer.Branch(name)
	if err != nil {
		return err
	}
	tip, err := w.Tip(ctx)
	if err != nil {
		return err
	}
	c := At(cluster, tip)
	c.Branch = name
	r.read[name] = c
	return nil
}

// At is what a cluster's status branch says at a commit.
func At(cluster string, tip *gitsync.Snapshot) Cluster {
	status, err := audit.ReadStatus(tip.FS())
	var records []audit.Record
	if err == nil {
		records, err = audit.ReadAll(tip.FS())
	}
	if err != nil {
		status, records = audit.Status{}, nil
	}
	c := New(cluster, records...)
	c.Commit, c.Said, c.Status, c.Fault = tip.Commit, tip.Time, status, err
	return c
}
