package render

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"helm.sh/helm/v3/pkg/chart"

	"github.com/sluice-cd/sluice/gitsync/redact"
)

// compiledSchema is a values.schema.json.
type compiledSchema struct {
	schema  *jsonschema.Schema
	err     error
	refused []string // URLs that the schema refers to
}

// validate checks values against the schemas of a chart and its subcharts, with Helm's rules and words.
// Unlike Helm it never fetches what a schema refers to, neither files nor URLs: such a part accepts everything,
// and a warning says so.
func validate(c *chart.Chart, values map[string]any) (warnings []string, err error) {
	var faults strings.Builder
	checkSchemas(c, values, &warnings, &faults)
	if faults.Len() > 0 {
		return warnings, fmt.Errorf(
			"values don't meet the specifications of the schema(s) in the following chart(s):\n%s", faults.String())
	}
	return warnings, nil
}

func checkSchemas(c *chart.Chart, values map[string]any, warnings *[]string, faults *strings.Builder) {
	if len(c.Schema) > 0 {
		compiled := compileSchema(c.Schema)
		for _, url := range compiled.refused {
			*warnings = append(*warnings, fmt.Sprintf(
				"the values schema of chart %s refers to %s, which is not fetched: that part is not checked", c.Name(), redact.URL(url)))
		}
		if err := compiled.validate(values); err != nil {
			fmt.Fprintf(faults, "%s:\n%s", c.Name(), schemaFault(err))
		}
	}
	for _, sub := range c.Dependencies() {
		switch v := values[sub.Name()].(type) {
		case nil:
		case map[string]any:
			checkSchemas(sub, v, warnings, faults)
		default:
			fmt.Fprintf(faults, "%s:\ninvalid type for values: expected object (map), got %T\n", sub.Name(), v)
		}
	}
}

const schemaURL = "file:///values.schema.json"

func compileSchema(text []byte) (c *compiledSchema) {
	c = &compiledSchema{}
	defer func() {
		if r := recover(); r != nil {
			c.err = fmt.Errorf("compiling the schema: %v", r)
		}
	}()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		c.err = err
		return c
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(refusingLoader{&c.refused})
	if err := compiler.AddResource(schemaURL, doc); err != nil {
		c.err = err
		return c
	}
	c.schema, err = compiler.Compile(schemaURL)
	if err != nil && len(c.refused) == 0 {
		c.err = err
	}
	return c
}

func (c *compiledSchema) validate(values map[string]any) (err error) {
	if c.err != nil {
		return c.err
	}
	if c.schema == nil {
		// Nothing is left of it without what it refers to; the warning says so.
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("validating against the schema: %v", r)
		}
	}()
	return c.schema.Validate(values)
}

// schemaFault words an error as Helm does.
func schemaFault(err error) string {
	return strings.TrimPrefix(err.Error(), "jsonschema validation failed with '"+schemaURL+"#'\n") + "\n"
}

// refusingLoader answers every reference to another document with a schema that accepts everything.
type refusingLoader struct{ refused *[]string }

func (l refusingLoader) Load(url string) (any, error) {
	*l.refused = append(*l.refused, url)
	return true, nil
}
