package prometheus

import (
	"context"
	"errors"
	"fmt"
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

// Ask answers every check, in the same order. Queries that several checks share are asked once.
func (c *Client) Ask(ctx context.Context, checks []analysis.Check) []analysis.Sample {
	samples := make([]analysis.Sample, len(checks))
	if len(checks) == 0 {
		return samples
	}
	now := c.query(ctx, "time()", time.Time{})
	if now.err == nil && !now.present {
		now.err = errors.New("asking prometheus for its time: no answer")
	}
	if now.err != nil {
		for i := range samples {
			samples[i] = analysis.Sample{Requests: -1, Err: now.err}
		}
		return samples
	}
	answers := c.askAll(ctx, queriesOf(checks), instant(now.value))
	for i, check := range checks {
		samples[i] = sample(check, answers)
	}
	return samples
}

// instant is the time of a number of seconds since 1970.
func instant(seconds float64) time.Time {
	return time.UnixMilli(int64(math.Round(seconds * 1000)))
}

// queriesOf lists the queries of the checks, each once.
func queriesOf(checks []analysis.Check) []string {
	var queries []string
	seen := map[string]bool{"": true}
	for _, c := range checks {
		for _, q := range []string{c.Query, c.Traffic} {
			if !seen[q] {
				seen[q] = true
				queries = append(queries, q)
			}
		}
	}
	return queries
}

// askAll asks the queries concurrently and returns when all are answered.
func (c *Client) askAll(ctx context.Context, queries []string, at time.Time) map[string]answer {
	answers := make([]answer, len(queries))
	slots := make(chan struct{}, concurrent)
	var wg sync.WaitGroup
	for i, q := range queries {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			answers[i] = c.query(ctx, q, at)
		})
	}
	wg.Wait()
	byQuery := make(map[string]answer, len(queries))
	for i, q := range queries {
		byQuery[q] = answers[i]
	}
	return byQuery
}

// sample puts the answers to a check's queries together.
func sample(c analysis.Check, answers map[string]answer) analysis.Sample {
	a, asked := answers[c.Query]
	if !asked {
		a.err = errors.New("the check has no query")
	}
	s := analysis.Sample{Value: a.value, Present: a.present, Requests: -1, Err: a.err, Warnings: a.warnings}
	if c.Traffic == "" {
		return s
	}
	t := answers[c.Traffic]
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
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	value, warnings, _, err := c.api.Query(limited, q, at)
	if err != nil {
		return answer{err: c.explain(ctx, err)}
	}
	a := number(value)
	for _, w := range warnings {
		// Servers before 3.0 send remarks on a query's style as warnings; they do not touch its value.
		if !strings.HasPrefix(w, "PromQL info:") {
			a.warnings = append(a.warnings, analysis.Redact(c.secrets.remove(w)))
		}
	}
	return a
}

// explain makes an error that may be shown. Nothing of the original is wrapped: its text may hold credentials.
func (c *Client) explain(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("asking prometheus: no answer within %s", c.timeout)
	}
	return fmt.Errorf("asking prometheus: %s", analysis.Redact(c.secrets.remove(err.Error())))
}

// number takes the one number out of an answer.
func number(v model.Value) answer {
	switch v := v.(type) {
	case *model.Scalar:
		return present(v.Value)
	case model.Vector:
		switch {
		case len(v) == 0:
			return answer{}
		case len(v) > 1:
			return answer{err: fmt.Errorf("the query answers with %d series, expected one; aggregate them, as with sum()", len(v))}
		case v[0].Histogram != nil:
			return answer{err: errors.New("the query answers with a histogram, expected a number")}
		}
		return present(v[0].Value)
	case nil:
		return answer{err: errors.New("the query has no answer, expected a number")}
	default:
		return answer{err: fmt.Errorf("the query answers with a %s, expected a number", v.Type())}
	}
}

func present(v model.SampleValue) answer {
	if math.IsNaN(float64(v)) {
		return answer{}
	}
	return answer{value: float64(v), present: true}
}
