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
	"apiVersion":  func(d *decoder, at fieldPath, v any, to *settingsDraft) { to.apiVersion = d.text(at, v) },
	"kind":        func(d *decoder, at fieldPath, v any, to *settingsDraft) { to.kind = d.text(at, v) },
	"environment": func(d *decoder, at fieldPath, v any, to *settingsDraft) { to.environment = d.label(at, v) },
	"namespace":   func(d *decoder, at fieldPath, v any, to *settingsDraft) { to.namespace = d.label(at, v) },
	"releaseName": func(d *decoder, at fieldPath, v any, to *settingsDraft) { to.releaseName = d.releaseName(at, v) },
	"writeBack": func(d *decoder, at fieldPath, v any, to *settingsDraft) {
		decodeObject(d, at, v, writeBackFields, &to.writeBack)
	},
	"rollout":  func(_ *decoder, _ fieldPath, v any, to *settingsDraft) { to.rolloutValue = v },
	"windows":  func(d *decoder, at fieldPath, v any, to *settingsDraft) { to.windows = d.windows(at, v) },
	"upstream": func(d *decoder, at fieldPath, v any, to *settingsDraft) { to.upstream = d.upstream(at, v) },
	"waves":    func(d *decoder, at fieldPath, v any, to *settingsDraft) { to.waves = d.waves(at, v) },
	"status": func(d *decoder, at fieldPath, v any, to *settingsDraft) {
		decodeObject(d, at, v, statusFields, &to.status)
	},
	"crds": func(d *decoder, at fieldPath, v any, to *settingsDraft) { to.crds = d.crds(at, v) },
	"apps": func(d *decoder, at fieldPath, v any, to *settingsDraft) {
		to.appValues, _ = d.object(at, v)
	},
}

var writeBackFields = fields[WriteBackMode]{
	"mode": func(d *decoder, at fieldPath, v any, to *WriteBackMode) {
		*to = WriteBackMode(d.text(at, v))
		if *to != WriteBackCommit && *to != WriteBackPullRequest {
			d.fail(at, "is "+shown(v), "Commit or PullRequest")
		}
	},
}

var appFields = fields[appDraft]{
	"releaseName": func(d *decoder, at fieldPath, v any, to *appDraft) { to.releaseName = d.releaseName(at, v) },
	"namespace":   func(d *decoder, at fieldPath, v any, to *appDraft) { to.namespace = d.label(at, v) },
	"crds":        func(d *decoder, at fieldPath, v any, to *appDraft) { to.crds = d.crds(at, v) },
	"rollout":     func(_ *decoder, _ fieldPath, v any, to *appDraft) { to.rolloutValue = v },
	"windows":     func(d *decoder, at fieldPath, v any, to *appDraft) { to.windows = d.windows(at, v) },
	"upstream": func(d *decoder, at fieldPath, v any, to *appDraft) {
		to.upstream = &Upstream{}
		decodeObject(d, at, v, appUpstreamFields, to.upstream)
	},
	"image": func(d *decoder, at fieldPath, v any, to *appDraft) { to.image = d.image(at, v) },
}

// label reads a DNS label.
func (d *decoder) label(at fieldPath, v any) string {
	s := d.text(at, v)
	if !isNamespace(s) {
		d.fail(at, "is "+shown(v), expectedNamespace)
	}
	return s
}

func (d *decoder) crds(at fieldPath, v any) CRDs {
	c := CRDs(d.text(at, v))
	if c != CRDsCreate && c != CRDsCreateReplace {
		d.fail(at, "is "+shown(v), oneOf([]string{string(CRDsCreate), string(CRDsCreateReplace)}))
	}
	return c
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
