package forge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/sluice-cd/sluice/gitsync/redact"
)

// patience is how long one method may take, all of its requests together.
const patience = time.Minute

// maxText bounds bodies of pull requests and comments, in bytes. GitHub takes 65,536 characters.
const maxText = 60_000

// right is what a token is needed for.
type right string

const (
	readPulls   right = "to read pull requests"
	writePulls  right = "to write pull requests, their labels and comments"
	mergePulls  right = "to merge pull requests"
	readChecks  right = "to read checks"
	writeStatus right = "to write commit statuses"
)

// driver is what differs between forges.
type driver interface {
	// needs says in the forge's words what gives a token a right.
	needs(right) string
	// pulls gives the open ones; head may be empty. It may give others as well.
	pulls(ctx context.Context, head, base string) ([]Pull, error)
	pull(ctx context.Context, number int) (*Pull, error)
	create(ctx context.Context, p Pull) (*Pull, error)
	// edit sets title and body, and adds and removes labels.
	edit(ctx context.Context, p Pull, add, remove []string) error
	// merge merges a pull request that is open and as described; when checks are pending, it has the forge do it later.
	merge(ctx context.Context, p Pull, title string, pending bool) error
	close(ctx context.Context, number int) error
	checks(ctx context.Context, commit string) ([]Check, error)
	status(ctx context.Context, commit string, c Check) error
	// maxDescription is the number of characters that a status may have.
	maxDescription() int
	// me is who writes comments.
	me(ctx context.Context) (string, error)
	comments(ctx context.Context, number int) ([]comment, error)
	// comment writes a new one when the id is 0.
	comment(ctx context.Context, number int, id int64, body string) error
}

type comment struct {
	id           int64
	author, body string
}

// repository is what forges have in common.
type repository struct {
	place  place
	driver driver

	commenting sync.Mutex // so that two who find no comment do not both make one
	author     string     // who writes comments; empty: not asked yet
}

// do runs one method: with a deadline, and with errors that say what was being done.
func (r *repository) do(ctx context.Context, doing string, needed right, f func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := f(limited)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case limited.Err() != nil:
		err = fmt.Errorf("%w: no answer within %s", ErrUnavailable, patience)
	default:
		err = forPeople(err)
	}
	text := fmt.Sprintf("%s of %s: %s", doing, r.place, err)
	if errors.Is(err, ErrForbidden) {
		text += "; " + string(needed) + " it needs " + r.driver.needs(needed)
	}
	return &redact.Error{Text: text, Err: err}
}

// Find implements Repository.
func (r *repository) Find(ctx context.Context, head, base string) (found *Pull, err error) {
	err = r.do(ctx, "finding the pull request of "+head, readPulls, func(ctx context.Context) error {
		pulls, err := r.driver.pulls(ctx, head, base)
		for _, p := range pulls {
			if p.Head == head && p.Base == base && p.State == Open && (found == nil || p.Number > found.Number) {
				found = &p
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Get implements Repository.
func (r *repository) Get(ctx context.Context, number int) (p *Pull, err error) {
	err = r.do(ctx, fmt.Sprint("reading pull request ", number), readPulls, func(ctx context.Context) (err error) {
		p, err = r.driver.pull(ctx, number)
		return err
	})
	return p, err
}

// List implements Repository.
func (r *repository) List(ctx context.Context, base string) (pulls []Pull, err error) {
	err = r.do(ctx, "listing the pull requests", readPulls, func(ctx context.Context) error {
		all, err := r.driver.pulls(ctx, "", base)
		pulls = slices.DeleteFunc(all, func(p Pull) bool { return p.Base != base || p.State != Open })
		return err
	})
	return pulls, err
}

// Create implements Repository.
func (r *repository) Create(ctx context.Context, p Pull) (made *Pull, err error) {
	p.Body = cut(p.Body)
	err = r.do(ctx, "opening a pull request for "+p.Head, writePulls, func(ctx context.Context) (err error) {
		made, err = r.driver.create(ctx, p)
		return err
	})
	return made, err
}

// Update implements Repository.
func (r *repository) Update(ctx context.Context, p Pull) error {
	p.Body = cut(p.Body)
	return r.do(ctx, fmt.Sprint("editing pull request ", p.Number), writePulls, func(ctx context.Context) error {
		now, err := r.driver.pull(ctx, p.Number)
		if err != nil {
			return err
		}
		add, remove := relabel(now.Labels, p.Labels)
		if now.Title == p.Title && now.Body == p.Body && len(add)+len(remove) == 0 {
			return nil
		}
		return r.driver.edit(ctx, p, add, remove)
	})
}

// ours tells whether a label is set and removed by Sluice alone.
func ours(label string) bool {
	return strings.HasPrefix(label, "env/") || held(label)
}

// held tells whether a label keeps a pull request from being merged.
func held(label string) bool { return strings.HasPrefix(label, "do-not-merge/") }

// relabel says what makes the labels of a pull request those wanted, and those of others that it has.
func relabel(has, wanted []string) (add, remove []string) {
	for _, l := range wanted {
		if !slices.Contains(has, l) && !slices.Contains(add, l) {
			add = append(add, l)
		}
	}
	for _, l := range has {
		if ours(l) && !slices.Contains(wanted, l) {
			remove = append(remove, l)
		}
	}
	return add, remove
}

// Merge implements Repository.
func (r *repository) Merge(ctx context.Context, p Pull, title string) error {
	return r.do(ctx, fmt.Sprint("merging pull request ", p.Number), mergePulls, func(ctx context.Context) error {
		now, err := r.driver.pull(ctx, p.Number)
		if err != nil {
			return err
		}
		checks, err := r.driver.checks(ctx, now.Commit)
		if err != nil {
			return err
		}
		verdict := combined(checks)
		if err := mergeable(p, *now, checks); err != nil {
			return err
		}
		if now.State == Merged {
			return nil
		}
		err = r.driver.merge(ctx, *now, title, verdict == Pending)
		if verdict == Pending && errors.Is(err, ErrNotReady) {
			return &fault{kind: ErrNotReady, text: err.Error() + "; pending: " + named(checks, Pending)}
		}
		return err
	})
}

// mergeable says why a pull request, as it is now, must not be merged as the caller knows it.
func mergeable(p, now Pull, checks []Check) error {
	label := slices.IndexFunc(now.Labels, held)
	switch {
	case now.Commit != p.Commit:
		return fmt.Errorf("%w: its head is %.12s by now, not %.12s", ErrConflict, now.Commit, p.Commit)
	case now.State == Merged:
		return nil
	case now.State == Closed:
		return fmt.Errorf("%w: it was closed without being merged", ErrConflict)
	case label >= 0:
		return fmt.Errorf("%w: the label %s holds it", ErrNotReady, now.Labels[label])
	case combined(checks) == Failure:
		return fmt.Errorf("%w: these checks failed: %s", ErrNotReady, named(checks, Failure))
	}
	return nil
}

// combined is the verdict of all checks.
func combined(checks []Check) Verdict {
	all := Success
	for _, c := range checks {
		switch {
		case c.Verdict == Failure:
			return Failure
		case c.Verdict != Success:
			all = Pending
		}
	}
	return all
}

// named lists the first checks of a verdict.
func named(checks []Check, v Verdict) string {
	var names []string
	for _, c := range checks {
		if c.Verdict == v {
			names = append(names, c.Name)
		}
	}
	if more := len(names) - 5; more > 0 {
		names = append(names[:5], fmt.Sprint("and ", more, " more"))
	}
	return strings.Join(names, ", ")
}

// Close implements Repository.
func (r *repository) Close(ctx context.Context, number int) error {
	return r.do(ctx, fmt.Sprint("closing pull request ", number), writePulls, func(ctx context.Context) error {
		now, err := r.driver.pull(ctx, number)
		switch {
		case err != nil:
			return err
		case now.State == Merged:
			return fmt.Errorf("%w: it was merged", ErrConflict)
		case now.State == Closed:
			return nil
		}
		return r.driver.close(ctx, number)
	})
}

// Checks implements Repository.
func (r *repository) Checks(ctx context.Context, commit string) (v Verdict, checks []Check, err error) {
	err = r.do(ctx, fmt.Sprintf("reading the checks of %.12s", commit), readChecks, func(ctx context.Context) (err error) {
		checks, err = r.driver.checks(ctx, commit)
		return err
	})
	if err != nil {
		return "", nil, err
	}
	slices.SortStableFunc(checks, func(a, b Check) int { return cmp.Compare(a.Name, b.Name) })
	return combined(checks), checks, nil
}

// SetStatus implements Repository.
func (r *repository) SetStatus(ctx context.Context, commit string, c Check) error {
	c.Description = shorten(c.Description, r.driver.maxDescription())
	return r.do(ctx, fmt.Sprintf("setting the status %s of %.12s", c.Name, commit), writeStatus, func(ctx context.Context) error {
		return r.driver.status(ctx, commit, c)
	})
}

// Comment implements Repository.
func (r *repository) Comment(ctx context.Context, number int, marker, body string) error {
	text := cut(marker + "\n" + strings.TrimSpace(body))
	return r.do(ctx, fmt.Sprint("commenting on pull request ", number), writePulls, func(ctx context.Context) error {
		r.commenting.Lock()
		defer r.commenting.Unlock()
		me, err := r.me(ctx)
		if err != nil {
			return err
		}
		comments, err := r.driver.comments(ctx, number)
		if err != nil {
			return err
		}
		for _, c := range comments {
			// Forges change line ends and spaces around what they are given.
			said := strings.TrimSpace(strings.ReplaceAll(c.body, "\r\n", "\n"))
			if said != marker && !strings.HasPrefix(said, marker+"\n") || me != unknown && c.author != me {
				continue
			}
			if said == text {
				return nil
			}
			return r.driver.comment(ctx, number, c.id, text)
		}
		return r.driver.comment(ctx, number, 0, text)
	})
}

// unknown is the author of comments where a token may not ask who it is. The marker must do then.
const unknown = "?"

// me is who writes comments: asked once, by who holds the lock.
func (r *repository) me(ctx context.Context) (string, error) {
	if r.author == "" {
		me, err := r.driver.me(ctx)
		switch {
		case errors.Is(err, ErrForbidden) || errors.Is(err, ErrNotFound):
			me = unknown
		case err != nil:
			return "", err
		}
		r.author = me
	}
	return r.author, nil
}

// cut bounds a text.
func cut(text string) string {
	text = strings.TrimSpace(text)
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "\n\n(cut: the forge takes no more)"
}

// shorten bounds a line, in characters.
func shorten(line string, most int) string {
	line = strings.Join(strings.Fields(line), " ")
	if utf8.RuneCountInString(line) <= most {
		return line
	}
	return string([]rune(line)[:most-1]) + "…"
}

// Pages of lists: their size, and how many are read before a list is too long to be true.
const (
	pageSize = 100
	maxPages = 100
)

// every reads a list to its end. list gives a page, and the number of the next; 0 at the end.
func every[T any](list func(page int) ([]T, int, error)) ([]T, error) {
	var all []T
	page := 1
	for range maxPages {
		some, next, err := list(page)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if next == 0 {
			return all, nil
		}
		page = next
	}
	return nil, fmt.Errorf("the list has more than %d pages: nobody reads so much", maxPages)
}
