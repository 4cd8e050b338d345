package environments

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestWaves(t *testing.T) {
	for _, test := range []struct {
		name, settings string
		want           Waves
		fault          string
	}{
		{"none", "", nil, ""},
		{"two", "waves: [{clusters: [us], soak: 30m}, {clusters: [eu, asia]}]\n", Waves{{[]string{"us"}, 30 * time.Minute}, {Clusters: []string{"eu", "asia"}}}, ""},
		{"no clusters", "waves:\n- {soak: 30m}\n", nil, "sluice.yaml:4: waves[0].clusters: names no cluster; expected the names that the clusters' agents have"},
		{"an empty wave", "waves:\n- {clusters: [us]}\n- {clusters: []}\n", nil, "waves[1].clusters: names no cluster"},
		{"a cluster twice", "waves:\n- {clusters: [us]}\n- {clusters: [eu, us]}\n", nil, `waves[1].clusters[1]: names "us", as waves[0].clusters[0] does; expected each cluster once`},
		{"no name", "waves: [{clusters: [US East]}]\n", nil, `waves[0].clusters[0]: is "US East"`},
		{"a bad soak", "waves: [{clusters: [us], soak: soon}]\n", nil, `waves[0].soak: is "soon"; expected a duration`},
		{"another field", "waves: [{cluster: us}]\n", nil, "waves[0].cluster: "},
		{"no list", "waves: us\n", nil, "waves: is a string; expected a list"},
		{"of an app", "apps: {web: {waves: []}}\n", nil, "apps.web.waves"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env, err := upstreamOf(t, test.settings)
			if err == nil && len(env.Apps) > 1 {
				err = env.Apps[0].Fault
			}
			if test.fault != "" {
				if err == nil {
					for i := range env.Apps {
						if env.Apps[i].Fault != nil {
							err = env.Apps[i].Fault
						}
					}
				}
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Errorf("%v, want %s", err, test.fault)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(env.Waves, test.want) {
				t.Errorf("%+v, %v", env, err)
			}
		})
	}
}

// A cluster that no wave names comes last: it never gets a release before those that are named first.
func TestOrderOfWaves(t *testing.T) {
	waves := Waves{{[]string{"us"}, 30 * time.Minute}, {Clusters: []string{"eu"}}, {Clusters: []string{"asia", "sa"}}}
	for cluster, want := range map[string]struct {
		of     int
		before string
	}{
		"us": {1, ""}, "eu": {2, "us"}, "sa": {3, "us, 30m0s later eu"}, "new": {3, "us, 30m0s later eu"},
	} {
		if of, before := waves.Of(cluster), waves.Before(cluster).String(); of != want.of || before != want.before {
			t.Errorf("%s: %d after %q", cluster, of, before)
		}
	}
	if waves.Name("new") || !waves.Name("sa") {
		t.Error("names others")
	}
	if none := Waves(nil); none.Of("us") != 0 || len(none.Before("us")) != 0 || none.String() != "" {
		t.Error("no waves")
	}
	if got := waves.String(); got != "us, 30m0s later eu, then asia and sa" {
		t.Error(got)
	}
}
