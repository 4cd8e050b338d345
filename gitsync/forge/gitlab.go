package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	gitlab "gitlab.com/gitlab-org/api/client-go"
)

// gitLab is gitlab.com, or a GitLab of one's own.
type gitLab struct {
	place place
	api   *gitlab.Client
}

func newGitLab(p place, client *http.Client) (*gitLab, error) {
	api, err := gitlab.NewAuthSourceClient(gitlab.Unauthenticated{}, // the transport signs
		gitlab.WithBaseURL(p.api.String()), gitlab.WithHTTPClient(client), gitlab.WithoutRetries(), gitlab.WithCustomLimiter(noLimit{}))
	return &gitLab{place: p, api: api}, err
}

// noLimit lets every request pass: GitLab itself says when there are too many, and the client's own limiter would wait.
type noLimit struct{}

// Wait implements gitlab.RateLimiter.
func (noLimit) Wait(context.Context) error { return nil }

func (d *gitLab) needs(r right) string {
	switch r {
	case readPulls, readChecks:
		return "the scope read_api and the role Reporter"
	case mergePulls:
		return "the scope api, and a role that may merge to the branch (Settings, Repository, Protected branches)"
	case writePulls, writeStatus:
	}
	return "the scope api and the role Developer"
}

func (d *gitLab) pulls(ctx context.Context, head, base string) ([]Pull, error) {
	opened := "opened"
	options := gitlab.ListProjectMergeRequestsOptions{State: &opened, TargetBranch: &base}
	if head != "" {
		options.SourceBranch = &head
	}
	found, err := every(func(page int) ([]*gitlab.BasicMergeRequest, int, error) {
		options.ListOptions = gitLabPage(page)
		return gitLabNext(d.api.MergeRequests.ListProjectMergeRequests(d.place.path(), &options, gitlab.WithContext(ctx)))
	})
	pulls := make([]Pull, len(found))
	for i, m := range found {
		pulls[i] = *gitLabPull(m)
	}
	return pulls, err
}

func gitLabPage(page int) gitlab.ListOptions {
	return gitlab.ListOptions{Page: int64(page), PerPage: pageSize}
}

// gitLabNext is a page of a list, and the number of the next.
func gitLabNext[T any](some T, res *gitlab.Response, err error) (T, int, error) {
	if err != nil {
		return some, 0, err
	}
	return some, int(res.NextPage), nil
}

func gitLabPull(m *gitlab.BasicMergeRequest) *Pull {
	pull := &Pull{
		Number: int(m.IID), URL: m.WebURL, Title: m.Title, Body: m.Description,
		Head: m.SourceBranch, Base: m.TargetBranch, Commit: m.SHA, State: Open, Labels: m.Labels,
	}
	if m.SourceProjectID != m.TargetProjectID {
		pull.Head = fmt.Sprint(m.SourceProjectID, ":", m.SourceBranch)
	}
	switch m.State {
	case "merged":
		pull.State = Merged
		// A fast-forward makes no commit, or one when it squashes.
		for _, commit := range []string{m.MergeCommitSHA, m.SquashCommitSHA, m.SHA} {
			if commit != "" {
				pull.MergeCommit = commit
				break
			}
		}
	case "closed":
		pull.State = Closed
	}
	return pull
}

func (d *gitLab) get(ctx context.Context, number int) (*gitlab.MergeRequest, error) {
	m, _, err := d.api.MergeRequests.GetMergeRequest(d.place.path(), int64(number), nil, gitlab.WithContext(ctx))
	return m, err
}

func (d *gitLab) pull(ctx context.Context, number int) (*Pull, error) {
	m, err := d.get(ctx, number)
	if err != nil {
		return nil, err
	}
	return gitLabPull(&m.BasicMergeRequest), nil
}

func (d *gitLab) create(ctx context.Context, p Pull) (*Pull, error) {
	// GitLab makes the labels that it does not know.
	options := gitlab.CreateMergeRequestOptions{Title: &p.Title, Description: &p.Body, SourceBranch: &p.Head, TargetBranch: &p.Base, Labels: gitLabLabels(p.Labels)}
	m, _, err := d.api.MergeRequests.CreateMergeRequest(d.place.path(), &options, gitlab.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	return gitLabPull(&m.BasicMergeRequest), nil
}

// gitLabLabels are labels for a request; nil for none, which an empty list would not be.
func gitLabLabels(labels []string) *gitlab.LabelOptions {
	if len(labels) == 0 {
		return nil
	}
	options := gitlab.LabelOptions(labels)
	return &options
}

func (d *gitLab) edit(ctx context.Context, p Pull, add, remove []string) error {
	options := gitlab.UpdateMergeRequestOptions{Title: &p.Title, Description: &p.Body, AddLabels: gitLabLabels(add), RemoveLabels: gitLabLabels(remove)}
	_, _, err := d.api.MergeRequests.UpdateMergeRequest(d.place.path(), int64(p.Number), &options, gitlab.WithContext(ctx))
	return err
}

// gitLabWaits are the states of a merge request that auto-merge waits through.
var gitLabWaits = map[string]bool{"ci_still_running": true, "ci_must_pass": true, "status_checks_must_pass": true}

func (d *gitLab) merge(ctx context.Context, p Pull, title string, pending bool) error {
	m, err := d.get(ctx, p.Number)
	if err != nil {
		return err
	}
	later := pending || gitLabWaits[m.DetailedMergeStatus]
	if err := gitLabObstacle(m.DetailedMergeStatus, later); err != nil {
		return err
	}
	options := gitlab.AcceptMergeRequestOptions{MergeCommitMessage: &title, SHA: &p.Commit, Squash: &m.SquashOnMerge}
	if m.SquashOnMerge {
		options.SquashCommitMessage = &title
	}
	if later {
		options.AutoMerge = &later
	}
	_, _, err = d.api.MergeRequests.AcceptMergeRequest(d.place.path(), int64(p.Number), &options, gitlab.WithContext(ctx))
	var f *fault
	if !errors.As(err, &f) {
		return err
	}
	switch f.status {
	case http.StatusUnauthorized:
		return f.as(ErrForbidden) // the token was good enough to read it: GitLab means the role
	case http.StatusMethodNotAllowed, http.StatusUnprocessableEntity:
		return f.as(ErrNotReady)
	}
	return err
}

// gitLabObstacle says what keeps a merge request in a state from being merged, now or by auto-merge.
func gitLabObstacle(state string, later bool) error {
	words := strings.ReplaceAll(state, "_", " ")
	switch {
	case state == "conflict" || state == "need_rebase" || state == "not_open":
		return fmt.Errorf("%w: GitLab says %q", ErrConflict, words)
	case state == "" || state == "mergeable" || later && gitLabWaits[state]:
		return nil
	}
	return fmt.Errorf("%w: GitLab says %q", ErrNotReady, words)
}

func (d *gitLab) close(ctx context.Context, number int) error {
	event := "close"
	_, _, err := d.api.MergeRequests.UpdateMergeRequest(d.place.path(), int64(number), &gitlab.UpdateMergeRequestOptions{StateEvent: &event}, gitlab.WithContext(ctx))
	return err
}

func (d *gitLab) checks(ctx context.Context, commit string) ([]Check, error) {
	found, err := every(func(page int) ([]*gitlab.CommitStatus, int, error) {
		return gitLabNext(d.api.Commits.GetCommitStatuses(d.place.path(), commit, &gitlab.GetCommitStatusesOptions{ListOptions: gitLabPage(page)}, gitlab.WithContext(ctx)))
	})
	checks := make([]Check, len(found))
	for i, s := range found {
		checks[i] = Check{Name: s.Name, Verdict: gitLabVerdict(s.Status, s.AllowFailure), Description: s.Description, URL: s.TargetURL}
	}
	return checks, err
}

// gitLabVerdict is the verdict of a job, as a pipeline takes it.
func gitLabVerdict(status string, allowed bool) Verdict {
	switch state := gitlab.BuildStateValue(status); {
	case state == gitlab.Success || state == gitlab.Skipped:
		return Success
	case state == gitlab.Failed || state == gitlab.Canceled:
		if allowed {
			return Success
		}
		return Failure
	case state == gitlab.Manual && allowed: // nobody waits for it
		return Success
	}
	return Pending
}

var gitLabStates = map[Verdict]gitlab.BuildStateValue{Pending: gitlab.Running, Success: gitlab.Success, Failure: gitlab.Failed}

// status says something of a commit. GitLab refuses to say again what is said, even with another description: the first
// description of a running status stays until it ends.
func (d *gitLab) status(ctx context.Context, commit string, c Check) error {
	options := gitlab.SetCommitStatusOptions{State: gitLabStates[c.Verdict], Name: &c.Name, Description: &c.Description}
	if c.URL != "" {
		options.TargetURL = &c.URL
	}
	_, _, err := d.api.Commits.SetCommitStatus(d.place.path(), commit, &options, gitlab.WithContext(ctx))
	var f *fault
	if errors.As(err, &f) && f.status == http.StatusBadRequest && strings.Contains(f.said, "Cannot transition status") {
		return nil
	}
	return err
}

func (d *gitLab) maxDescription() int { return 255 }

func (d *gitLab) me(ctx context.Context) (string, error) {
	u, _, err := d.api.Users.CurrentUser(gitlab.WithContext(ctx))
	if err != nil {
		return "", err
	}
	return u.Username, nil
}

func (d *gitLab) comments(ctx context.Context, number int) ([]comment, error) {
	order, sort := "created_at", "asc"
	found, err := every(func(page int) ([]*gitlab.Note, int, error) {
		options := gitlab.ListMergeRequestNotesOptions{ListOptions: gitLabPage(page), OrderBy: &order, Sort: &sort}
		return gitLabNext(d.api.Notes.ListMergeRequestNotes(d.place.path(), int64(number), &options, gitlab.WithContext(ctx)))
	})
	comments := make([]comment, len(found))
	for i, n := range found {
		comments[i] = comment{id: n.ID, author: n.Author.Username, body: n.Body}
	}
	return comments, err
}

func (d *gitLab) comment(ctx context.Context, number int, id int64, body string) error {
	var err error
	if id == 0 {
		_, _, err = d.api.Notes.CreateMergeRequestNote(d.place.path(), int64(number), &gitlab.CreateMergeRequestNoteOptions{Body: &body}, gitlab.WithContext(ctx))
	} else {
		_, _, err = d.api.Notes.UpdateMergeRequestNote(d.place.path(), int64(number), id, &gitlab.UpdateMergeRequestNoteOptions{Body: &body}, gitlab.WithContext(ctx))
	}
	return err
}
