package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"code.gitea.io/sdk/gitea"
)

// giteaDriver is Gitea, or Forgejo.
type giteaDriver struct {
	place place
	http  *http.Client
}

// api is a client for one call: Gitea's own keeps its context.
func (d *giteaDriver) api(ctx context.Context) (*gitea.Client, error) {
	return gitea.NewClient(d.place.api.String(), gitea.SetContext(ctx), gitea.SetHTTPClient(d.http),
		gitea.SetGiteaVersion("")) // do not ask for it: what is used here is in all versions that are maintained
}

func (d *giteaDriver) needs(r right) string {
	switch r {
	case readPulls, readChecks:
		return "the scope read:repository"
	case mergePulls:
		return "the scope write:repository, and the permission to merge to the branch"
	case writeStatus:
		return "the scope write:repository"
	case writePulls:
	}
	return "the scopes write:repository and write:issue"
}

// giteaPages are smaller: Gitea gives at most 50, and takes what was asked for as the size of a page all the same.
const giteaPages = 50

func giteaPage(page int) gitea.ListOptions {
	return gitea.ListOptions{Page: page, PageSize: giteaPages}
}

// giteaNext is a page of a list, and the number of the next. Not every list of Gitea's has links to its pages, and the server may
// give less at once than it is asked for: such a list ends with an empty page.
func giteaNext[T any](page int, some []T, res *gitea.Response, err error) ([]T, int, error) {
	switch {
	case err != nil || len(some) == 0:
		return some, 0, err
	case res.Header.Get("Link") != "":
		return some, res.NextPage, nil
	case page == 1 && res.Header.Get("X-Total-Count") == strconv.Itoa(len(some)):
		return some, 0, nil
	}
	return some, page + 1, nil
}

func (d *giteaDriver) pulls(ctx context.Context, _, _ string) ([]Pull, error) {
	api, err := d.api(ctx)
	if err != nil {
		return nil, err
	}
	found, err := every(func(page int) ([]*gitea.PullRequest, int, error) {
		some, res, err := api.ListRepoPullRequests(d.place.owner, d.place.name, gitea.ListPullRequestsOptions{ListOptions: giteaPage(page), State: gitea.StateOpen})
		return giteaNext(page, some, res, err)
	})
	pulls := make([]Pull, len(found))
	for i, p := range found {
		pulls[i] = *giteaPull(p)
	}
	return pulls, err
}

func giteaPull(p *gitea.PullRequest) *Pull {
	pull := &Pull{Number: int(p.Index), URL: p.HTMLURL, Title: p.Title, Body: p.Body, State: Open}
	if p.Base != nil {
		pull.Base = p.Base.Ref
	}
	if p.Head != nil {
		pull.Head, pull.Commit = p.Head.Ref, p.Head.Sha
		if p.Base != nil && p.Head.RepoID != p.Base.RepoID {
			owner := "?"
			if p.Head.Repository != nil && p.Head.Repository.Owner != nil {
				owner = p.Head.Repository.Owner.UserName
			}
			pull.Head = owner + ":" + p.Head.Ref
		}
	}
	switch {
	case p.HasMerged:
		pull.State = Merged
		if p.MergedCommitID != nil {
			pull.MergeCommit = *p.MergedCommitID
		}
	case p.State == gitea.StateClosed:
		pull.State = Closed
	}
	for _, l := range p.Labels {
		pull.Labels = append(pull.Labels, l.Name)
	}
	return pull
}

func (d *giteaDriver) pull(ctx context.Context, number int) (*Pull, error) {
	api, err := d.api(ctx)
	if err != nil {
		return nil, err
	}
	p, _, err := api.GetPullRequest(d.place.owner, d.place.name, int64(number))
	if err != nil {
		return nil, err
	}
	return giteaPull(p), nil
}

func (d *giteaDriver) create(ctx context.Context, p Pull) (*Pull, error) {
	api, err := d.api(ctx)
	if err != nil {
		return nil, err
	}
	labels, err := d.labels(api, p.Labels, true)
	if err != nil {
		return nil, err
	}
	made, _, err := api.CreatePullRequest(d.place.owner, d.place.name, gitea.CreatePullRequestOption{Head: p.Head, Base: p.Base, Title: p.Title, Body: p.Body, Labels: labels})
	if err != nil {
		return nil, err
	}
	return giteaPull(made), nil
}

// labels are the numbers of labels; those that the repository has not are made, or left out.
func (d *giteaDriver) labels(api *gitea.Client, names []string, missing bool) ([]int64, error) {
	if len(names) == 0 {
		return nil, nil
	}
	there, err := every(func(page int) ([]*gitea.Label, int, error) {
		some, res, err := api.ListRepoLabels(d.place.owner, d.place.name, gitea.ListLabelsOptions{ListOptions: giteaPage(page)})
		return giteaNext(page, some, res, err)
	})
	if err != nil {
		return nil, err
	}
	known := map[string]int64{}
	for _, l := range there {
		known[l.Name] = l.ID
	}
	var numbers []int64
	for _, name := range names {
		number, ok := known[name]
		switch {
		case !ok && !missing:
			continue
		case !ok:
			made, _, err := api.CreateLabel(d.place.owner, d.place.name, gitea.CreateLabelOption{Name: name, Color: "#ededed"})
			if err != nil {
				return nil, err
			}
			number = made.ID
		}
		numbers = append(numbers, number)
	}
	return numbers, nil
}

func (d *giteaDriver) edit(ctx context.Context, p Pull, add, remove []string) error {
	api, err := d.api(ctx)
	if err != nil {
		return err
	}
	added, err := d.labels(api, add, true)
	if err != nil {
		return err
	}
	removed, err := d.labels(api, remove, false)
	if err != nil {
		return err
	}
	// What holds it comes first, what releases it last.
	if len(added) > 0 {
		if _, _, err := api.AddIssueLabels(d.place.owner, d.place.name, int64(p.Number), gitea.IssueLabelsOption{Labels: added}); err != nil {
			return err
		}
	}
	if _, _, err := api.EditPullRequest(d.place.owner, d.place.name, int64(p.Number), gitea.EditPullRequestOption{Title: p.Title, Body: &p.Body}); err != nil {
		return err
	}
	for _, number := range removed {
		if _, err := api.DeleteIssueLabel(d.place.owner, d.place.name, int64(p.Number), number); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

func (d *giteaDriver) merge(ctx context.Context, p Pull, title string, pending bool) error {
	api, err := d.api(ctx)
	if err != nil {
		return err
	}
	style, err := d.style(api)
	if err != nil {
		return err
	}
	options := gitea.MergePullRequestOption{Style: style, Title: title, HeadCommitId: p.Commit}
	if pending {
		return d.mergeLater(ctx, api, p, options)
	}
	f, err := d.mergeNow(ctx, api, p, options)
	switch {
	case f == nil || f.status != http.StatusMethodNotAllowed:
		return err
	case strings.Contains(f.said, "status checks"): // those that a rule asks for may not have begun
		return d.mergeLater(ctx, api, p, options)
	}
	return giteaRefusal(f)
}

// mergeNow asks Gitea to merge, and gives what it refuses with.
func (d *giteaDriver) mergeNow(ctx context.Context, api *gitea.Client, p Pull, options gitea.MergePullRequestOption) (*fault, error) {
	f, err := d.ask(api, p, options)
	if f == nil || !looking(f) {
		return f, err
	}
	if err := d.looked(ctx, api, p); err != nil {
		return nil, err
	}
	return d.ask(api, p, options)
}

func (d *giteaDriver) ask(api *gitea.Client, p Pull, options gitea.MergePullRequestOption) (*fault, error) {
	_, _, err := api.MergePullRequest(d.place.owner, d.place.name, int64(p.Number), options)
	var f *fault
	errors.As(err, &f)
	return f, err
}

// looking is what Gitea says of a conflict, and while it looks for one: after each push to either branch.
func looking(f *fault) bool {
	return f.status == http.StatusMethodNotAllowed && strings.Contains(f.said, "try again later")
}

// Gitea does not say whether it has looked for conflicts yet. It does within moments, but for a busy one, which is asked ever less
// often.
const (
	giteaLooks    = 30 * time.Second
	firstGlance   = 250 * time.Millisecond
	longestGlance = 4 * time.Second
)

// looked waits until Gitea finds no conflict. Where it does not, there is one: unless the base has moved meanwhile, for then Gitea looks
// again, at each open pull request, one after the other.
func (d *giteaDriver) looked(ctx context.Context, api *gitea.Client, p Pull) error {
	bases := map[string]bool{}
	pause := firstGlance
	for waited := time.Duration(0); ; waited += pause {
		now, _, err := api.GetPullRequest(d.place.owner, d.place.name, int64(p.Number))
		if err != nil || now.Mergeable {
			return err
		}
		if now.Base != nil {
			bases[now.Base.Sha] = true
		}
		switch {
		case waited < giteaLooks:
		case len(bases) > 1:
			return fmt.Errorf("%w: %s moves, and Gitea looks again whether they go together", ErrNotReady, p.Base)
		default:
			return fmt.Errorf("%w: it does not go together with %s", ErrConflict, p.Base)
		}
		pause = min(2*pause, longestGlance)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// mergeLater has Gitea merge once checks have passed. It waits for those that a rule of the branch asks for; where none does, it
// would merge at once.
func (d *giteaDriver) mergeLater(ctx context.Context, api *gitea.Client, p Pull, options gitea.MergePullRequestOption) error {
	base, _, err := api.GetRepoBranch(d.place.owner, d.place.name, p.Base)
	switch {
	case err != nil:
		return err
	case !base.EnableStatusCheck:
		return fmt.Errorf("%w: no rule of the branch %s has Gitea wait for checks", ErrNotReady, p.Base)
	}
	options.MergeWhenChecksSucceed = true
	f, err := d.mergeNow(ctx, api, p, options)
	switch {
	case f == nil || f.status != http.StatusMethodNotAllowed && f.status != http.StatusConflict:
		return err
	case strings.Contains(f.said, "already scheduled"):
		return nil
	case f.status == http.StatusConflict:
		return err
	}
	return giteaRefusal(f)
}

// giteaRefusal tells what a refusal means: a right that is missing, or a rule that is not met.
func giteaRefusal(f *fault) error {
	if strings.Contains(f.said, "not allowed to merge") {
		return f.as(ErrForbidden)
	}
	return f.as(ErrNotReady)
}

// style is a way of merging that the repository allows.
func (d *giteaDriver) style(api *gitea.Client) (gitea.MergeStyle, error) {
	r, _, err := api.GetRepo(d.place.owner, d.place.name)
	switch {
	case err != nil:
		return "", err
	case r.AllowMerge:
		return gitea.MergeStyleMerge, nil
	case r.AllowSquash:
		return gitea.MergeStyleSquash, nil
	case r.AllowRebaseMerge:
		return gitea.MergeStyleRebaseMerge, nil
	case r.AllowRebase:
		return gitea.MergeStyleRebase, nil
	}
	return gitea.MergeStyleFastForwardOnly, nil
}

func (d *giteaDriver) close(ctx context.Context, number int) error {
	api, err := d.api(ctx)
	if err != nil {
		return err
	}
	closed := gitea.StateClosed
	_, _, err = api.EditPullRequest(d.place.owner, d.place.name, int64(number), gitea.EditPullRequestOption{State: &closed})
	return err
}

func (d *giteaDriver) checks(ctx context.Context, commit string) ([]Check, error) {
	api, err := d.api(ctx)
	if err != nil {
		return nil, err
	}
	// All that was ever said, the newest first: the client reads but one page of the last words.
	found, err := every(func(page int) ([]*gitea.Status, int, error) {
		some, res, err := api.ListStatuses(d.place.owner, d.place.name, commit, gitea.ListStatusesOption{ListOptions: giteaPage(page)})
		return giteaNext(page, some, res, err)
	})
	latest := map[string]*gitea.Status{}
	for _, s := range found {
		if known := latest[s.Context]; known == nil || s.ID > known.ID {
			latest[s.Context] = s
		}
	}
	var checks []Check
	for _, s := range latest {
		checks = append(checks, Check{Name: s.Context, Verdict: giteaStates[s.State], Description: s.Description, URL: s.TargetURL})
	}
	return checks, err
}

// giteaStates has a warning as Gitea combines it; no state is one that a newer Gitea may have.
var giteaStates = map[gitea.StatusState]Verdict{
	gitea.StatusPending: Pending, gitea.StatusSuccess: Success, "skipped": Success,
	gitea.StatusFailure: Failure, gitea.StatusError: Failure, gitea.StatusWarning: Failure,
}

func (d *giteaDriver) status(ctx context.Context, commit string, c Check) error {
	api, err := d.api(ctx)
	if err != nil {
		return err
	}
	_, _, err = api.CreateStatus(d.place.owner, d.place.name, commit, gitea.CreateStatusOption{
		State: gitea.StatusState(c.Verdict), TargetURL: c.URL, Description: c.Description, Context: c.Name,
	})
	return err
}

func (d *giteaDriver) maxDescription() int { return 255 }

func (d *giteaDriver) me(ctx context.Context) (string, error) {
	api, err := d.api(ctx)
	if err != nil {
		return "", err
	}
	u, _, err := api.GetMyUserInfo()
	if err != nil {
		return "", err
	}
	return u.UserName, nil
}

func (d *giteaDriver) comments(ctx context.Context, number int) ([]comment, error) {
	api, err := d.api(ctx)
	if err != nil {
		return nil, err
	}
	// Gitea gives all of them at once, and breaks where there is no such pull request.
	found, _, err := api.ListIssueComments(d.place.owner, d.place.name, int64(number), gitea.ListIssueCommentOptions{})
	if errors.Is(err, ErrUnavailable) {
		if _, missing := d.pull(ctx, number); errors.Is(missing, ErrNotFound) {
			return nil, missing
		}
	}
	comments := make([]comment, len(found))
	for i, c := range found {
		comments[i] = comment{id: c.ID, body: c.Body}
		if c.Poster != nil {
			comments[i].author = c.Poster.UserName
		}
	}
	return comments, err
}

func (d *giteaDriver) comment(ctx context.Context, number int, id int64, body string) error {
	api, err := d.api(ctx)
	if err != nil {
		return err
	}
	if id == 0 {
		_, _, err = api.CreateIssueComment(d.place.owner, d.place.name, int64(number), gitea.CreateIssueCommentOption{Body: body})
	} else {
		_, _, err = api.EditIssueComment(d.place.owner, d.place.name, id, gitea.EditIssueCommentOption{Body: body})
	}
	return err
}
