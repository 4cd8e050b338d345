package environments

import (
	"errors"
	"maps"
	"slices"

	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/environments/windows"
)

// settingsName is the file of our own settings at the environment's path.
const settingsName = "sluice.yaml"

// settings is sluice.yaml.
type settings struct {
	environment string
	// line is where that stands.
	line        int
	namespace   string
	releaseName string
	writeBack   WriteBackMode
	crds        CRDs
	rollout     *RawPolicy
	windows     *windows.Set
	upstream    Upstream
	waves       Waves
	status      statusSettings
	apps        map[string]*appSettings
}

// appSettings is apps.<app> of sluice.yaml.
type appSettings struct {
	releaseName string
	namespace   string
	crds        CRDs
	rollout     *RawPolicy
	windows     *windows.Set
	upstream    *Upstream
	image       ImagePaths
	// fault is why it can't be used.
	fault error
	line  int
}

// settingsDraft is sluice.yaml while it is being read.
type settingsDraft struct {
	settings
	kind, apiVersion string
	rolloutValue     any
	appValues        map[string]any
}

type appDraft struct {
	appSettings
	rolloutValue any
}

var settingsFields = fields[settingsDraft]{
	"apiVersion": set(asJust(settingsAPIVersion), func(to *settingsDraft) *string { return &to.apiVersion }, "The version of this language.").needed(),
	"kind":       set(asJust(settingsKind), func(to *settingsDraft) *string { return &to.kind }, "What the file is.").needed(),
	"environment": set(asLabel, func(to *settingsDraft) *string { return &to.environment }, "The environment's name, the same as in agent.yaml.").
		or("the name in agent.yaml or `--environment`"),
	"namespace": set(asLabel, func(to *settingsDraft) *string { return &to.namespace },
		"Namespace of the apps. agent.yaml must allow any other than the environment's own.").or("the one in agent.yaml, else `jx-<environment>`"),
	"releaseName": set(asRelease, func(to *settingsDraft) *string { return &to.releaseName }, "The Helm release of all apps, such as `jx` of Jenkins X.").or("the app's name"),
	"writeBack":   inside(writeBackFields, func(to *settingsDraft) *WriteBackMode { return &to.writeBack }, "How a failed release is reverted in git."),
	"rollout": custom(rolloutShape, func(_ *decoder, _ fieldPath, v any, to *settingsDraft) { to.rolloutValue = v },
		"The policy of all apps, overridden by their charts.").or("a rolling update"),
	"windows":  set(asWindowSet, func(to *settingsDraft) **windows.Set { return &to.windows }, "When rollouts may start and advance.").or("at any time"),
	"upstream": set(asUpstream, func(to *settingsDraft) *Upstream { return &to.upstream }, "How the environment gets new versions."),
	"waves":    set(asWaves, func(to *settingsDraft) *Waves { return &to.waves }, "The order in which clusters get a release.").or("all together"),
	"status":   inside(statusFields, func(to *settingsDraft) *statusSettings { return &to.status }, "Where the status branches are."),
	"crds": set(asCRDs, func(to *settingsDraft) *CRDs { return &to.crds },
		"How a chart's `crds/` folder is applied: `Create` only creates missing CRDs, `CreateReplace` applies all with each release.").or(CRDsCreate),
	"apps": custom(appsShape, func(d *decoder, at fieldPath, v any, to *settingsDraft) { to.appValues, _ = d.object(at, v) }, "Settings of single apps, by name."),
}

var writeBackFields = fields[WriteBackMode]{
	"mode": set(asOneOf(WriteBackCommit, WriteBackPullRequest), func(to *WriteBackMode) *WriteBackMode { return to },
		"`Commit` on the environment branch, or a branch and a `PullRequest`.").or(WriteBackCommit),
}

var appFields = fields[appDraft]{
	"releaseName": set(asRelease, func(to *appDraft) *string { return &to.releaseName }, "Its Helm release.").or("the environment's, else the app's name"),
	"namespace":   set(asLabel, func(to *appDraft) *string { return &to.namespace }, "Its namespace. agent.yaml must allow it.").or("the environment's"),
	"crds":        set(asCRDs, func(to *appDraft) *CRDs { return &to.crds }, "As `crds` of the environment.").or("the environment's"),
	"rollout": custom(rolloutShape, func(_ *decoder, _ fieldPath, v any, to *appDraft) { to.rolloutValue = v },
		"Its policy, overriding its chart.").or("its chart's, else the environment's"),
	"windows": set(asWindowSet, func(to *appDraft) **windows.Set { return &to.windows }, "When it may be rolled out. The environment's windows must be open, too.").or("at any time"),
	"upstream": custom(tableShape(appUpstreamFields), func(d *decoder, at fieldPath, v any, to *appDraft) {
		to.upstream = &Upstream{}
		decodeObject(d, at, v, appUpstreamFields, to.upstream)
	}, "How it gets new versions."),
	"image": set(asImage, func(to *appDraft) *ImagePaths { return &to.image }, "Where its values set its image, if versions are image tags."),
}

var (
	rolloutShape = named("rollout", tableShape(rolloutFields))
	appsShape    = shape{noun: "map of objects", schema: objectOrNull, inner: appFields.abouts(), within: ".<app>"}
	asCRDs       = asOneOf(CRDsCreate, CRDsCreateReplace)
)

// label reads a DNS label.
func (d *decoder) label(at fieldPath, v any) string {
	s := d.text(at, v)
	if !isNamespace(s) {
		d.fail(at, "is "+shown(v), expectedNamespace)
	}
	return s
}

func (d *decoder) releaseName(at fieldPath, v any) string {
	s := d.text(at, v)
	if !isReleaseName(s) {
		d.fail(at, "is "+shown(v), expectedReleaseName)
	}
	return s
}

const (
	settingsAPIVersion = "sluice.dev/v1alpha1"
	settingsKind       = "Environment"
)

// parseSettings reads sluice.yaml. Faults under apps.<app> stay with the app; any other is the file's.
func parseSettings(file string, text []byte) (*settings, error) {
	var document any
	if err := yaml.UnmarshalStrict(text, &document); err != nil {
		return nil, yamlFault(file, 1, err)
	}
	if line, found := secondDocument(text); found {
		return nil, &Fault{File: file, Line: line, Problem: "holds a second document", Expected: "one"}
	}
	locate := func(p fieldPath) (string, int) { return file, lineOf(text, p) }
	d := &decoder{}
	var sd settingsDraft
	decodeObject(d, nil, document, settingsFields, &sd)
	if sd.apiVersion != settingsAPIVersion && document != nil {
		d.fail(fieldPath{"apiVersion"}, "is "+shown(sd.apiVersion), settingsAPIVersion)
	}
	if sd.kind != settingsKind && document != nil {
		d.fail(fieldPath{"kind"}, "is "+shown(sd.kind), settingsKind)
	}
	s := sd.settings
	s.rollout = rawPolicy(file, text, fieldPath{"rollout"}, sd.rolloutValue)
	err := d.err(file, locate)
	if s.rollout != nil {
		err = errors.Join(err, checkRollout(s.rollout))
	}
	if err != nil {
		return nil, err
	}
	if s.environment != "" {
		s.line = lineOf(text, fieldPath{"environment"})
	}
	s.apps = parseAppSettings(file, text, sd.appValues)
	return &s, nil
}

func parseAppSettings(file string, text []byte, values map[string]any) map[string]*appSettings {
	if len(values) == 0 {
		return nil
	}
	lines := linesOfKeys(text, fieldPath{"apps"})
	apps := make(map[string]*appSettings, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		at := fieldPath{"apps", name}
		d := &decoder{}
		var ad appDraft
		decodeObject(d, at, values[name], appFields, &ad)
		app := ad.appSettings
		app.line = lines[name]
		app.rollout = rawPolicy(file, text, at.key("rollout"), ad.rolloutValue)
		app.fault = d.err(file, func(p fieldPath) (string, int) { return file, lineOf(text, p) })
		if app.fault == nil && app.rollout != nil {
			app.fault = checkRollout(app.rollout)
		}
		apps[name] = &app
	}
	return apps
}

// rawPolicy wraps a policy's text and value; nil when there is none.
func rawPolicy(file string, text []byte, at fieldPath, value any) *RawPolicy {
	if value == nil {
		return nil
	}
	return &RawPolicy{Where: at.String() + " in " + settingsName, File: file, YAML: text, Path: at, value: value}
}
