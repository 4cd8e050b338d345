package environments

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Wave is some of an environment's clusters, which get a release at the same time.
type Wave struct {
	Clusters []string
	// Soak is how long the last of them has to have served a release before the next wave gets it.
	Soak time.Duration
}

// Waves are an environment's clusters in the order in which they get a release; none: all get it at once.
type Waves []Wave

// Of is the number of a cluster's wave, from 1; 0 where there are no waves. A cluster that none of them names is in the last: it
// may be new, or misspelled, and nobody has said that it is one to try things in.
func (w Waves) Of(cluster string) int {
	for i, wave := range w {
		if slices.Contains(wave.Clusters, cluster) {
			return i + 1
		}
	}
	return len(w)
}

// Name reports whether a wave names a cluster.
func (w Waves) Name(cluster string) bool {
	return slices.ContainsFunc(w, func(wave Wave) bool { return slices.Contains(wave.Clusters, cluster) })
}

// Before are the waves that a release has to be through before it comes to a cluster.
func (w Waves) Before(cluster string) Waves { return w[:max(w.Of(cluster)-1, 0)] }

// String is the order for people: "us, 30m0s later eu and asia". It is empty where there are no waves.
func (w Waves) String() string {
	var b strings.Builder
	for i, wave := range w {
		switch {
		case i == 0:
		case w[i-1].Soak > 0:
			fmt.Fprintf(&b, ", %s later ", w[i-1].Soak)
		default:
			b.WriteString(", then ")
		}
		b.WriteString(strings.Join(wave.Clusters, " and "))
	}
	return b.String()
}

var waveFields = fields[Wave]{
	"clusters": set(asLabels, func(to *Wave) *[]string { return &to.Clusters },
		"Clusters that start together, by their names in agent.yaml. Each is in one wave.").needed(),
	"soak": set(asDuration, func(to *Wave) *time.Duration { return &to.Soak },
		"How long all of them must have run the release before the next wave starts.").or("not at all"),
}

var (
	asLabels = kind[[]string]{listShape(asLabel.shape), (*decoder).labels}
	asWaves  = kind[Waves]{tablesShape(waveFields), (*decoder).waves}
)

func (d *decoder) labels(at fieldPath, v any) []string {
	var list []string
	for i, e := range d.list(at, v) {
		list = append(list, d.label(at.index(i), e))
	}
	return list
}

// waves reads the order of an environment's clusters. Each is in one wave.
func (d *decoder) waves(at fieldPath, v any) Waves {
	var waves Waves
	first := map[string]string{}
	for i, e := range d.list(at, v) {
		where := at.index(i)
		var w Wave
		decodeObject(d, where, e, waveFields, &w)
		if len(w.Clusters) == 0 {
			d.fail(where.key("clusters"), "names no cluster", "the names that the clusters' agents have in agent.yaml, such as [us]")
		}
		for j, cluster := range w.Clusters {
			here := where.key("clusters").index(j)
			if before, twice := first[cluster]; twice && cluster != "" {
				d.fail(here, fmt.Sprintf("names %s, as %s does", shown(cluster), before), "each cluster once")
			}
			first[cluster] = here.String()
		}
		waves = append(waves, w)
	}
	return waves
}
