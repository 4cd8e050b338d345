package audit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v3"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// The places of the status branch.
const (
	readmeFile      = "README.md"
	environmentFile = "environment.yaml"
	appsDir         = "apps"
)

// Record is apps/<app>.yaml: an app as its events left it.
type Record struct {
	App string `yaml:"app" json:"app"`
	// Phase in the words of [rollout.Phase], with "Idle" for rest, "Removed" for an app that is gone, and empty for one
	// that was never installed.
	Phase string `yaml:"phase,omitempty" json:"phase,omitempty"`
	// Serves is the stable release, Target the one under way.
	Serves Release `yaml:"serves,omitempty" json:"serves,omitzero"`
	Target Release `yaml:"target,omitempty" json:"target,omitzero"`
	// Weight of the canary in percent.
	Weight int `yaml:"weight,omitempty" json:"weight,omitempty"`
	// Progress is how far the canary was at the newest event; zero where none is judged.
	Progress Progress `yaml:"progress,omitempty" json:"progress,omitzero"`
	// Rollout counts the app's rollouts.
	Rollout int64 `yaml:"rollout,omitempty" json:"rollout,omitempty"`
	// Reason of the newest event, and the Checks behind the newest that had some.
	Reason string  `yaml:"reason,omitempty" json:"reason,omitempty"`
	Checks []Check `yaml:"checks,omitempty" json:"checks,omitempty"`
	// Stalled and Degraded say why a rollout, or an app, does not get on; empty: it does.
	Stalled  string `yaml:"stalled,omitempty" json:"stalled,omitempty"`
	Degraded string `yaml:"degraded,omitempty" json:"degraded,omitempty"`
	// Paused and Held are who keeps the rollout where it is, or the next one from beginning, and why. Waiting says which gates
	// must open first.
	Paused  string `yaml:"paused,omitempty" json:"paused,omitempty"`
	Held    string `yaml:"held,omitempty" json:"held,omitempty"`
	Waiting string `yaml:"waiting,omitempty" json:"waiting,omitempty"`
	// Fault says why git's present wish for the app can't be delivered; empty: it can.
	Fault string `yaml:"error,omitempty" json:"error,omitempty"`
	// Last is how the last rollout ended.
	Last Ending `yaml:"last,omitempty" json:"last,omitzero"`
	// Rollback is the commit that put the environment branch back after the last rollout failed, RollbackProposed the branch
	// on which it waits to be merged, with RollbackURL for its pull request; RollbackSkipped says why there is neither.
	Rollback         string `yaml:"rollback,omitempty" json:"rollback,omitempty"`
	RollbackProposed string `yaml:"rollbackProposed,omitempty" json:"rollbackProposed,omitempty"`
	RollbackURL      string `yaml:"rollbackURL,omitempty" json:"rollbackURL,omitempty"`
	RollbackSkipped  string `yaml:"rollbackSkipped,omitempty" json:"rollbackSkipped,omitempty"`
	// Rejected releases, newest last, at most 10.
	Rejected []Rejection `yaml:"rejected,omitempty" json:"rejected,omitempty"`
	// LastSeq is the number of the newest event.
	LastSeq int64 `yaml:"lastSeq,omitempty" json:"lastSeq,omitempty"`
	// Since is when Phase or Serves last changed, Updated when anything did; both to the second.
	Since   time.Time `yaml:"since,omitempty" json:"since,omitzero"`
	Updated time.Time `yaml:"updated,omitempty" json:"updated,omitzero"`
}

// Release is a [rollout.Release] in a record.
type Release struct {
	Version string `yaml:"version,omitempty" json:"version,omitempty"`
	// Image is the tag of its image, where the environment says where that stands.
	Image  string `yaml:"image,omitempty" json:"image,omitempty"`
	Digest string `yaml:"digest,omitempty" json:"digest,omitempty"`
	Commit string `yaml:"commit,omitempty" json:"commit,omitempty"`
	// By is the author of Commit, without the address.
	By string `yaml:"by,omitempty" json:"by,omitempty"`
}

// Name is the version as promotions name it: the image's tag where there is one, else the chart's.
func (r Release) Name() string { return cmp.Or(r.Image, r.Version) }

// Progress is a [rollout.Progress] in a record.
type Progress struct {
	// Step of Steps that the canary has; 0: it has no traffic yet.
	Step  int `yaml:"step,omitempty" json:"step,omitempty"`
	Steps int `yaml:"steps,omitempty" json:"steps,omitempty"`
	// FailedChecks so far; the Threshold-th rolls back.
	FailedChecks int `yaml:"failedChecks,omitempty" json:"failedChecks,omitempty"`
	Threshold    int `yaml:"threshold,omitempty" json:"threshold,omitempty"`
	// IntervalSeconds are between two looks at the checks.
	IntervalSeconds float64 `yaml:"intervalSeconds,omitempty" json:"intervalSeconds,omitempty"`
}

// Check is one check as it was judged.
type Check struct {
	Name    string `yaml:"name" json:"name"`
	Outcome string `yaml:"outcome" json:"outcome"`
	Reason  string `yaml:"reason,omitempty" json:"reason,omitempty"`
}

// Ending is how a rollout ended.
type Ending struct {
	// Outcome is Installed, Promoted, RolledBack, Superseded, Aborted or Recovered.
	Outcome string    `yaml:"outcome,omitempty" json:"outcome,omitempty"`
	Release Release   `yaml:"release,omitempty" json:"release,omitzero"`
	Reason  string    `yaml:"reason,omitempty" json:"reason,omitempty"`
	At      time.Time `yaml:"at,omitempty" json:"at,omitzero"`
}

// Rejection is a release that failed.
type Rejection struct {
	Release Release `yaml:"release" json:"release"`
	Reason  string  `yaml:"reason,omitempty" json:"reason,omitempty"`
}

// Rejects reports whether the app has rolled a version back that nobody has let in again since, and why it did. The version is as
// promotions name it.
func (r Record) Rejects(version string) (reason string, rejected bool) {
	if r.Serves.Name() == version || r.Target.Name() == version {
		return "", false
	}
	for _, no := range slices.Backward(r.Rejected) {
		if no.Release.Name() == version {
			return no.Reason, true
		}
	}
	return "", false
}

// Status is environment.yaml.
type Status struct {
	Environment string `yaml:"environment" json:"environment"`
	Cluster     string `yaml:"cluster,omitempty" json:"cluster,omitempty"`
	// ClusterUID tells the cluster whose agent writes here from others of the same name, or of none. TakenOver is the command
	// by which somebody has given it the branch of another cluster.
	ClusterUID string `yaml:"clusterUID,omitempty" json:"clusterUID,omitempty"`
	TakenOver  string `yaml:"takenOver,omitempty" json:"takenOver,omitempty"`
	// Commit of the environment branch that was delivered when the agent last wrote here. It is where the branch has to descend
	// from, so what is refused is none. Commits after it that brought no event are not lost: nothing came of them.
	Commit string `yaml:"commit,omitempty" json:"commit,omitempty"`
	// Fault says why the environment can't be read; empty: it can.
	Fault string `yaml:"error,omitempty" json:"error,omitempty"`
	// Upstream says why no version can come from the environment upstream until somebody does something about it; empty: it can, or
	// there is none.
	Upstream string    `yaml:"upstream,omitempty" json:"upstream,omitempty"`
	Updated  time.Time `yaml:"updated,omitempty" json:"updated,omitzero"`
}

// Faults are all that is wrong with the environment as a whole, in one text.
func (s Status) Faults() string {
	if s.Upstream == "" {
		return s.Fault
	}
	return strings.TrimPrefix(s.Fault+"; no version comes from upstream: "+s.Upstream, "; ")
}

// Silent reports whether an agent that runs would have written since.
func (s Status) Silent(now time.Time) bool {
	return !s.Updated.IsZero() && now.Sub(s.Updated) > Silence+2*SilenceCheck
}

// ForeignError is returned for a status branch that the agent of another cluster writes.
type ForeignError struct {
	// Theirs and Ours are the clusters' UIDs. TakenOver is the command by which theirs was given the branch, if any.
	Theirs, Ours, TakenOver string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("the status branch belongs to another cluster (UID %s; this one has %s): set cluster in agent.yaml, "+
		"so that each cluster has its own branch", clean(e.Theirs, 80), e.Ours)
}

// Foreign reports whether the branch is another cluster's than that with a UID. Where either is not known, nobody can tell.
func (s Status) Foreign(uid string) *ForeignError {
	if s.ClusterUID == "" || uid == "" || s.ClusterUID == uid {
		return nil
	}
	return &ForeignError{Theirs: s.ClusterUID, Ours: uid, TakenOver: s.TakenOver}
}

// File is the path of an app's record on the status branch. Characters that a path can't bear are escaped.
func File(app string) string {
	name := strings.ReplaceAll(url.PathEscape(app), "/", "%2F")
	if strings.HasPrefix(name, ".") {
		name = "%2E" + name[1:]
	}
	return path.Join(appsDir, name+".yaml")
}

const notice = "# Written by Sluice. Edits are overwritten.\n"

// Marshal is the content of the record's file. Equal records give equal bytes.
func (r Record) Marshal() ([]byte, error) { return marshal(r) }

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(notice)
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// ParseRecord reads a record's file. Fields that it does not know are ignored.
func ParseRecord(data []byte) (Record, error) {
	var r Record
	if err := unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("parsing record: %w", err)
	}
	if r.App == "" {
		return Record{}, errors.New("parsing record: it names no app")
	}
	if r.LastSeq < 0 || r.Rollout < 0 || r.Weight < 0 || r.Weight > 100 {
		return Record{}, fmt.Errorf("parsing record: lastSeq %d, rollout %d, weight %d: expected numbers from 0, and a weight up to 100",
			r.LastSeq, r.Rollout, r.Weight)
	}
	return r, nil
}

// unmarshal is yaml.Unmarshal, which panics on some of what it can't read.
func unmarshal(data []byte, into any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("reading YAML: %v", p)
		}
	}()
	return yaml.Unmarshal(data, into)
}

// Read reads the record of an app from a status branch; ok is false where there is none.
func Read(tip fs.FS, app string) (r Record, ok bool, err error) {
	data, err := readFile(tip, File(app))
	if err != nil || data == nil {
		return Record{}, false, err
	}
	r, err = ParseRecord(data)
	if err != nil {
		return Record{}, false, fmt.Errorf("reading %s: %w", File(app), err)
	}
	return r, true, nil
}

// ReadAll reads every record of a status branch, in the order of the apps' names. It is the one function here whose
// work grows with the number of apps by a file each. Damaged records make an error beside those that are whole.
func ReadAll(tip fs.FS) ([]Record, error) {
	all, damaged, err := readAll(tip)
	return all, errors.Join(append(damaged, err)...)
}

func readAll(tip fs.FS) (all []Record, damaged []error, err error) {
	entries, err := fs.ReadDir(tip, appsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("listing records: %w", err)
	}
	for _, entry := range entries {
		name := path.Join(appsDir, entry.Name())
		if entry.IsDir() || path.Ext(name) != ".yaml" {
			continue
		}
		data, err := fs.ReadFile(tip, name)
		if err != nil {
			return nil, nil, fmt.Errorf("reading records: %w", err)
		}
		r, err := ParseRecord(data)
		if err != nil {
			damaged = append(damaged, fmt.Errorf("reading %s: %w", name, err))
			continue
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Record) int { return strings.Compare(a.App, b.App) })
	return all, damaged, nil
}

// ReadStatus reads environment.yaml; zero where there is none.
func ReadStatus(tip fs.FS) (Status, error) {
	var s Status
	data, err := readFile(tip, environmentFile)
	if err != nil || data == nil {
		return s, err
	}
	if err := unmarshal(data, &s); err != nil {
		return Status{}, fmt.Errorf("reading %s: %w", environmentFile, err)
	}
	return s, nil
}

// readFile is nil for a file, or a whole branch, that is not there.
func readFile(tip fs.FS, name string) ([]byte, error) {
	if tip == nil {
		return nil, nil
	}
	data, err := fs.ReadFile(tip, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the status branch: %w", err)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}

func releaseOf(r rollout.Release) Release {
	return Release{
		Version: clean(r.Version, longestText), Image: clean(r.Image, longestText), Digest: clean(r.Digest, longestText), Commit: clean(r.Commit, longestText),
		By: clean(rollout.Name(r.By), longestText),
	}
}
