package environments

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	yamlv3 "go.yaml.in/yaml/v3"
)

// PromotionStrategy says what becomes of a promotion to an environment.
type PromotionStrategy string

const (
	// PromotionAuto merges a promotion once the forge's checks have passed, and commits it where there is no forge.
	PromotionAuto PromotionStrategy = "Auto"
	// PromotionManual leaves it to a person to merge a promotion. The default, but for an environment of the name staging.
	PromotionManual PromotionStrategy = "Manual"
	// PromotionNever refuses promotions: the environment's list is edited by hand.
	PromotionNever PromotionStrategy = "Never"
)

// strategies are those that there are.
var strategies = []PromotionStrategy{PromotionAuto, PromotionManual, PromotionNever}

// autoEnvironment is the one whose promotions merge by themselves unless it says otherwise, as Jenkins X has it.
const autoEnvironment = "staging"

// Upstream says how an environment, or an app of it, comes by new versions.
type Upstream struct {
	// Environment from which they come, once they are Promoted there, and Repository, the git URL of that one. Both are empty
	// where nobody but people and pipelines promote.
	Environment, Repository string
	// Strategy is what becomes of a promotion, whoever proposes it.
	Strategy PromotionStrategy
	// Soak is how long a version has to serve upstream before it is proposed; default 0.
	Soak time.Duration
}

// over lays what an app says over what its environment says.
func (u Upstream) over(own *Upstream) Upstream {
	if own == nil {
		return u
	}
	if own.Strategy != "" {
		u.Strategy = own.Strategy
	}
	if own.Soak != 0 {
		u.Soak = own.Soak
	}
	return u
}

// withDefaults of the environment of a name.
func (u Upstream) withDefaults(environment string) Upstream {
	if u.Strategy == "" {
		u.Strategy = PromotionManual
		if environment == autoEnvironment {
			u.Strategy = PromotionAuto
		}
	}
	return u
}

// StrategyOf is what becomes of a promotion of an app, whether it is listed or not.
func (env *Environment) StrategyOf(app string) PromotionStrategy {
	for i := range env.Apps {
		if env.Apps[i].Name == app {
			return env.Apps[i].Upstream.Strategy
		}
	}
	return env.Upstream.Strategy
}

var upstreamFields = fields[Upstream]{
	"environment": set(asLabel, func(to *Upstream) *string { return &to.Environment }, "The environment whose promoted versions are proposed here."),
	"repository":  set(asGit, func(to *Upstream) *string { return &to.Repository }, "The repository with its status branches. Set both, or neither."),
	"strategy": set(asOneOf(strategies...), func(to *Upstream) *PromotionStrategy { return &to.Strategy },
		"Who merges a promotion: `Auto` merges it once the forge's checks have passed, `Manual` leaves that to a person, `Never` refuses promotions.").
		or("`Manual`; in environment staging `Auto`"),
	"soak": set(asDuration, func(to *Upstream) *time.Duration { return &to.Soak },
		"How long a version must run upstream before it is proposed.").or("not at all"),
}

var asUpstream = kind[Upstream]{tableShape(upstreamFields), (*decoder).upstream}

// appUpstreamFields are those of one app, which comes from where the others come.
var appUpstreamFields = fields[Upstream]{
	"strategy": upstreamFields["strategy"].or("the environment's"),
	"soak":     upstreamFields["soak"].or("the environment's"),
}

// gitAddress reads the URL of a repository, which has no credentials in it: they are the operator's to give.
func (d *decoder) gitAddress(at fieldPath, v any) string {
	s := d.text(at, v)
	if u, err := url.Parse(s); err == nil && u.User != nil {
		if _, secret := u.User.Password(); secret || strings.HasPrefix(u.Scheme, "http") {
			d.fail(at, "holds credentials", "the URL without them; they belong in agent.yaml")
			return s
		}
	}
	if s == "" || strings.ContainsAny(s, " \t\n") || !strings.Contains(s, ":") {
		d.fail(at, "is "+shown(v), "a git URL such as https://git.example.com/staging.git")
	}
	return s
}

// upstream reads the environment's own; both environment and repository are there, or neither.
func (d *decoder) upstream(at fieldPath, v any) (u Upstream) {
	decodeObject(d, at, v, upstreamFields, &u)
	if (u.Environment == "") != (u.Repository == "") {
		d.fail(at, "names only one of environment and repository", "both, or neither where only people promote")
	}
	return u
}

// ImagePaths are the keys of an app's values that say which image it runs, dotted; see [Promote].
type ImagePaths struct {
	// Tag is what a promotion sets in place of the chart's version; empty: it is the chart that has versions.
	Tag string
	// Repository is set as well where a promotion names one; may be empty.
	Repository string
}

var imageFields = fields[ImagePaths]{
	"tag": set(asDotted, func(to *ImagePaths) *string { return &to.Tag },
		"Path of the tag in the app's values, such as image.tag. A promotion sets it instead of the chart's version.").needed(),
	"repository": set(asDotted, func(to *ImagePaths) *string { return &to.Repository },
		"Path of the image's repository; a promotion sets it too, if it names one."),
}

var asImage = kind[ImagePaths]{tableShape(imageFields), (*decoder).image}

func (d *decoder) image(at fieldPath, v any) (p ImagePaths) {
	decodeObject(d, at, v, imageFields, &p)
	if p.Tag == "" {
		d.fail(at.key("tag"), "is missing", "the path of the tag in the app's values, such as image.tag")
	}
	return p
}

// dotted reads a path into values.
func (d *decoder) dotted(at fieldPath, v any) string {
	s := d.text(at, v)
	if slices.Contains(strings.Split(s, "."), "") {
		d.fail(at, "is "+shown(v), "keys with dots between them, such as image.tag")
	}
	return s
}

// textAt is the scalar that a values file has at the keys given; false where it has none.
func textAt(file []byte, keys []string) (string, bool) {
	root, err := parseNode(file)
	if err != nil || root == nil {
		return "", false
	}
	n := root
	for _, key := range keys {
		if _, n = child(resolve(n), key); n == nil {
			return "", false
		}
	}
	n = resolve(n)
	return n.Value, n.Kind == yamlv3.ScalarNode
}

// setValue sets a scalar that is in a values file at the keys given, and nothing else.
func setValue(file []byte, keys []string, to string) ([]byte, error) {
	root, err := parseNode(file)
	if err != nil {
		return nil, yamlFault("", 1, err)
	}
	n := root
	for _, key := range keys {
		_, n = child(resolve(n), key)
	}
	if n.Value == to {
		return file, nil
	}
	where := strings.Join(keys, ".")
	start, end, err := tokenOf(n, file, 1)
	if err != nil {
		return nil, fmt.Errorf("%s %w", where, err)
	}
	edited := slices.Concat(file[:start], []byte(versionText(file[start], to)), file[end:])
	before, err := parseValues(file)
	if err != nil {
		return nil, yamlFault("", 1, err)
	}
	after, err := parseValues(edited)
	if err != nil || !putValue(before, keys, to) || !reflect.DeepEqual(before, after) {
		return nil, fmt.Errorf("%s is written in a way that can't be edited", where)
	}
	return edited, nil
}

// putValue sets a value that is there.
func putValue(values map[string]any, keys []string, to string) bool {
	for _, key := range keys[:len(keys)-1] {
		below, ok := values[key].(map[string]any)
		if !ok {
			return false
		}
		values = below
	}
	values[keys[len(keys)-1]] = to
	return true
}
