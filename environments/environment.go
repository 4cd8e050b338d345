package environments

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/sluice-cd/sluice/environments/windows"
)

// WriteBackMode says how a rollback reaches the environment branch.
type WriteBackMode string

const (
	// WriteBackCommit commits straight to the environment branch. The default.
	WriteBackCommit WriteBackMode = "Commit"
	// WriteBackPullRequest pushes a rollback branch for a pull request, for protected branches.
	WriteBackPullRequest WriteBackMode = "PullRequest"
)

// CRDs says what becomes of the definitions in a chart's crds/ folder.
type CRDs string

const (
	// CRDsCreate makes those that are not there, and never changes one, as Helm does. The default.
	CRDsCreate CRDs = "Create"
	// CRDsCreateReplace applies them with each release.
	CRDsCreateReplace CRDs = "CreateReplace"
)

// Environment is what one environment repository says at one path of one commit.
// Values in it are shared between snapshots and must not be changed.
type Environment struct {
	// Name of the environment, from sluice.yaml or the agent's configuration.
	Name string
	// Namespace that its apps go to; default jx-<name>.
	Namespace string
	WriteBack WriteBackMode
	// Rollout is the raw default policy, rollout: in sluice.yaml; nil when absent.
	Rollout *RawPolicy
	// Windows in which rollouts may begin and get on; nil: at all times. Those of an App are asked besides.
	Windows *windows.Set
	// Upstream says how new versions come here.
	Upstream Upstream
	// Waves are its clusters in the order in which they get a release.
	Waves Waves
	// StatusRepository is the git URL of the repository with the status branches, for people's programs; empty: this one. An agent
	// goes by its own configuration.
	StatusRepository string
	// Umbrella is the chart of a Jenkins X v2 layout: its metadata and values, without its dependencies.
	Umbrella Umbrella
	// Apps in the order in which the repository declares them. Apps switched off by a condition or a tag
	// are not here.
	Apps []App
	// Incomplete is set when an entry names no usable app (no name, or one that is no DNS name), so that it can't
	// be told which app it means: as long as it is set, no app may be removed because it is not in Apps.
	Incomplete error
	// Warnings for plan and status, such as settings of an app that is not there.
	Warnings []string
}

// App is one chart dependency of an environment.
type App struct {
	// Name is the alias where there is one, else the chart's name; unique in the environment.
	Name string
	// ReleaseName of the Helm release; default Name.
	ReleaseName string
	Namespace   string
	Chart       ChartRef
	// Values that the environment gives the app: env/values.yaml under the app's key, then env/<app>/values.yaml
	// over it. Globals are in Umbrella.Globals.
	Values map[string]any
	// Reads are other apps whose charts count for this one: whose values are imported into its own, whose default values may switch
	// it off, and for the umbrella's own app those that its templates speak of.
	Reads []string
	// Switch says whether the app is there at all, which can be for its chart to say.
	Switch Switch
	// CRDs is apps.<app>.crds in sluice.yaml, else crds: of the environment, else CRDsCreate.
	CRDs CRDs
	// Rollout is apps.<app>.rollout in sluice.yaml; nil when absent.
	Rollout *RawPolicy
	// Windows is apps.<app>.windows in sluice.yaml; nil when absent.
	Windows *windows.Set
	// Upstream is the environment's, with what apps.<app>.upstream says over it.
	Upstream Upstream
	// Image says where in the values the image stands, apps.<app>.image in sluice.yaml; zero when absent.
	Image ImagePaths
	// Pin is where the version stands, for the rollback commit.
	Pin Position
	// Digest covers everything above that decides what is rendered (chart reference, values, globals, names);
	// for a chart in the repository it also covers the chart's tree. Equal digests render equal objects.
	Digest string
	// Fault is why this app cannot be delivered; nil when it can. The other apps go on.
	Fault error

	// origin is where Values stand, to find the lines of faults in them.
	origin origin
}

// Asks is the version that the environment asks of the app, as promotions name it: its image's tag where Image says where that stands, else
// its chart's. It is empty where nothing stands there.
func (app *App) Asks() string {
	if app.Image.Tag == "" {
		return app.Chart.Version
	}
	switch tag, _ := lookUp(app.Values, strings.Split(app.Image.Tag, ".")); tag := tag.(type) {
	case nil:
		return ""
	case float64: // as which values have a build's number
		return strconv.FormatFloat(tag, 'f', -1, 64)
	default:
		return fmt.Sprint(tag)
	}
}

// ChartRef pins a chart.
type ChartRef struct {
	Name string
	// Version is exact, or a range that Repository resolves.
	Version string
	// Repository is an http(s):// or oci:// URL, or file:// and a path relative to the umbrella chart.
	Repository string
	Alias      string
	// ImportValues is import-values of the dependency, as Helm spells it.
	ImportValues []any
	// Path is the chart's directory inside the snapshot when Repository is file://; else empty. For the App that
	// stands for the umbrella's own templates it is Umbrella.Dir.
	Path string
}

// Umbrella is the environment's own chart.
type Umbrella struct {
	// Name and Version of env/Chart.yaml.
	Name, Version string
	// Dir is the chart's directory inside the snapshot, such as "env"; empty when there is no umbrella chart.
	Dir string
	// Globals is global: of env/values.yaml.
	Globals map[string]any
	// Values is env/values.yaml without the apps' keys and without global:.
	Values map[string]any
	// Templates are the paths of env/templates; an App named as the umbrella stands for them when there are any.
	Templates []string
	// Tree identifies what is in env/templates, and what the symbolic links in it lead to.
	Tree string
}

// Position is a place in a file of the snapshot; Line and Column count from 1.
type Position struct {
	File         string
	Line, Column int
}

// RawPolicy is a policy as it was written, with its place, before it is resolved.
type RawPolicy struct {
	// Where names the place for plan and for errors, such as "apps.croc-hunter-java.rollout in sluice.yaml".
	Where string
	// File is the path in the snapshot (or in the chart).
	File string
	// YAML is the text of the whole file, so that errors can name the line; Path leads to the policy inside it.
	YAML []byte
	Path []string
	// value is what Path leads to when the text has been parsed already; nil: parse it.
	value any
}

// Equal reports whether two policies of sluice.yaml say the same, wherever it is written.
func (p *RawPolicy) Equal(q *RawPolicy) bool {
	if p == nil || q == nil {
		return p == q
	}
	return reflect.DeepEqual(p.value, q.value)
}
