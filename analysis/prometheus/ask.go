package prometheus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/model"

	"github.com/sluice-cd/sluice/analysis"
)

// concurrent is the number of queries that a client has under way for one round.
const concurrent = 8

// answer is what the server said to one query.
type answer struct {
	value    float64
	present  bool
	warnings []string
	err      error
}

// question is a query, and the series of its answer that is asked for; the zero Series where it answers with one number.
type question struct {
	query  string
	series analysis.Series
}

// Ask answers every check, in the same order. Queries that several checks share are asked once, and those about many
// workloads once for all that have been asked for lately, by whatever call: see rounds.
func (c *Client) Ask(ctx context.Context, checks []analysis.Check) []analysis.Sample {
	answers := map[question]answer{}
	shared := map[time.Duration][]question{}
	var own []string
	var alone bool
	for _, check := range checks {
		alone = alone || check.Series == analysis.Series{}
		for _, q := range []string{check.Query, check.Traffic} {
			asked := question{q, check.Series}
			if _, known := answers[asked]; known || q == "" {
				continue
			}
			answers[asked] = answer{}
			if asked.series == (analysis.Series{}) {
				own = append(own, q)
			} else {
				shared[check.Window] = append(shared[check.Window], asked)
			}
		}
	}
	if alone {
		maps.Copy(answers, c.askAll(ctx, own))
	}
	for window, questions := range shared {
		maps.Copy(answers, c.rounds.ask(ctx, window, questions))
	}
	samples := make([]analysis.Sample, len(checks))
	for i, check := range checks {
		samples[i] = sample(check, answers)
	}
	return samples
}

// present asks for the server's time. All that is to be compared is asked for one instant of it.
func (c *Client) present(ctx context.Context) (time.Time, error) {
	now := c.query(ctx, "time()", time.Time{})
	if now.err == nil && !now.present {
		now.err = errors.New("asking prometheus for its time: no answer")
	}
	return instant(now.value), now.err
}

// instant is the time of a number of seconds since 1970.
func instant(seconds float64) time.Time {
	return time.UnixMilli(int64(math.Round(seconds * 1000)))
}

// askAll asks queries that answer with one number for one instant, concurrently, and returns when all are answered.
func (c *Client) askAll(ctx context.Context, queries []string) map[question]answer {
	at, err := c.present(ctx)
	answers := make([]answer, len(queries))
	c.each(len(queries), func(i int) {
		if answers[i].err = err; err == nil {
			answers[i] = c.query(ctx, queries[i], at)
		}
	})
	byQuestion := map[question]answer{{}: {err: err}}
	for i, q := range queries {
		byQuestion[question{query: q}] = answers[i]
	}
	return byQuestion
}

// each calls do for every number below n, some of them at the same time.
func (c *Client) each(n int, do func(i int)) {
	slots := make(chan struct{}, concurrent)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			do(i)
		})
	}
	wg.Wait()
}

// sample puts the answers to a check's queries together.
func sample(c analysis.Check, answers map[question]answer) analysis.Sample {
	a := answers[question{c.Query, c.Series}]
	if c.Query == "" && a.err == nil {
		a.err = errors.New("the check has no query")
	}
	s := analysis.Sample{Value: a.value, Present: a.present, Requests: -1, Err: a.err, Warnings: a.warnings}
	if c.Traffic == "" {
		return s
	}
	t := answers[question{c.Traffic, c.Series}]
	s.Requests = 0
	if t.present {
		s.Requests = t.value
	}
	s.Warnings = append(s.Warnings[:len(s.Warnings):len(s.Warnings)], t.warnings...)
	if s.Err == nil && t.err != nil {
		s.Requests, s.Err = -1, fmt.Errorf("counting requests: %w", t.err)
	}
	return s
}

// query asks for one number at an instant; the zero instant is the server's present.
func (c *Client) query(ctx context.Context, q string, at time.Time) answer {
	value, warnings, err := c.evaluate(ctx, q, at)
	if err != nil {
		return answer{err: c.explain(ctx, err)}
	}
	a := number(value)
	a.warnings = warnings
	return a
}

// evaluate asks for whatever a query answers with.
func (c *Client) evaluate(ctx context.Context, q string, at time.Time) (model.Value, []string, error) {
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	value, all, _, err := c.api.Query(limited, q, at)
	var warnings []string
	for _, w := range all {
		// Servers before 3.0 send remarks on a query's style as warnings; they do not touch its value.
		if !strings.HasPrefix(w, "PromQL info:") {
			warnings = append(warnings, analysis.Line(c.secrets.remove(w)))
		}
	}
	return value, warnings, err
}

// explain makes an error that may be shown. Nothing of the original is wrapped: its text may hold credentials.
func (c *Client) explain(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("asking prometheus: no answer within %s", c.timeout)
	}
	return fmt.Errorf("asking prometheus: %s", analysis.Line(c.secrets.remove(err.Error())))
}

// number takes the one number out of an answer.
func number(v model.Value) answer {
	switch v := v.(type) {
	case *model.Scalar:
		return known(v.Value)
	case model.Vector:
		switch {
		case len(v) == 0:
			return answer{}
		case len(v) > 1:
			return answer{err: fmt.Errorf("the query answers with %d series, expected one; aggregate them, as with sum()", len(v))}
		}
		return numberOf(v[0])
	case nil:
		return answer{err: errors.New("the query has no answer, expected a number")}
	default:
		return answer{err: fmt.Errorf("the query answers with a %s, expected a number", v.Type())}
	}
}

// numberOf is the number of one series.
func numberOf(s *model.Sample) answer {
	if s.Histogram != nil {
		return answer{err: errors.New("the query answers with a histogram, expected a number")}
	}
	return known(s.Value)
}

func known(v model.SampleValue) answer {
	if math.IsNaN(float64(v)) {
		return answer{}
	}
	return answer{value: float64(v), present: true}
}
