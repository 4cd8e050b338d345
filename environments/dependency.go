package environments

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// dependency is one entry of an umbrella's dependency list. It knows its own text only, not where that stands:
// lines count from 0 at the entry's first line. It is parsed once and kept for as long as its text occurs.
type dependency struct {
	// name is the chart's, alias may be empty.
	name, alias  string
	version      string
	repository   string
	condition    string
	tags         []string
	importValues []any
	// versionLine (from 0) and versionColumn (from 1) are where the version stands.
	versionLine, versionColumn int
	// fault is why the entry can't be used; its Line counts from 0 and its File is empty.
	fault *Fault
	// anonymous: the fault is in the name itself.
	anonymous bool
	// again are the later places of fields that the entry sets more than once, placed as fault is.
	again []Fault

	// built is the app as it was last built from this entry, and inputs what it was built from.
	built  App
	inputs inputs
	// used is the last pass of the Loader in which the entry occurred.
	used uint64
}

// appName is the name by which the environment knows the dependency.
func (d *dependency) appName() string {
	if d.alias != "" {
		return d.alias
	}
	return d.name
}

var (
	chartName     = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]*$`)
	versionFormat = regexp.MustCompile(`^[0-9A-Za-z.+_~^<>=!|, *-]+$`)
	dnsName       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	dnsLabel      = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
)

const (
	// maxReleaseName is Helm's limit.
	maxReleaseName = 53
	maxDNSLabel    = 63

	expectedReleaseName = "a DNS name of at most 53 lower-case letters, digits, - and ."
	expectedNamespace   = "a DNS label of at most 63 lower-case letters, digits and -"
)

var dependencyFields = []string{"name", "version", "repository", "alias", "condition", "tags", "import-values"}

// parseDependency reads one entry from its text, a block sequence of one item. It reports false when the text is
// no such thing by itself.
func parseDependency(text []byte) (*dependency, bool) {
	root, err := parseNode(text)
	if err != nil || root == nil || root.Kind != yamlv3.SequenceNode || len(root.Content) != 1 {
		return nil, false
	}
	d := newDependency(root.Content[0], 1)
	if d.importValues != nil {
		var items []struct {
			ImportValues []any `json:"import-values"`
		}
		if err := yaml.Unmarshal(text, &items); err != nil || len(items) != 1 {
			return nil, false
		}
		d.setImportValues(items[0].ImportValues)
	}
	return d, true
}

// newDependency reads an entry from its node. Lines are made relative to firstLine.
func newDependency(n *yamlv3.Node, firstLine int) *dependency {
	d := &dependency{}
	n = resolve(n)
	if n == nil || n.Kind != yamlv3.MappingNode {
		d.anonymous = true
		d.fault = &Fault{Problem: "is not a mapping", Expected: "name, version and repository"}
		return d
	}
	d.read(n, firstLine)
	d.check(n, firstLine)
	return d
}

// read takes the fields over.
func (d *dependency) read(n *yamlv3.Node, firstLine int) {
	own := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key := n.Content[i]; own[key.Value] && !isMerge(key) {
			d.again = append(d.again, Fault{Line: key.Line - firstLine, Field: key.Value, Problem: setAgain})
		}
		own[n.Content[i].Value] = true
	}
	for key, raw := range pairs(n) {
		value := resolve(raw)
		line := key.Line - firstLine
		if value == nil {
			d.fail(line, key.Value, "is an alias that leads nowhere", "a value")
			continue
		}
		switch key.Value {
		case "name":
			d.name = d.scalar(line, key.Value, value)
		case "version":
			d.version = d.scalar(line, key.Value, value)
			d.versionLine, d.versionColumn = raw.Line-firstLine, raw.Column
		case "repository":
			d.repository = d.scalar(line, key.Value, value)
		case "alias":
			d.alias = d.scalar(line, key.Value, value)
		case "condition":
			d.condition = d.scalar(line, key.Value, value)
		case "tags":
			d.tags = d.scalars(line, key.Value, value)
		case "import-values":
			d.importValues = []any{}
		default:
			f := UnknownField(key.Value, dependencyFields)
			d.fail(line, f.Field, f.Problem, f.Expected)
		}
	}
}

// fail keeps the first fault.
func (d *dependency) fail(line int, field, problem, expected string) {
	if d.fault == nil {
		d.fault = &Fault{Line: line, Field: field, Problem: problem, Expected: expected}
	}
}

// scalar is a string field as Helm reads it. A number whose text Helm would change, such as 1.10, is a fault.
func (d *dependency) scalar(line int, field string, n *yamlv3.Node) string {
	if n.Kind != yamlv3.ScalarNode {
		d.fail(line, field, "is not a string", "a string")
		return ""
	}
	if n.Tag == "!!null" {
		return ""
	}
	const quotedStyles = yamlv3.SingleQuotedStyle | yamlv3.DoubleQuotedStyle | yamlv3.LiteralStyle | yamlv3.FoldedStyle
	mayDiffer := n.Tag != "!!str" || len(n.Value) <= len("off")
	if n.Style&quotedStyles == 0 && mayDiffer && helmText(n.Value) != n.Value {
		d.fail(line, field, "is a number or a boolean in YAML, which Helm reads as "+helmText(n.Value), `the value in quotes`)
	}
	return n.Value
}

// helmText is a plain scalar as Helm reads it into a string.
func helmText(plain string) string {
	var read struct {
		Text string `json:"text"`
	}
	if err := yaml.Unmarshal([]byte("text: "+plain), &read); err != nil {
		return plain
	}
	return read.Text
}

func (d *dependency) scalars(line int, field string, n *yamlv3.Node) []string {
	if n.Kind != yamlv3.SequenceNode {
		d.fail(line, field, "is not a list", "a list of strings")
		return nil
	}
	var list []string
	for _, e := range n.Content {
		if e = resolve(e); e != nil {
			list = append(list, d.scalar(line, field, e))
		}
	}
	return list
}

// setImportValues takes import-values over as Helm's YAML decoder gives them.
func (d *dependency) setImportValues(list []any) {
	d.importValues = list
	for _, e := range list {
		switch e := e.(type) {
		case string:
		case map[string]any:
			_, hasChild := e["child"].(string)
			_, hasParent := e["parent"].(string)
			if !hasChild || !hasParent || len(e) != 2 {
				d.fail(0, "import-values", "has an item that is neither a string nor child and parent", "child and parent")
			}
		default:
			d.fail(0, "import-values", "has an item that is neither a string nor an object", "a string, or child and parent")
		}
	}
}

// importsInto reports whether the entry's import-values may become values of another app: under its name or among the globals. What a
// name alone imports goes to the top, and so does a parent ".": only the chart knows under which keys.
func (d *dependency) importsInto(app string) bool {
	for _, e := range d.importValues {
		m, named := e.(map[string]any)
		parent, _ := m["parent"].(string)
		first, _, _ := strings.Cut(parent, ".")
		if !named || first == "" || first == globalKey || parent == app || strings.HasPrefix(parent, app+".") {
			return true
		}
	}
	return false
}

// check refuses what no app can be delivered with. The repository is checked where its directory is known.
func (d *dependency) check(n *yamlv3.Node, firstLine int) {
	at := func(field string) int {
		if key, _ := child(n, field); key != nil {
			return key.Line - firstLine
		}
		return n.Line - firstLine
	}
	nameFault := func(field, problem, expected string) {
		d.anonymous = true
		d.fault = &Fault{Line: at(field), Field: field, Problem: problem, Expected: expected}
	}
	switch {
	case d.name == "":
		nameFault("name", "is missing", "the chart's name")
	case !chartName.MatchString(d.name) || strings.Contains(d.name, ".."):
		nameFault("name", "is "+shown(d.name), "a chart's name: letters, digits, -, _ and .")
	case d.alias != "" && !isReleaseName(d.alias):
		nameFault("alias", "is "+shown(d.alias), expectedReleaseName+"; where values have the old one as a key they need the new one")
	case d.alias == "" && !isReleaseName(d.name):
		nameFault("name", "is "+shown(d.name), expectedReleaseName+", or an alias")
	case d.version == "":
		d.fail(at("version"), "version", "is missing", "the chart's version")
	case !versionFormat.MatchString(d.version):
		d.fail(at("version"), "version", "is "+shown(d.version), "a semantic version or a range")
	}
	if problem, expected := repositoryProblem(d.repository); problem != "" {
		d.fail(at("repository"), "repository", problem, expected)
		d.repository = withoutCredentials(d.repository)
	}
}

func isReleaseName(name string) bool { return len(name) <= maxReleaseName && dnsName.MatchString(name) }

func isNamespace(name string) bool { return len(name) <= maxDNSLabel && dnsLabel.MatchString(name) }

const expectedRepository = "http(s)://, oci:// or file:// and a path in this repository"

// repositoryProblem says what is wrong with a repository's text. It never quotes it: there could be a password.
func repositoryProblem(repository string) (problem, expected string) {
	if repository == "" || strings.HasPrefix(repository, "file://") {
		return "", ""
	}
	u, err := url.Parse(repository)
	switch {
	case err != nil:
		return "is not a URL", expectedRepository
	case strings.HasPrefix(repository, "@") || strings.HasPrefix(repository, "alias:"):
		return "is the alias of a repository on somebody's machine", expectedRepository
	case !slices.Contains([]string{"http", "https", "oci"}, u.Scheme) || u.Host == "":
		return "is no chart repository's URL", expectedRepository
	case u.User != nil:
		return "holds credentials", "a URL without them; the agent's configuration has the credentials"
	}
	return "", ""
}

// withoutCredentials is a repository that may be shown; empty when it can't be told what in it is a secret.
func withoutCredentials(repository string) string {
	u, err := url.Parse(repository)
	if err != nil {
		return ""
	}
	u.User = nil
	return u.String()
}

// chartPath is the directory in the snapshot of a chart that the repository itself holds; empty for others. dir is
// the umbrella's directory. A repository that is left out means Helm's vendored charts/<name>.
func (d *dependency) chartPath(dir string) (string, *Fault) {
	rel, isFile := strings.CutPrefix(d.repository, "file://")
	if d.repository == "" {
		rel, isFile = "charts/"+d.name, true
	}
	if !isFile {
		return "", nil
	}
	joined := path.Join(dir, rel)
	bad := path.IsAbs(rel) || strings.ContainsAny(rel, "\\\x00?#%") || joined == ".." || strings.HasPrefix(joined, "../")
	if bad || rel == "" {
		return "", &Fault{Field: "repository", Problem: "leaves the repository", Expected: "file:// and a path relative to " + dir + " that stays inside"}
	}
	return joined, nil
}
