package environments

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
)

// What jx acts upon in an environment repository, and Sluice does not, is refused or warned of here: delivered without it, an app
// would get other values, or another namespace, than it has with jx.

// pipelineFile is what jx runs in an environment repository.
const pipelineFile = "jenkins-x.yml"

// pipeline is what of jenkins-x.yml matters.
type pipeline struct {
	// namespace that jx deploys to, where the file says it, and its line.
	namespace string
	line      int
	// steps is the line of pipelines of the file's own; 0: there are none.
	steps int
}

// readPipeline reads jenkins-x.yml. One that is no YAML is nothing to Sluice.
func readPipeline(text []byte) pipeline {
	var p pipeline
	root, err := parseNode(text)
	if err != nil {
		return p
	}
	_, config := child(root, "pipelineConfig")
	for _, from := range []*yamlv3.Node{root, config} {
		_, list := child(from, "env")
		if list = resolve(list); list == nil {
			continue
		}
		for _, e := range list.Content {
			_, name := child(e, "name")
			key, value := child(e, "value")
			if name != nil && value != nil && name.Value == "DEPLOY_NAMESPACE" {
				p.namespace, p.line = value.Value, key.Line
			}
		}
	}
	if key, _ := child(config, "pipelines"); key != nil {
		p.steps = key.Line
	}
	return p
}

// checkPipeline compares jenkins-x.yml with the environment. The namespace that it names goes unsaid by nobody: where Sluice would
// take one by default, everything would be delivered a second time.
func (a *assembly) checkPipeline(env *Environment) ([]string, *Fault) {
	file := path.Join(a.root, pipelineFile)
	text, err := a.l.read(a.fsys, file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, a.l.unreadable(file, err)
	}
	p := readPipeline(text)
	if a.settings.namespace == "" && p.namespace != "" && env.Name != "" && env.Namespace == "jx-"+env.Name && p.namespace != env.Namespace {
		return nil, &Fault{
			File: file, Line: p.line, Field: "env.DEPLOY_NAMESPACE",
			Problem:  fmt.Sprintf("is %s, where jx deploys to, and Sluice would deliver to %s", shown(p.namespace), env.Namespace),
			Expected: fmt.Sprintf("namespace: in %s, with the one that is meant", a.settingsFile),
		}
	}
	for _, name := range []string{"myvalues.yaml", "secrets.yaml"} {
		over := path.Join(a.dir, name)
		switch ok, err := exists(a.fsys, over); {
		case err != nil:
			return nil, a.l.unreadable(over, err)
		case ok:
			return nil, &Fault{File: over, Problem: "is laid over " + valuesName + " by jx, and not by Sluice", Expected: "its values in " + valuesName}
		}
	}
	if p.steps == 0 {
		return nil, nil
	}
	f := &Fault{File: file, Line: p.steps, Field: "pipelineConfig.pipelines", Problem: "has steps that jx runs, and Sluice does not"}
	return []string{f.Error()}, nil
}

// valuesTree refuses values of an app that jx gathers from further directories and files: those of a directory in the app's own
// become the values of that name, and a file that is called as an empty value is put in its place.
func (a *assembly) valuesTree(dir string, doc *valuesDoc) *Fault {
	switch ok, err := exists(a.fsys, path.Join(dir, chartFile)); {
	case err != nil:
		return a.l.unreadable(path.Join(dir, chartFile), err)
	case ok:
		return nil // a chart's own directory
	}
	entries, err := fs.ReadDir(a.fsys, dir)
	if err != nil {
		return a.l.unreadable(dir, err)
	}
	files := map[string]bool{}
	for _, e := range entries {
		switch {
		case e.IsDir():
			if fault := a.noValuesIn(path.Join(dir, e.Name()), dir, 0); fault != nil {
				return fault
			}
		case e.Name() != valuesName:
			files[e.Name()] = true
		}
	}
	if doc == nil {
		return nil
	}
	at := emptyAndNamed(doc.values, files, nil)
	if at == nil {
		return nil
	}
	file := path.Join(dir, at[len(at)-1])
	return &Fault{
		File: doc.name, Line: lineOf([]byte(doc.text), at), Field: strings.Join(at, "."),
		Problem: "is empty, and jx puts the text of " + file + " there, which Sluice does not", Expected: "the text itself, or a file of another name",
	}
}

// noValuesIn refuses a directory below an app's that has values.
func (a *assembly) noValuesIn(dir, app string, depth int) *Fault {
	entries, err := fs.ReadDir(a.fsys, dir)
	if err != nil {
		return a.l.unreadable(dir, err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case e.IsDir() && depth < maxNesting:
			if fault := a.noValuesIn(name, app, depth+1); fault != nil {
				return fault
			}
		case e.Name() == valuesName || e.Name() == templatedValuesName:
			key := strings.ReplaceAll(strings.TrimPrefix(dir, app+"/"), "/", ".")
			return &Fault{
				File: name, Problem: "is read by jx as the values of " + key + ", and not by Sluice",
				Expected: fmt.Sprintf("its values under %s: in %s", key, path.Join(app, valuesName)),
			}
		}
	}
	return nil
}

// emptyAndNamed is the path of the first empty value whose key is the name of a file; nil when there is none.
func emptyAndNamed(values map[string]any, files map[string]bool, at fieldPath) fieldPath {
	for _, key := range slices.Sorted(maps.Keys(values)) {
		here := append(slices.Clone(at), key)
		switch v := values[key]; v {
		case nil, "", false, 0.0:
			if files[key] {
				return here
			}
		default:
			if m, ok := v.(map[string]any); ok {
				if found := emptyAndNamed(m, files, here); found != nil {
					return found
				}
			}
		}
	}
	return nil
}

// strayValues warns of values in directories that are no app's. With jx they are values of the umbrella.
func (a *assembly) strayValues() []string {
	var warnings []string
	for name, e := range a.l.listing.entries {
		if !e.mode.IsDir() || a.isApp(name) || name == templatesDir || name == "charts" || name == "crds" {
			continue
		}
		file := path.Join(a.dir, name, valuesName)
		if ok, err := exists(a.fsys, file); err == nil && ok {
			f := &Fault{File: file, Problem: "is not read: " + name + " is not an app of this environment"}
			warnings = append(warnings, f.Error())
		}
	}
	slices.Sort(warnings)
	return warnings
}
