package environments

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// upstreamOf loads an environment with the given sluice.yaml.
func upstreamOf(t *testing.T, settings string) (*Environment, error) {
	t.Helper()
	return new(Loader).Load(fstest.MapFS{
		"env/Chart.yaml": {Data: []byte("apiVersion: v2\nname: env\nversion: 0.0.1\ndependencies:\n" +
			"- {name: web, version: 1.0.0, repository: \"https://c.example.com\"}\n- {name: db, version: 1.0.0, repository: \"https://c.example.com\"}\n")},
		"sluice.yaml": {Data: []byte("apiVersion: sluice.dev/v1alpha1\nkind: Environment\n" + settings)},
	}, ".")
}

func TestUpstream(t *testing.T) {
	const from = "upstream: {environment: staging, repository: \"https://git.example.com/staging.git\", strategy: Auto, soak: 30m}\n"
	before := Upstream{Environment: "staging", Repository: "https://git.example.com/staging.git", Strategy: PromotionAuto, Soak: 30 * time.Minute}
	later := before
	later.Strategy, later.Soak = PromotionNever, time.Hour
	for _, test := range []struct {
		name, settings string
		web, db        Upstream
		fault          string
	}{
		{"nothing is said", "environment: production\n", Upstream{Strategy: PromotionManual}, Upstream{Strategy: PromotionManual}, ""},
		{"staging", "environment: staging\n", Upstream{Strategy: PromotionAuto}, Upstream{Strategy: PromotionAuto}, ""},
		{"staging that says otherwise", "environment: staging\nupstream: {strategy: Never}\n", Upstream{Strategy: PromotionNever}, Upstream{Strategy: PromotionNever}, ""},
		{"of an app", "environment: production\n" + from + "apps:\n  db: {upstream: {strategy: Never, soak: 1h}}\n", before, later, ""},
		{"half an address", "upstream: {environment: staging}\n", Upstream{}, Upstream{}, "upstream: names only one of environment and repository; expected both"},
		{"credentials", "upstream: {environment: a, repository: \"https://u:hunter2@git.example.com/x\"}\n", Upstream{}, Upstream{}, "upstream.repository: holds credentials"},
		{"another strategy", "upstream: {strategy: Sometimes}\n", Upstream{}, Upstream{}, `sluice.yaml:3: upstream.strategy: is "Sometimes"; expected Auto, Manual or Never`},
		{"another field", "upstream: {stratgy: Auto}\n", Upstream{}, Upstream{}, "stratgy"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env, err := upstreamOf(t, test.settings)
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%v, want %s", err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if env.Apps[0].Upstream != test.web || env.Apps[1].Upstream != test.db {
				t.Errorf("%+v and %+v, want %+v and %+v", env.Apps[0].Upstream, env.Apps[1].Upstream, test.web, test.db)
			}
			if env.StrategyOf("db") != test.db.Strategy || env.StrategyOf("new") != env.Upstream.Strategy {
				t.Errorf("strategies %s and %s", env.StrategyOf("db"), env.StrategyOf("new"))
			}
		})
	}
}

// A fault of an app's own settings is the app's alone.
func TestUpstreamOfAnAppIsItsFault(t *testing.T) {
	env, err := upstreamOf(t, "apps:\n  db: {upstream: {environment: staging}}\n  web: {image: {repository: image.repository}}\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := env.Apps[1].Fault; err == nil || !strings.Contains(err.Error(), "apps.db.upstream.environment") {
		t.Errorf("db: %v", err)
	}
	if err := env.Apps[0].Fault; err == nil || !strings.Contains(err.Error(), "apps.web.image.tag: is missing; expected the path of the tag") {
		t.Errorf("web: %v", err)
	}
}

func TestPromoteImage(t *testing.T) {
	image := ImagePaths{Tag: "image.tag", Repository: "image.repository"}
	for _, test := range []struct {
		name, values, own   string
		to                  Promotion
		wantValues, wantOwn string // empty: as it was
		fault               string
	}{
		{
			"in values.yaml", "web:\n  # What runs.\n  image:\n    tag: 1.0.0 # promoted\n    repository: r/web\ndb: {image: {tag: 1.0.0}}\n", "",
			Promotion{Version: "1.10"},
			"web:\n  # What runs.\n  image:\n    tag: \"1.10\" # promoted\n    repository: r/web\ndb: {image: {tag: 1.0.0}}\n", "", "",
		},
		{
			"in a file of its own, which counts", "web: {image: {tag: 0.0.1}}\n", "image: {tag: 'v1', repository: r/web}\n",
			Promotion{Version: "v2", ImageRepository: "r/other"},
			"", "image: {tag: 'v2', repository: r/other}\n", "",
		},
		{"it says so already", "web: {image: {tag: v1}}\n", "", Promotion{Version: "v1"}, "", "", ""},
		{"somebody was faster", "web: {image: {tag: v3}}\n", "", Promotion{Version: "v2", Was: "v1"}, "", "", "the branch has moved on: the version of web is v3, no longer v1"},
		{"set nowhere", "web: {}\n", "", Promotion{Version: "v2"}, "", "", "image.tag is set neither in env/web/values.yaml nor under web in env/values.yaml"},
		{"an anchor", "web: {image: {tag: &t v1}}\n", "", Promotion{Version: "v2"}, "", "", "web.image.tag is an anchor"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fsys := fstest.MapFS{
				"env/Chart.yaml":  {Data: []byte("apiVersion: v2\nname: env\nversion: 0.0.1\ndependencies:\n- {name: web, version: 1.0.0, repository: \"https://c.example.com\"}\n")},
				"env/values.yaml": {Data: []byte(test.values)},
			}
			if test.own != "" {
				fsys["env/web/values.yaml"] = &fstest.MapFile{Data: []byte(test.own)}
			}
			test.to.Image = image
			files, err := Promote(fsys, ".", "web", test.to)
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) || errors.Is(err, ErrMovedOn) != strings.Contains(test.fault, "moved on") {
					t.Errorf("%v, want %s", err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for file, want := range map[string]string{"env/values.yaml": test.wantValues, "env/web/values.yaml": test.wantOwn} {
				if got, ok := files[file]; string(got) != want || ok != (want != "") {
					t.Errorf("%s:\n%s", file, got)
				}
			}
		})
	}
}
