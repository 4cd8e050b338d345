package environments

import "testing"

func TestAddressesOfSecrets(t *testing.T) {
	for text, want := range map[string]string{
		"shop: {password: \"vault:production/shop:dbPassword\"}": "values.yaml:1: shop.password",
		"shop:\n  db:\n    password: local:shop:db\n":            "values.yaml:3: shop.db.password",
		"shop:\n  urls:\n  - a\n  - \"https://u vault:p/q:r\"\n": "values.yaml:4: shop.urls.[1]",
		"shop:\n  url: db.svc.cluster.local:5432\n":              "",
		"shop:\n  image: local:5000/shop:1.0\n":                  "",
		"shop:\n  host: vault:8200\n":                            "",
	} {
		doc := newValuesDoc("values.yaml", []byte(text))
		got := ""
		if doc.fault != nil {
			got = doc.fault.Error()
		}
		if want != "" {
			want += ": is the address of a secret, which jx replaces and Sluice does not; " +
				"expected no secret in the values: a Secret that is in the cluster already, named here"
		}
		if got != want {
			t.Errorf("%q:\n%s\nwant %s", text, got, want)
		}
	}
}
