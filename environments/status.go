package environments

import (
	"fmt"
	"io/fs"
	"path"

	"sigs.k8s.io/yaml"
)

// statusSettings is status of sluice.yaml.
type statusSettings struct {
	repository string
}

var statusFields = fields[statusSettings]{
	"repository": set(asGit, func(to *statusSettings) *string { return &to.repository },
		"Where the CLI looks for status branches and commands. The agent uses agent.yaml.").or("the environment repository"),
}

// StatusRepository is Environment.StatusRepository, of an environment that may be broken otherwise: that keeps nobody from asking for
// an abort.
func StatusRepository(fsys fs.FS, root string) (string, error) {
	name := path.Join(root, settingsName)
	text, err := readOptional(fsys, name)
	if err != nil || text == nil {
		return "", err
	}
	var all struct{ Status any }
	if err := yaml.Unmarshal(text, &all); err != nil {
		return "", fmt.Errorf("reading which repository has the status branches: %s: %w", name, err)
	}
	if all.Status == nil {
		return "", nil
	}
	d := &decoder{}
	var s statusSettings
	decodeObject(d, fieldPath{"status"}, all.Status, statusFields, &s)
	return s.repository, d.err(name, func(p fieldPath) (string, int) { return name, lineOf(text, p) })
}
