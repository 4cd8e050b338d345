package prometheus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/sluice-cd/sluice/analysis"
)

const (
	// remembered is how long a series goes on being asked for with the others after somebody has asked for it.
	remembered = 5 * time.Minute
	// freshest is how old an answer may be that is given again; less for short windows, see fresh.
	freshest = time.Second
	// most is the number of workloads in one query.
	most = 500
)

// fresh is how old an answer may be that is given again. Within a tenth of the window, the window is all but the same.
func fresh(window time.Duration) time.Duration {
	return min(freshest, window/10)
}

// rounds ask about many workloads at once, so that hundreds of canaries cost a server hardly more than one. A round asks for
// every series that was asked for in the last minutes, and its answers are given to whoever asks for them while they are
// fresh. For each window there is at most one round under way.
type rounds struct {
	client *Client
	mu     sync.Mutex
	// wanted holds for each window what is asked for, and until when.
	wanted map[time.Duration]map[question]time.Time
	last   map[time.Duration]*round
}

// round is one round, from its beginning on.
type round struct {
	began time.Time
	asks  map[question]bool
	// done is closed when answers holds one for all that it asks.
	done    chan struct{}
	answers map[question]answer
}

// ask answers questions by a round that began now or, at the earliest, as long ago as an answer may be old.
func (r *rounds) ask(ctx context.Context, window time.Duration, questions []question) map[question]answer {
	//nolint:forbidigo // how old an answer is in this process; nothing is decided by it
	since := time.Now().Add(-fresh(window))
	answers := make(map[question]answer, len(questions))
	for {
		current, mine := r.join(window, questions, since)
		if mine {
			r.carryOut(ctx, current)
		}
		select {
		case <-current.done:
		case <-ctx.Done():
			for _, q := range questions {
				answers[q] = answer{err: r.client.explain(ctx, ctx.Err())}
			}
			return answers
		}
		if current.suits(questions, since) {
			for _, q := range questions {
				answers[q] = current.answers[q]
			}
			return answers
		}
	}
}

// carryOut asks what a round asks. Others wait for it too, so it takes as long as its queries may take, whoever began it, and
// is over whatever becomes of it.
func (r *rounds) carryOut(ctx context.Context, current *round) {
	defer close(current.done)
	current.answers = r.client.askRound(context.WithoutCancel(ctx), current.asks)
}

// join finds the round that answers the questions, or one that is to be waited for first. One that is mine is new, and is
// the caller's to carry out.
func (r *rounds) join(window time.Duration, questions []question, since time.Time) (current *round, mine bool) {
	now := since.Add(fresh(window))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wanted[window] == nil {
		r.wanted[window] = map[question]time.Time{}
	}
	wanted := r.wanted[window]
	for _, q := range questions {
		wanted[q] = now.Add(remembered)
	}
	if last := r.last[window]; last != nil && (!last.over() || last.suits(questions, since)) {
		return last, false
	}
	//nolint:forbidigo // as in ask; the caller may have waited for another round meanwhile
	next := &round{began: time.Now(), asks: map[question]bool{}, done: make(chan struct{})}
	for q, until := range wanted {
		if until.Before(now) {
			delete(wanted, q)
			continue
		}
		next.asks[q] = true
	}
	r.last[window] = next
	return next, true
}

func (r *round) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// suits reports whether the round asks the questions, and for an instant that is late enough.
func (r *round) suits(questions []question, since time.Time) bool {
	return !r.began.Before(since) && !slices.ContainsFunc(questions, func(q question) bool { return !r.asks[q] })
}

// askRound asks questions about series, those of the same query together, all for one instant.
func (c *Client) askRound(ctx context.Context, asks map[question]bool) map[question]answer {
	answers := make(map[question]answer, len(asks))
	byQuery := map[string][]analysis.Series{}
	for q := range asks {
		byQuery[q.query] = append(byQuery[q.query], q.series)
	}
	at, err := c.present(ctx)
	if err != nil {
		for q := range asks {
			answers[q] = answer{err: err}
		}
		return answers
	}
	type part struct {
		query  string
		series []analysis.Series
	}
	var parts []part
	for query, series := range byQuery {
		for some := range slices.Chunk(series, most) {
			parts = append(parts, part{query, some})
		}
	}
	var mu sync.Mutex
	c.each(len(parts), func(i int) {
		found := c.series(ctx, parts[i].query, parts[i].series, at)
		mu.Lock()
		defer mu.Unlock()
		for s, a := range found {
			answers[question{parts[i].query, s}] = a
		}
	})
	return answers
}

// series asks one query about some workloads. What the server can't answer for all of them it may for a half: none is to
// suffer from another whose series are too many.
func (c *Client) series(ctx context.Context, query string, series []analysis.Series, at time.Time) map[analysis.Series]answer {
	value, warnings, err := c.evaluate(ctx, analysis.Among(query, series), at)
	var refused *v1.Error
	if errors.As(err, &refused) && (refused.Type == v1.ErrExec || refused.Type == v1.ErrTimeout) && len(series) > 1 {
		answers := c.series(ctx, query, series[:len(series)/2], at)
		for s, a := range c.series(ctx, query, series[len(series)/2:], at) {
			answers[s] = a
		}
		return answers
	}
	answers := make(map[analysis.Series]answer, len(series))
	vector, isVector := value.(model.Vector)
	for _, s := range series {
		switch {
		case err != nil:
			answers[s] = answer{err: c.explain(ctx, err)}
		case !isVector:
			answers[s] = answer{err: fmt.Errorf("the query answers with a %T, expected a vector", value)}
		default:
			answers[s] = answer{warnings: warnings}
		}
	}
	for _, sample := range vector {
		s := series[0] // the labels are the same for all
		s.Namespace, s.Workload = string(sample.Metric[model.LabelName(s.NamespaceLabel)]), string(sample.Metric[model.LabelName(s.WorkloadLabel)])
		if _, asked := answers[s]; !asked {
			continue
		}
		a := numberOf(sample)
		a.warnings = warnings
		answers[s] = a
	}
	return answers
}
