package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluice-cd/sluice/environments"
)

// target is an environment that is promoted to: an entry of .sluice.yaml, or what the flags say.
type target struct {
	// The environment's name, as its sluice.yaml has it.
	Name string `yaml:"name"`
	// The git URL of its repository.
	Repository string `yaml:"repository"`
	// The branch that promotions go to.
	Branch string `yaml:"branch" default:"main"`
	// Folder of the environment in the repository.
	Path string `yaml:"path" default:"."`
	// With Auto, --all-auto promotes there. Whether the promotion is merged is up to the environment itself.
	Strategy string `yaml:"strategy" enum:"Auto Manual Never"`
}

// promotionFile is .sluice.yaml, beside the source of an app.
type promotionFile struct {
	// The version of this language.
	APIVersion string `yaml:"apiVersion" enum:"sluice.dev/v1alpha1"`
	// What the file is.
	Kind string `yaml:"kind" enum:"Promotion"`
	// The app that is promoted from here.
	App string `yaml:"app" default:"the first argument"`
	// Repository of its chart, for environments that do not have the app yet.
	ChartRepository string `yaml:"chartRepository"`
	// The environments that it is promoted to, in this order.
	Environments []target `yaml:"environments"`
}

// promotionFileName is looked for in the directory and those above it.
const promotionFileName = ".sluice.yaml"

// findPromotionFile gives the nearest file; empty: there is none.
func findPromotionFile() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		name := filepath.Join(dir, promotionFileName)
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
		if above := filepath.Dir(dir); above != dir {
			dir = above
			continue
		}
		return "", nil
	}
}

func readPromotionFile(name string) (*promotionFile, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the list of environments: %w", err)
	}
	defer in.Close()
	d := &decoder{file: name}
	c := &promotionFile{}
	if err := d.decode(in, c); err != nil {
		return nil, err
	}
	if c.APIVersion != "sluice.dev/v1alpha1" {
		d.fault("apiVersion", orMissing(c.APIVersion), "sluice.dev/v1alpha1")
	}
	if c.Kind != "Promotion" {
		d.fault("kind", orMissing(c.Kind), "Promotion")
	}
	seen := map[string]bool{}
	for i, t := range c.Environments {
		at := fmt.Sprintf("environments[%d]", i)
		switch {
		case t.Name == "":
			d.fault(at+".name", "is missing", "the name of the environment")
		case seen[t.Name]:
			d.fault(at+".name", fmt.Sprintf("is %q again", t.Name), "each environment once")
		}
		seen[t.Name] = true
		if t.Repository == "" {
			d.fault(at+".repository", "is missing", "the git URL of the environment repository")
		}
		switch environments.PromotionStrategy(t.Strategy) {
		case "", environments.PromotionAuto, environments.PromotionManual, environments.PromotionNever:
		default:
			d.fault(at+".strategy", fmt.Sprintf("is %q", t.Strategy), "Auto, Manual or Never")
		}
	}
	return c, errors.Join(d.faults...)
}

// targets are the environments that are promoted to, in the order of the file, and the app.
func (f *promoting) targets() ([]target, string, error) {
	name := f.file
	var err error
	given := f.repo != "."
	if name == "" && !given {
		if name, err = findPromotionFile(); err != nil {
			return nil, "", err
		}
	}
	if name == "" {
		if f.all || f.allAuto || len(f.envs) > 1 {
			return nil, "", usagef("--env: several environments are listed in %s, and there is none here; see docs/promotion.md", promotionFileName)
		}
		t := target{Repository: f.repo, Branch: f.branch, Path: f.path, Name: f.environment}
		if len(f.envs) == 1 {
			t.Name = f.envs[0]
		}
		return []target{t}, f.app, nil
	}
	c, err := readPromotionFile(name)
	if err != nil {
		return nil, "", &codedError{exitUsage, err}
	}
	if f.app == "" {
		f.app = c.App
	}
	if f.helmRepoURL == "" {
		f.helmRepoURL = c.ChartRepository
	}
	var all []string
	var out []target
	for _, t := range c.Environments {
		all = append(all, t.Name)
		strategy := environments.PromotionStrategy(t.Strategy)
		switch {
		case f.all && strategy != environments.PromotionNever,
			f.allAuto && strategy == environments.PromotionAuto,
			slices.Contains(f.envs, t.Name):
			out = append(out, t)
		}
	}
	for _, e := range f.envs {
		if !slices.Contains(all, e) {
			return nil, "", usagef("--env: %w", environments.UnknownName("environment", e, name, all))
		}
	}
	if len(out) == 0 {
		return nil, "", usagef("expected --env, --all or --all-auto to name an environment; %s lists %s", name, strings.Join(all, ", "))
	}
	return out, f.app, nil
}

// readVersion finds the version where no flag says it: in the file of skaffold, in VERSION, or in the environment. Empty: the
// chart repository is asked.
func (f *promoting) readVersion() error {
	if f.artifacts != "" {
		return f.readArtifacts()
	}
	if f.version != "" {
		return nil
	}
	text, err := os.ReadFile(f.versionFile)
	switch {
	case err == nil:
		if f.version = strings.TrimSpace(string(text)); f.version == "" {
			return usagef("--version-file: %s is empty, expected a version", f.versionFile)
		}
		return nil
	case !errors.Is(err, os.ErrNotExist) || f.versionFile != "VERSION":
		return usagef("--version-file: %w", err)
	}
	f.version = strings.TrimSpace(os.Getenv("VERSION"))
	return nil
}

// artifact is an image that skaffold has built.
type artifact struct {
	ImageName string `json:"imageName"`
	Tag       string `json:"tag"`
}

// cut takes an image's reference apart; a digest at its end is left out, for the tag names it.
func (a artifact) cut() (repository, tag string, ok bool) {
	ref, _, _ := strings.Cut(a.Tag, "@")
	i := strings.LastIndexByte(ref, ':')
	if i < 0 || strings.Contains(ref[i:], "/") {
		return "", "", false
	}
	return ref[:i], ref[i+1:], ref[i+1:] != ""
}

// readArtifacts takes the version from what skaffold has built: of the one image, or of the one that is named as the app.
func (f *promoting) readArtifacts() error {
	text, err := os.ReadFile(f.artifacts)
	if err != nil {
		return usagef("--build-artifacts: %w", err)
	}
	var built struct {
		Builds []artifact `json:"builds"`
	}
	if err := json.Unmarshal(text, &built); err != nil {
		return usagef("--build-artifacts: %s is no output of skaffold build --file-output: %w", f.artifacts, err)
	}
	found := built.Builds
	if len(found) > 1 {
		found = slices.DeleteFunc(slices.Clone(found), func(a artifact) bool {
			return a.ImageName != f.app && !strings.HasSuffix(a.ImageName, "/"+f.app)
		})
	}
	if len(found) != 1 {
		return usagef("--build-artifacts: %s has %d images, of which %d are named %s; expected one", f.artifacts, len(built.Builds), len(found), f.app)
	}
	repository, tag, ok := found[0].cut()
	if !ok {
		return usagef("--build-artifacts: %q of %s has no tag", found[0].Tag, f.artifacts)
	}
	f.imageRepository = repository
	if f.version == "" {
		f.version = tag
	}
	return nil
}
