package forge

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bradleyfalzon/ghinstallation/v2"
	"github.com/google/go-github/v88/github"
)

// gitHub is github.com, or GitHub Enterprise Server.
type gitHub struct {
	place place
	api   *github.Client
	app   *github.Client // speaks for the App itself; nil: a token is used
}

func newGitHub(p place, client *http.Client, app *App) (*gitHub, error) {
	d := &gitHub{place: p}
	var err error
	if app != nil {
		client, d.app, err = installed(p, client, app)
		if err != nil {
			return nil, err
		}
	}
	d.api, err = gitHubClient(p, client)
	return d, err
}

// installed is a client for an installation of an App, whose tokens it gets and renews, and one for the App itself.
func installed(p place, client *http.Client, app *App) (*http.Client, *github.Client, error) {
	apps, err := ghinstallation.NewAppsTransport(client.Transport, app.ID, app.Key)
	if err != nil {
		return nil, nil, errors.New("the key of the GitHub App is no RSA private key in PEM: give the file that GitHub made")
	}
	apps.BaseURL = p.api.String()
	itself := *client
	itself.Transport = apps
	api, err := gitHubClient(p, &itself)
	if err != nil {
		return nil, nil, err
	}
	installation := ghinstallation.NewFromAppsTransport(apps, app.InstallationID)
	installation.BaseURL = apps.BaseURL
	signed := *client
	signed.Transport = installation
	return &signed, api, nil
}

func gitHubClient(p place, client *http.Client) (*github.Client, error) {
	base := p.api.String() + "/"
	// The client's own memory of limits would answer for the forge.
	return github.NewClient(github.WithHTTPClient(client), github.WithURLs(&base, nil), github.WithDisableRateLimitCheck())
}

func (d *gitHub) needs(r right) string {
	const classic = " (a classic token: the scope repo)"
	switch r {
	case readPulls:
		return "Pull requests: read" + classic
	case mergePulls:
		return "Contents and Pull requests: read and write" + classic
	case readChecks:
		return "Commit statuses and Checks: read" + classic
	case writeStatus:
		return "Commit statuses: read and write" + classic
	case writePulls:
	}
	return "Pull requests and Issues: read and write" + classic
}

func (d *gitHub) pulls(ctx context.Context, head, base string) ([]Pull, error) {
	options := github.PullRequestListOptions{State: "open", Base: base}
	if head != "" {
		options.Head = d.place.owner + ":" + head
	}
	found, err := every(func(page int) ([]*github.PullRequest, int, error) {
		options.ListOptions = github.ListOptions{Page: page, PerPage: pageSize}
		return gitHubPage(d.api.PullRequests.List(ctx, d.place.owner, d.place.name, &options))
	})
	pulls := make([]Pull, len(found))
	for i, p := range found {
		pulls[i] = *gitHubPull(p)
	}
	return pulls, err
}

// gitHubPage is a page of a list, and the number of the next.
func gitHubPage[T any](some T, res *github.Response, err error) (T, int, error) {
	if err != nil {
		return some, 0, err
	}
	return some, res.NextPage, nil
}

func gitHubPull(p *github.PullRequest) *Pull {
	pull := &Pull{
		Number: p.GetNumber(), URL: p.GetHTMLURL(), Title: p.GetTitle(), Body: p.GetBody(),
		Head: p.GetHead().GetRef(), Base: p.GetBase().GetRef(), Commit: p.GetHead().GetSHA(), State: Open,
	}
	if from := p.GetHead().GetRepo(); from.GetID() != p.GetBase().GetRepo().GetID() {
		pull.Head = p.GetHead().GetLabel() // OWNER:BRANCH
	}
	switch {
	case p.MergedAt != nil:
		pull.State = Merged
		pull.MergeCommit = p.GetMergeCommitSHA()
	case p.GetState() == "closed":
		pull.State = Closed
	}
	for _, l := range p.Labels {
		pull.Labels = append(pull.Labels, l.GetName())
	}
	return pull
}

func (d *gitHub) pull(ctx context.Context, number int) (*Pull, error) {
	p, _, err := d.api.PullRequests.Get(ctx, d.place.owner, d.place.name, number)
	if err != nil {
		return nil, err
	}
	return gitHubPull(p), nil
}

func (d *gitHub) create(ctx context.Context, p Pull) (*Pull, error) {
	made, _, err := d.api.PullRequests.Create(ctx, d.place.owner, d.place.name, &github.NewPullRequest{Title: &p.Title, Body: &p.Body, Head: &p.Head, Base: &p.Base})
	var f *fault
	switch {
	case errors.As(err, &f) && f.status == http.StatusUnprocessableEntity && strings.Contains(f.said, "already exists"):
		return nil, f.as(ErrConflict)
	case err != nil:
		return nil, err
	}
	pull := gitHubPull(made)
	if len(p.Labels) == 0 {
		return pull, nil
	}
	// GitHub makes the labels that it does not know.
	labels, _, err := d.api.Issues.AddLabelsToIssue(ctx, d.place.owner, d.place.name, pull.Number, p.Labels)
	if err != nil {
		return nil, err
	}
	for _, l := range labels {
		pull.Labels = append(pull.Labels, l.GetName())
	}
	return pull, nil
}

func (d *gitHub) edit(ctx context.Context, p Pull, add, remove []string) error {
	// What holds it comes first, what releases it last.
	if len(add) > 0 {
		if _, _, err := d.api.Issues.AddLabelsToIssue(ctx, d.place.owner, d.place.name, p.Number, add); err != nil {
			return err
		}
	}
	if _, _, err := d.api.PullRequests.Edit(ctx, d.place.owner, d.place.name, p.Number, &github.PullRequest{Title: &p.Title, Body: &p.Body}); err != nil {
		return err
	}
	for _, l := range remove {
		// The client puts it into a path as it is.
		if _, err := d.api.Issues.RemoveLabelForIssue(ctx, d.place.owner, d.place.name, p.Number, url.PathEscape(l)); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

func (d *gitHub) merge(ctx context.Context, p Pull, title string, pending bool) error {
	if pending {
		return d.mergeLater(ctx, p, title)
	}
	method, err := d.method(ctx)
	if err != nil {
		return err
	}
	_, _, err = d.api.PullRequests.Merge(ctx, d.place.owner, d.place.name, p.Number, "", &github.PullRequestOptions{CommitTitle: title, SHA: p.Commit, MergeMethod: method})
	var f *fault
	if !errors.As(err, &f) || f.status != http.StatusMethodNotAllowed {
		return err
	}
	// Checks that a rule asks for may not have begun.
	if strings.Contains(strings.ToLower(f.said), "status check") {
		return d.mergeLater(ctx, p, title)
	}
	return d.refused(ctx, p, f)
}

// refused tells a conflict from a rule that is not met, which GitHub's answer does not.
func (d *gitHub) refused(ctx context.Context, p Pull, f *fault) error {
	now, _, err := d.api.PullRequests.Get(ctx, d.place.owner, d.place.name, p.Number)
	if err == nil && now.GetMergeableState() == "dirty" {
		return f.as(ErrConflict)
	}
	return f.as(ErrNotReady)
}

// method is a way of merging that the repository allows.
func (d *gitHub) method(ctx context.Context) (string, error) {
	r, _, err := d.api.Repositories.Get(ctx, d.place.owner, d.place.name)
	switch {
	case err != nil:
		return "", err
	case r.AllowMergeCommit == nil || r.GetAllowMergeCommit(): // GitHub tells only those who may write
		return "merge", nil
	case r.GetAllowSquashMerge():
		return "squash", nil
	}
	return "rebase", nil
}

// mergeLater turns auto-merge on, which only GraphQL can. A merge queue takes the pull request by it as well.
func (d *gitHub) mergeLater(ctx context.Context, p Pull, title string) error {
	now, _, err := d.api.PullRequests.Get(ctx, d.place.owner, d.place.name, p.Number)
	if err != nil {
		return err
	}
	method, err := d.method(ctx)
	if err != nil {
		return err
	}
	input := map[string]any{"pullRequestId": now.GetNodeID(), "expectedHeadOid": p.Commit, "mergeMethod": strings.ToUpper(method)}
	if method != "rebase" {
		input["commitHeadline"] = title
	}
	body := map[string]any{
		"query":     `mutation($input: EnablePullRequestAutoMergeInput!) { enablePullRequestAutoMerge(input: $input) { clientMutationId } }`,
		"variables": map[string]any{"input": input},
	}
	req, err := d.api.NewRequest(ctx, http.MethodPost, d.graphQL(), body)
	if err != nil {
		return err
	}
	var answer struct {
		Errors []struct{ Type, Message string }
	}
	if _, err := d.api.Do(req, &answer); err != nil {
		return err
	}
	if len(answer.Errors) == 0 {
		return nil
	}
	f := &fault{said: answer.Errors[0].Message}
	switch answer.Errors[0].Type {
	case "FORBIDDEN", "INSUFFICIENT_SCOPES":
		return f.as(ErrForbidden)
	case "RATE_LIMITED": // which GraphQL says with 200
		return f.as(Limited{time.Now().Add(secondaryWait)})
	}
	if strings.Contains(f.said, "head sha") || strings.Contains(f.said, "expectedHeadOid") {
		return f.as(ErrConflict)
	}
	return f.as(ErrNotReady)
}

// graphQL is where GraphQL is: beside the REST API on github.com, and not below it on servers of one's own.
func (d *gitHub) graphQL() string {
	return strings.TrimSuffix(d.place.api.String(), "/v3") + "/graphql"
}

func (d *gitHub) close(ctx context.Context, number int) error {
	closed := "closed"
	_, _, err := d.api.PullRequests.Edit(ctx, d.place.owner, d.place.name, number, &github.PullRequest{State: &closed})
	return err
}

func (d *gitHub) checks(ctx context.Context, commit string) ([]Check, error) {
	statuses, err := every(func(page int) ([]*github.RepoStatus, int, error) {
		some, next, err := gitHubPage(d.api.Repositories.GetCombinedStatus(ctx, d.place.owner, d.place.name, commit, &github.ListOptions{Page: page, PerPage: pageSize}))
		return some.GetStatuses(), next, err
	})
	if err != nil {
		return nil, err
	}
	runs, err := every(func(page int) ([]*github.CheckRun, int, error) {
		some, next, err := gitHubPage(d.api.Checks.ListCheckRunsForRef(ctx, d.place.owner, d.place.name, commit,
			&github.ListCheckRunsOptions{ListOptions: github.ListOptions{Page: page, PerPage: pageSize}}))
		return some.GetCheckRuns(), next, err
	})
	if err != nil {
		return nil, err
	}
	var checks []Check
	for _, s := range statuses {
		checks = append(checks, Check{
			Name: s.GetContext(), Verdict: gitHubStates[s.GetState()], Description: s.GetDescription(), URL: s.GetTargetURL(),
		})
	}
	for _, r := range runs {
		checks = append(checks, Check{
			Name: r.GetName(), Verdict: gitHubRun(r.GetStatus(), r.GetConclusion()), Description: r.GetOutput().GetTitle(), URL: r.GetHTMLURL(),
		})
	}
	return checks, nil
}

var gitHubStates = map[string]Verdict{"pending": Pending, "success": Success, "failure": Failure, "error": Failure}

// gitHubRun is the verdict of a check run. GitHub lets pass what is neutral or skipped.
func gitHubRun(status, conclusion string) Verdict {
	switch {
	case status != "completed":
		return Pending
	case conclusion == "success" || conclusion == "neutral" || conclusion == "skipped":
		return Success
	}
	return Failure
}

func (d *gitHub) status(ctx context.Context, commit string, c Check) error {
	state := string(c.Verdict)
	s := github.RepoStatus{State: &state, Context: &c.Name, Description: &c.Description}
	if c.URL != "" {
		s.TargetURL = &c.URL
	}
	_, _, err := d.api.Repositories.CreateStatus(ctx, d.place.owner, d.place.name, commit, s)
	return err
}

func (d *gitHub) maxDescription() int { return 140 }

func (d *gitHub) me(ctx context.Context) (string, error) {
	if d.app != nil {
		app, _, err := d.app.Apps.Get(ctx, "")
		if err != nil {
			return "", err
		}
		return app.GetSlug() + "[bot]", nil
	}
	u, _, err := d.api.Users.Get(ctx, "")
	if err != nil {
		return "", err
	}
	return u.GetLogin(), nil
}

func (d *gitHub) comments(ctx context.Context, number int) ([]comment, error) {
	found, err := every(func(page int) ([]*github.IssueComment, int, error) {
		return gitHubPage(d.api.Issues.ListComments(ctx, d.place.owner, d.place.name, number,
			&github.IssueListCommentsOptions{ListOptions: github.ListOptions{Page: page, PerPage: pageSize}}))
	})
	comments := make([]comment, len(found))
	for i, c := range found {
		comments[i] = comment{id: c.GetID(), author: c.GetUser().GetLogin(), body: c.GetBody()}
	}
	return comments, err
}

func (d *gitHub) comment(ctx context.Context, number int, id int64, body string) error {
	var err error
	if id == 0 {
		_, _, err = d.api.Issues.CreateComment(ctx, d.place.owner, d.place.name, number, &github.IssueComment{Body: &body})
	} else {
		_, _, err = d.api.Issues.EditComment(ctx, d.place.owner, d.place.name, id, &github.IssueComment{Body: &body})
	}
	return err
}
