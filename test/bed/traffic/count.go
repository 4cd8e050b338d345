package traffic

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// flow is the stream of requests to one host. It deals out whole requests
// without randomness: what is left of a share after rounding is kept as credit
// for the next time, so that over time each group gets exactly its part.
type flow struct {
	shares  []share
	due     float64               // requests that are due, less than one
	credits map[creditKey]float64 // requests owed to each share
	errors  map[creditKey]float64 // errors owed by each share
}

type creditKey struct {
	group    group
	mirrored bool
}

// batch is what one group gets at a time: so many requests, of which some fail.
type batch struct {
	share  share
	total  int
	failed int
}

// take sends the requests of an elapsed time at a rate per second.
func (f *flow) take(rate float64, elapsed time.Duration) []batch {
	f.due += rate * elapsed.Seconds()
	// A part of a request that rounding of floats made almost whole is whole.
	n := math.Floor(f.due + 1e-9)
	if n <= 0 || len(f.shares) == 0 {
		return nil
	}
	f.due = max(f.due-n, 0)
	users := slices.DeleteFunc(slices.Clone(f.shares), func(s share) bool { return s.mirrored })
	mirrors := slices.DeleteFunc(slices.Clone(f.shares), func(s share) bool { return !s.mirrored })
	return append(f.deal(users, n, true), f.deal(mirrors, n, false)...)
}

// deal gives each share its part of n requests by largest remainder; whole says
// that the parts sum up to 1, so that none of the n may be left over.
func (f *flow) deal(shares []share, n float64, whole bool) []batch {
	batches := make([]batch, len(shares))
	given := 0
	for i, s := range shares {
		key := creditKey{s.group, s.mirrored}
		f.credits[key] += n * s.part
		count := max(math.Floor(f.credits[key]+1e-9), 0) // who got one ahead of its turn owes it
		f.credits[key] -= count
		batches[i] = batch{share: s, total: int(count)}
		given += batches[i].total
	}
	if whole {
		f.dealRest(batches, int(n)-given)
	}
	for i := range batches {
		batches[i].failed = f.fail(batches[i])
	}
	return slices.DeleteFunc(batches, func(b batch) bool { return b.total == 0 })
}

// dealRest gives the requests that rounding left over to those owed most.
func (f *flow) dealRest(batches []batch, rest int) {
	order := make([]int, len(batches))
	for i := range order {
		order[i] = i
	}
	owed := func(i int) float64 { return f.credits[creditKey{batches[i].share.group, batches[i].share.mirrored}] }
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(owed(b), owed(a)) })
	for _, i := range order[:max(0, min(rest, len(order)))] {
		batches[i].total++
		f.credits[creditKey{batches[i].share.group, batches[i].share.mirrored}]--
	}
}

func (f *flow) fail(b batch) int {
	if b.share.group.workload == "" {
		return b.total
	}
	key := creditKey{b.share.group, b.share.mirrored}
	f.errors[key] += float64(b.total) * b.share.group.behaviour.ErrorRate
	failed := min(math.Floor(f.errors[key]+1e-9), float64(b.total))
	f.errors[key] -= failed
	return int(failed)
}

// reroute changes the shares and forgets what was owed to groups that are gone.
func (f *flow) reroute(shares []share) {
	credits, errors := map[creditKey]float64{}, map[creditKey]float64{}
	for _, s := range shares {
		key := creditKey{s.group, s.mirrored}
		credits[key], errors[key] = f.credits[key], f.errors[key]
	}
	f.shares, f.credits, f.errors = shares, credits, errors
}
